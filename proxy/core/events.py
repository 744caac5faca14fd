"""The events of a completion: the common vocabulary of drivers and encoders.

    Started Compacted?
    (TextDelta | ReasoningDelta | ToolCallDelta | Withdrawn | Step | Progress | TokenDetail)*
    (Finished | Failed)

A stream is an iterator of batches, which are lists of events: those of one read of the upstream
socket. A Step is what the gateway does for the model. `Order` checks the order above once, between
drivers and encoders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from .mcp import ServerCall as ServerCall
from .request import Tool
from .usage import Timings, Usage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class TokenLogprob(Struct, frozen=True):
    """A token with its bytes and the natural logarithm of its probability. `id` is its number in
    the vocabulary, -1 if the backend does not report it. `top` are the tokens that could have been
    chosen instead."""

    token: str
    logprob: float
    data: bytes = b""
    top: tuple[TokenLogprob, ...] = ()
    id: int = -1


class Started(Struct, frozen=True):
    """The backend accepted the request. `slot` is -1 until it reports its number; `prompt` is the
    prompt's size in tokens, 0 until it is reported."""

    slot: int = -1
    prompt: int = 0


class Compacted(Struct, frozen=True):
    """The prompt was too long: its oldest `messages`, except for system messages at the start,
    were replaced by a `summary`. `usage` is what that cost. Of several, the last one tells the
    prompt."""

    messages: int
    summary: str
    usage: Usage = Usage()

    def after(self, earlier: Compacted | None) -> Compacted:
        if earlier is None:
            return self
        return Compacted(self.messages, self.summary, earlier.usage + self.usage)


class TextDelta(Struct, frozen=True):
    """Text of the answer, never part of a character; `pieces` is its number of tokens. The text
    of one read is one delta, unless each token has logprobs."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    pieces: int = 1


class Withdrawn(Struct, frozen=True):
    """The last `characters` of the text so far, or of the reasoning, are no part of the answer: the
    model repeated itself. Only in answers that are not streamed."""

    characters: int
    reasoning: bool = False


class ReasoningDelta(Struct, frozen=True):
    """The model's reasoning, which is not part of its answer."""

    text: str


class ToolCallDelta(Struct, frozen=True):
    """A piece of a tool call. The first one of an index has id and name; the others extend
    `arguments`."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Citation(Struct, frozen=True, kw_only=True):
    """A source of an answer. `number` is the one that the text cites in brackets, [1]; 0 for a
    search result that has none yet. A document has ids, a human-readable `place` and a `score` from
    0 to 1; a web result has a `url`. `text` is what the model receives."""

    title: str
    text: str
    number: int = 0
    place: str = ""
    url: str = ""
    base_id: str = ""
    document_id: str = ""
    chunk_id: str = ""
    score: float = 0.0


NONE_FOUND = "No results."


def passages(citations: Sequence[Citation]) -> str:
    """The results of a search, as the model reads them."""
    parts = []
    for citation in citations:
        place = f" ({citation.place})" if citation.place else ""
        head = " ".join(f"{citation.title}{place}".split())
        parts.append(f"[{citation.number}] {head}\n{citation.text.strip()}")
    return "\n\n".join(parts)


class Searched(Struct, frozen=True):
    """A search that the gateway runs for the model: one event when it begins, and another, with the
    results or the code of an `error` (max_uses_exceeded, too_many_requests, unavailable), when it
    is `over`."""

    kind: Literal["file", "web"]
    query: str
    over: bool = False
    found: tuple[Citation, ...] = ()
    error: str = ""


class ToolsListed(Struct, frozen=True):
    """The tools of an MCP server that the model may call. `error`: the server did not list them."""

    label: str
    tools: tuple[Tool, ...] = ()
    error: str = ""


class ApprovalRequested(Struct, frozen=True):
    """A call that the client must approve. The answer ends with it."""

    label: str
    name: str
    arguments: str


class Progress(Struct, frozen=True):
    """Progress of the prompt's evaluation in tokens, and the milliseconds so far; `timings` only if
    requested."""

    total: int
    cached: int
    processed: int
    ms: float = 0.0
    timings: Timings | None = None


class TokenDetail(Struct, frozen=True):
    """What the backend reports about the token before this event, if the request's `report` asks
    for it: the timings so far, and the token ids."""

    timings: Timings | None = None
    tokens: tuple[int, ...] = ()


class Finished(Struct, frozen=True, kw_only=True):
    """The answer is complete, or was cut by a limit (`reason` length). `settings` and `prompt`
    are those the backend used, if the request's `report` asks for them; token ids if they are no
    text."""

    reason: FinishReason
    usage: Usage
    timings: Timings = Timings()
    slot: int = -1
    truncated: bool = False
    stop_sequence: str = ""
    settings: Mapping[str, Any] | None = None
    prompt: str | tuple[int, ...] | None = None


class Failed(Struct, frozen=True):
    """The stream broke after it began. `error` is the exception, which the dialect formats."""

    error: Exception


Step = Searched | ToolsListed | ServerCall | ApprovalRequested
Piece = TextDelta | ReasoningDelta | ToolCallDelta  # of what the model writes
Event = Started | Compacted | Piece | Withdrawn | Step | Progress | TokenDetail | Finished | Failed
Batch = list[Event]
LAST = frozenset({Finished, Failed})


class OrderError(AssertionError):
    """A driver or stage broke the order of events, which is a defect in slotproxy."""


class Order:
    """Checks one stream. `flows`: it has begun and not ended, so any delta may follow."""

    flows = _ended = False

    def see(self, batch: Batch) -> None:
        """Raises OrderError at the first event out of order."""
        flows = self.flows
        for kind in map(type, batch):
            if flows and kind is not Started:
                if kind in LAST:
                    flows, self._ended = False, True
            elif self._ended:
                raise OrderError(f"{kind.__name__} after the end")
            elif flows or kind is not Started:
                raise OrderError(f"{kind.__name__} {'again' if flows else 'before Started'}")
            else:
                flows = True
        self.flows = flows

    def end(self) -> None:
        """Raises OrderError if the stream had no terminal event."""
        if not self._ended:
            raise OrderError("the stream ended without Finished or Failed")
