"""What a backend is asked for: a completion, rendered and checked, vectors, or a forwarded call."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from .request import CompletionRequest, Message
from .usage import Usage


class ContentGuard:
    """Knows the control tokens of a chat template, and keeps those in contents from acting. This
    one knows none."""

    def breaks(self, text: str) -> tuple[int, ...]:
        """The offsets, ascending, at which a text that the model wrote must be cut."""
        return ()

    def disarmed(self, request: CompletionRequest) -> CompletionRequest:
        """The request with its control tokens altered invisibly, for a backend that renders the
        prompt; the same request if it has none."""
        return request


NO_GUARD = ContentGuard()


class Task(Struct, frozen=True, kw_only=True):
    """What a driver gets."""

    prompt: str | tuple[int, ...]
    # Ascending offsets in it that no token may span: a content has a control token there.
    breaks: tuple[int, ...] = ()
    boundaries: tuple[int, ...] = ()  # where a message ends, and a cached prefix may
    suffix: str | None = None  # requests an infill if it is not None
    sampling: Mapping[str, Any] = {}
    max_tokens: int | None = None
    stop_tokens: tuple[str, ...] = ()  # the template's end marks, for the backend
    stop_strings: tuple[str, ...] = ()  # matched by the gateway
    logprobs: int | None = None
    call_format: Any = None  # how the model writes tool calls,
    syntax: Any = None  # and answers: values of `prompting`
    thinks: bool = False  # it may write reasoning first
    # The backend gets messages and renders the prompt itself: the request's, or `messages`, with
    # this effort.
    backend_templates: bool = False
    messages: tuple[Message, ...] = ()
    effort: str = ""
    media: frozenset[str] = frozenset()
    schema_gaps: tuple[str, ...] = ()  # keywords that the grammar of the answer leaves out,
    tool_gaps: tuple[str, ...] = ()  # and of the calls
    unknown_template: bool = False  # a backend that renders the prompt is preferred
    kinds: tuple[str, ...] = ()  # of the conversation that only the backend renders rightly
    described: bool = False  # the messages describe tools or format, which the backend lacks
    key: str = ""  # the name of the API key
    guard: ContentGuard = NO_GUARD  # finds the breaks of a text that is put behind the prompt
    request: CompletionRequest = CompletionRequest()

    @property
    def text(self) -> str:
        """The prompt, "" if it is not text."""
        return self.prompt if isinstance(self.prompt, str) else ""

    @property
    def is_unconstrained(self) -> bool:
        """Whether the answer is not constrained by tools, a document format or a grammar."""
        if self.call_format is not None or self.request.output.kind != "text":
            return False
        return not self.sampling.get("grammar")


# The place of a backend in the route of its model.


class Tier(Struct, frozen=True, array_like=True):
    """`number` counts the tiers of a route from 0. The next tier is used if no backend of this
    one is up, or if a request would wait for more than `overflow_after` seconds in all."""

    number: int = 0
    name: str = ""
    overflow_after: float = math.inf


NO_TIER = Tier()


# Embedding vectors and rankings: plain numbers with a little arithmetic.

Vector = Sequence[float]


class Embedded(Struct, frozen=True):
    """A vector for each input, in order; `tokens` is the total number of input tokens."""

    vectors: tuple[Vector, ...]
    tokens: int


class Ranked(Struct, frozen=True):
    """A score for each document, in order; a higher one is closer to the query."""

    scores: tuple[float, ...]
    tokens: int


def normalised(vector: Vector) -> list[float]:
    """The vector scaled to length 1; a zero vector is unchanged."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    return [x / length for x in vector] if length else list(vector)


# A request to write down what a recording says: the fields of OpenAI's form, checked, and the
# tokens that it counts.

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
TIMED = frozenset(("srt", "verbose_json", "vtt"))  # formats with the times of each sentence

TAIL = 4096  # bytes of an answer that may have its usage
TOKENS_OF_A_SECOND = 10  # as OpenAI's Realtime API counts what it hears
MOST_SECONDS = 10**8  # of a recording; a server that says more is not believed
_USAGE = re.compile(rb'"((?:input|output|cached)_tokens|seconds)"\s*:\s*(\d{1,9}(?:\.\d{1,20})?)\b')


class Hearing(Struct, frozen=True, kw_only=True):
    """`language` is a code, "" to detect it. With `words` or `segments`, verbose_json has their
    times."""

    language: str = ""
    prompt: str = ""
    temperature: str = ""  # a number from 0 to 1, "" for that of the server
    format: Format = "json"
    stream: bool = False
    words: bool = False
    segments: bool = True


def usage_heard(data: bytes) -> Usage:
    """The tokens that the end of an answer reports; for seconds, as many as they count for."""
    end = data[-TAIL:]
    counts = {name: float(count) for name, count in _USAGE.findall(end[end.rfind(b'"usage"') :])}
    heard = counts.get(b"input_tokens") or tokens_of(counts.get(b"seconds", 0.0))
    return Usage(
        int(heard),
        int(counts.get(b"output_tokens", 0)),
        cached=int(counts.get(b"cached_tokens", 0)),
    )


def tokens_of(seconds: float) -> int:
    """What a recording of so many seconds counts in limits and the ledger."""
    return math.ceil(seconds * TOKENS_OF_A_SECOND) if 0 < seconds < MOST_SECONDS else 0


# A client's request that a model's server gets as it is, and the answer: audio, images and other
# APIs that the gateway does not translate.


class CallBody(Struct, frozen=True):
    """A body of `size` bytes. `parts` may be iterated more than once, because a request is sent
    again on a new connection if the server had closed the old one."""

    size: int
    parts: Iterable[bytes]


class CallForm(Protocol):
    """The form of a call with a recording, for a server with fields of its own."""

    def hearing(self) -> Hearing:
        """Raises InvalidParameter."""

    def written(self, values: Sequence[tuple[str, str]]) -> CallBody:
        """The form's files with these fields instead of the client's."""


class Call(Struct, frozen=True):
    """`path` begins with a slash; it is percent-encoded and ends with the query. `headers` are the
    client's that the server may see. Their names and values contain no line breaks. `form` is what
    the body was made of, if that is a form."""

    method: str
    path: str
    headers: Mapping[str, str] = {}
    body: CallBody | None = None
    form: CallForm | None = None


# Makes the call once its server is known, from the server's name for the model; "" stands for the
# name in the request.
CallMaker = Callable[[str], Call]


class Forwarded(Protocol):
    """The answer of a server. `headers` are those about its content, by names in lower case.
    `closing` is called once, at the end, with whether the answer came whole."""

    closing: list[Callable[[bool], object]]

    @property
    def usage(self) -> Usage | None:
        """The tokens of a recording; None if the body is to be searched for them."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def __iter__(self) -> Iterator[bytes]:
        """The body as it arrives. Raises the errors of a driver."""

    def close(self) -> None:
        """End the answer. Safe to call again."""
