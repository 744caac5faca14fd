"""Vectors of chunks that were indexed before, so that a base is rebuilt without its model."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Sequence

from ...core.kept import BoundedCache, digest

KEPT = 32 << 20  # bytes of vectors: about 15 000 of 512 dimensions
ENTRY = 200  # bytes besides a vector

Vectors = Sequence[tuple[float, ...]]


class VectorCache:
    """Vectors by base, model and text, in memory. No base sees another's: an answer that comes
    sooner would tell that a text is there. For models that never change under their name.
    Thread-safe."""

    def __init__(self) -> None:
        self._kept: BoundedCache[array[float]] = BoundedCache(KEPT)
        self._lock = threading.Lock()

    def completed(
        self, base: str, model: str, texts: Sequence[str], make: Callable[[Sequence[str]], Vectors]
    ) -> Vectors:
        """The vectors of the texts; `make` is called with those texts whose vectors are unknown.
        Raises what `make` raises."""
        keys = [digest("\0".join((base, model, text)).encode("utf-8", "replace")) for text in texts]
        with self._lock:
            known = {key: vector for key in keys if (vector := self._kept.get(key)) is not None}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            made = dict(zip(missing, make([*missing.values()]), strict=True))
            known |= {key: array("f", vector) for key, vector in made.items()}
            with self._lock:
                for key in made:
                    self._kept.put(key, known[key], ENTRY + 4 * len(known[key]))
        return [tuple(known[key]) for key in keys]
