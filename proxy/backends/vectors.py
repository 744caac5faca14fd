"""Embeddings and rankings from a server.cpp of any age.

Today's llama-server takes many texts at once at /v1/embeddings. A 2023 server takes one text a call
at /embedding, cuts a long one silently, does not normalise, and gives zeros when it was started
without --embedding; busy, it answers 200 with "slot unavailable". Only llama-server ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

import msgspec
from msgspec import Struct

from ..cancel import Cancel
from ..core.decoding import LONGEST
from ..core.vectors import Embedded, Ranked, is_zero
from ..errors import BackendBusy, BadRequest, GatewayError, Unsupported, UpstreamFault
from ..wire import lenient
from .cost import check_cost
from .driver import Capabilities

T = TypeVar("T", bound=Struct)
Input = str | tuple[int, ...]


@runtime_checkable
class Embeds(Protocol):
    """A driver whose server makes embeddings and rankings."""

    def embed(self, inputs: Sequence[Input], caps: Capabilities, cancel: Cancel) -> Embedded:
        """At most `at_once(caps)` inputs. Raises Unsupported where the server cannot."""

    def rerank(
        self, query: str, documents: Sequence[str], caps: Capabilities, cancel: Cancel
    ) -> Ranked:
        """Raises Unsupported where the server cannot."""


VECTORS = 4 * LONGEST  # nanoseconds to decode the vectors of one call: 32 of 8192 dimensions


class Ask(Protocol):
    def __call__(self, path: str, body: object, cancel: Cancel) -> tuple[int, bytes]: ...


class Refusal(Protocol):
    def __call__(self, status: int, data: bytes) -> GatewayError: ...


def at_once(caps: Capabilities) -> int:
    """How many inputs one call may have."""
    return 32 if caps.queues else 1


def embed(
    ask: Ask, refusal: Refusal, inputs: Sequence[Input], caps: Capabilities, cancel: Cancel
) -> Embedded:
    """Raises Unsupported, BadRequest, BackendBusy and what `ask` does. `tokens` is 0 where the
    server did not tell."""
    if not caps.queues:
        (text,) = inputs
        vector = _old(ask, refusal, text, cancel)
        found = Embedded((vector,), 0)
    else:
        status, data = ask("/v1/embeddings", {"input": list(inputs)}, cancel)
        if status != 200:
            raise _refused(refusal, status, data)
        answer = _decode(data, _NewAnswer)
        answer.data.sort(key=lambda one: one.index)
        if [one.index for one in answer.data] != list(range(len(inputs))):
            raise UpstreamFault("the backend did not give a vector for each input")
        found = Embedded(tuple(one.embedding for one in answer.data), answer.usage.prompt_tokens)
    if any(not v or is_zero(v) for v in found.vectors):
        raise Unsupported(
            "the backend gives empty embeddings: it must be started with its embedding flag"
        )
    return found


def _old(ask: Ask, refusal: Refusal, text: Input, cancel: Cancel) -> list[float]:
    status, data = ask("/embedding", {"content": text}, cancel)
    if status != 200:
        raise _refused(refusal, status, data)
    if b"slot unavailable" in data[:100]:
        raise BackendBusy("the backend has no free slot", detail="slot unavailable")
    return _decode(data, _OldAnswer).embedding


def rerank(
    ask: Ask,
    refusal: Refusal,
    query: str,
    documents: Sequence[str],
    caps: Capabilities,
    cancel: Cancel,
) -> Ranked:
    """Raises Unsupported, BadRequest and what `ask` does."""
    if not caps.queues:
        raise Unsupported(f"a server.cpp of {caps.dialect} cannot rank")
    body = {"query": query, "documents": documents}
    status, data = ask("/v1/rerank", body, cancel)
    if status != 200:
        raise _refused(refusal, status, data)
    answer = _decode(data, _Ranking)
    scores = {one.index: one.relevance_score for one in answer.results}
    if set(scores) != set(range(len(documents))):
        raise UpstreamFault("the backend did not give a score for each document")
    return Ranked(tuple(scores[i] for i in range(len(documents))), answer.usage.prompt_tokens)


def _refused(refusal: Refusal, status: int, data: bytes) -> GatewayError:
    if b"too large to process" in data:
        return BadRequest("an input is longer than the backend can embed at once", param="input")
    if b"Pooling type 'none'" in data:
        return Unsupported("the backend must be started with a --pooling type other than none")
    return refusal(status, data)


def _decode(data: bytes, kind: type[T]) -> T:
    check_cost(data, VECTORS)
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError):
        pass
    try:
        return lenient.decode(data, kind)
    except lenient.WireFault:
        raise UpstreamFault("the backend's answer is garbled") from None


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
