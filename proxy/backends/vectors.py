"""Embeddings and rankings from server.cpp of any version.

A 2023 server accepts one text per call at /embedding, silently truncates a long one, does not
normalize, and returns zeros if it was started without --embedding; if busy, it answers 200 with
"slot unavailable". Only llama-server ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from ..core.decoding import LONGEST
from ..core.task import Embedded, Ranked
from ..errors import BackendBusy, Unsupported, UpstreamFault
from ..runtime.cancel import Cancel
from ..wire import lenient
from .driver import Capabilities, Input
from .refusals import check_cost

T = TypeVar("T", bound=Struct)
VECTORS = 4 * LONGEST  # nanoseconds to decode the vectors of one call: 32 of 8192 dimensions

Ask = Callable[[str, object, Cancel], bytes]
"""(path, body, cancel) -> the answer. Raises the backend's refusal."""


def embed(ask: Ask, inputs: Sequence[Input], caps: Capabilities, cancel: Cancel) -> Embedded:
    """Embed the inputs. `tokens` is 0 if the server does not report it. Raises Unsupported,
    BackendBusy and the errors of `ask`."""
    if not caps.queues:
        (text,) = inputs
        data = ask("/embedding", {"content": text}, cancel)
        if b"slot unavailable" in data[:100]:
            raise BackendBusy("the backend has no free slot", detail="slot unavailable")
        embedded = Embedded((_decode(data, _OldAnswer).embedding,), 0)
    else:
        data = ask("/v1/embeddings", {"input": list(inputs)}, cancel)
        answer = _decode(data, _NewAnswer)
        answer.data.sort(key=lambda item: item.index)
        if [item.index for item in answer.data] != list(range(len(inputs))):
            raise UpstreamFault("the backend did not return one embedding per input")
        vectors = tuple(item.embedding for item in answer.data)
        embedded = Embedded(vectors, answer.usage.prompt_tokens)
    if not all(map(any, embedded.vectors)):
        raise Unsupported("the backend returned empty embeddings: start it with its embedding flag")
    return embedded


def rerank(
    ask: Ask, query: str, documents: Sequence[str], caps: Capabilities, cancel: Cancel
) -> Ranked:
    """Score the documents. Raises Unsupported and the errors of `ask`."""
    if not caps.queues:
        raise Unsupported(
            f"reranking is not supported by this backend (server.cpp, {caps.dialect})"
        )
    answer = _decode(ask("/v1/rerank", {"query": query, "documents": documents}, cancel), _Ranking)
    scores = {score.index: score.relevance_score for score in answer.results}
    if set(scores) != set(range(len(documents))):
        raise UpstreamFault("the backend did not return one score per document")
    return Ranked(tuple(scores[i] for i in range(len(documents))), answer.usage.prompt_tokens)


def _decode(data: bytes, kind: type[T]) -> T:
    check_cost(data, VECTORS)
    try:
        with contextlib.suppress(ValueError, RecursionError):
            return msgspec.json.decode(data, type=kind)
        return lenient.decode(data, kind)
    except lenient.WireFault:
        raise UpstreamFault("the backend returned an invalid response") from None


class _OldAnswer(Struct):
    embedding: list[float]


class _Usage(Struct, frozen=True):
    prompt_tokens: int = 0


class _Item(Struct):
    embedding: list[float]
    index: int = 0


class _NewAnswer(Struct):
    data: list[_Item]
    usage: _Usage = _Usage()


class _Score(Struct):
    index: int
    relevance_score: float


class _Ranking(Struct):
    results: list[_Score]
    usage: _Usage = _Usage()
