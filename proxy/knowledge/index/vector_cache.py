"""Vectors of chunks that were indexed before, so that a base is rebuilt without its model."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from hashlib import sha256

from ...store.text_vectors import TextVectors

Vectors = Sequence[tuple[float, ...]]


class VectorCache:
    """Vectors in the database, as 32-bit floats in little-endian order, by content: text and
    `model`, a name that stands for the same vectors forever. Thread-safe."""

    def __init__(self, kept: TextVectors, model: str) -> None:
        self._kept = kept
        self._model = model

    def completed(
        self, base: str, texts: Sequence[str], make: Callable[[Sequence[str]], Vectors]
    ) -> Vectors:
        """The vectors of the texts, for the owner of the base; `make` is called with those texts
        whose vectors are unknown. Raises what `make` raises, and StoreUnavailable."""
        digests = [self._digest(text) for text in texts]
        found = self._kept.recall(base, list(dict.fromkeys(digests)))
        known = {key: _floats(packed) for key, packed in found.items()}
        missing = {key: text for key, text in zip(digests, texts, strict=True) if key not in known}
        if missing:
            made = dict(zip(missing, make([*missing.values()]), strict=True))
            self._kept.keep(base, {key: _packed(vector) for key, vector in made.items()})
            known |= made
        return [known[key] for key in digests]

    def _digest(self, text: str) -> bytes:
        return sha256(f"{self._model}\0{text}".encode("utf-8", "replace")).digest()


def _packed(vector: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(vector)}f", *vector)


def _floats(packed: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(packed) // 4}f", packed)
