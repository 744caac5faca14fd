"""What happens while a completion is made: the one vocabulary between drivers and encoders.

    Started (TextDelta | ReasoningDelta | ToolCallDelta | Searched | Progress | TokenDetail)*
    (Finished | Failed)

A stream is an iterator of batches, lists of events: all that one read of the upstream's socket
brought. Every stage works on a batch at a time, so what came together leaves in one write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from .usage import Timings, Usage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class Alternative(Struct, frozen=True):
    """A token that could have been chosen. `logprob` is a natural logarithm; `id` is the token's
    number in the vocabulary, -1 where the backend does not name it."""

    token: str
    logprob: float
    data: bytes = b""
    id: int = -1


class TokenLogprob(Struct, frozen=True):
    """A chosen token with its logarithmic probability, its bytes, the runners-up, and its id (-1
    where the backend does not name it)."""

    token: str
    logprob: float
    data: bytes = b""
    top: tuple[Alternative, ...] = ()
    id: int = -1


class Started(Struct, frozen=True):
    """The backend took the request. `slot` is -1 while it has not said which; `prompt` is the
    prompt's size in tokens, 0 while it has not said."""

    backend: str = ""
    slot: int = -1
    prompt: int = 0


class TextDelta(Struct, frozen=True):
    """Text of the answer; never a part of a character. It came in so many `pieces`, which are
    tokens: what one read brought is one delta, unless each token has logprobs of its own."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    pieces: int = 1


class ReasoningDelta(Struct, frozen=True):
    """Text the model thinks, apart from its answer."""

    text: str


class ToolCallDelta(Struct, frozen=True):
    """A piece of a call: the first of an index has id and name, the rest add to `arguments`."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Found(Struct, frozen=True):
    """A result of a search. `number` is the one the text names in brackets; a file has an id and a
    `score` from 0 to 1, a page its `url`."""

    number: int
    title: str
    text: str
    url: str = ""
    file_id: str = ""
    score: float = 0.0


class Searched(Struct, frozen=True):
    """A search the gateway makes for the model, told when it begins and again, with what it
    `found`, when it is `over`; `failed`: it could not be made."""

    kind: Literal["file", "web"]
    query: str
    over: bool = False
    found: tuple[Found, ...] = ()
    failed: bool = False


class Progress(Struct, frozen=True):
    """Prompt evaluation so far, in tokens, and the milliseconds it took; `timings` only where the
    request wants them."""

    total: int
    cached: int
    processed: int
    ms: float = 0.0
    timings: Timings | None = None


class TokenDetail(Struct, frozen=True):
    """What the backend reports of the token before this event, for requests whose `report` wants
    it: the timings up to there, and the ids of the tokens."""

    timings: Timings | None = None
    tokens: tuple[int, ...] = ()


class Finished(Struct, frozen=True):
    """The answer is whole, or was cut by a limit (`reason` length). `settings` and `prompt` are
    what the backend used, for requests whose `report` wants them. A prompt is token ids where the
    backend cannot write them as text."""

    reason: FinishReason
    usage: Usage
    timings: Timings = Timings()
    slot: int = -1
    truncated: bool = False
    stop_sequence: str = ""
    settings: Mapping[str, Any] | None = None
    prompt: str | tuple[int, ...] | None = None


class Failed(Struct, frozen=True):
    """The stream broke after it began. `error` is the exception, to be said in the dialect."""

    error: Exception


Event = (
    Started
    | TextDelta
    | ReasoningDelta
    | ToolCallDelta
    | Searched
    | Progress
    | TokenDetail
    | Finished
    | Failed
)
Batch = list[Event]
