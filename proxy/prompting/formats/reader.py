"""The streaming reader that all tool-call parsers use.

A format is a generator that reads a :class:`CallReader` as if the whole reply were there and yields
when it needs more text; the parser resumes it with each piece. Decisions depend on the characters
only, so the result does not depend on how the stream is cut into pieces.

While a call is only suspected, the text read is kept (at most MAX_HELD), and emitted as text if it
is not a call. Once the name has been emitted, that is no longer possible: if the call then breaks
off, it ends with ``CallEnd(whole=False)`` and the rest is text again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from msgspec import Struct

from ..marks import first_of, overlap
from .jsonscan import JsonScanner

MAX_HELD = 262_144
"""Maximum characters kept while a call is suspected."""
MAX_NAME = 256
MAX_CALLS = 1024

Wait = Generator[None, None, None]
T = TypeVar("T")
Reading = Generator[None, None, T]
Body = Callable[["CallReader"], Wait]


class TextPiece(Struct, frozen=True):
    """Text of the answer."""

    text: str


class CallStart(Struct, frozen=True):
    """A call begins; ``index`` counts the calls of a reply from 0."""

    index: int
    name: str


class CallArguments(Struct, frozen=True):
    """A part of the arguments' JSON text; the parts of a complete call join to an object."""

    index: int
    text: str


class CallEnd(Struct, frozen=True):
    """A call ends. ``whole`` is False if the reply ended or became malformed within its
    arguments."""

    index: int
    whole: bool = True


Piece = TextPiece | CallStart | CallArguments | CallEnd


class Malformed(Exception):
    """The text read is not a call."""


class CallReader:
    """Reads a reply while it streams. Methods that may wait for text are generators."""

    def __init__(self) -> None:
        self._buffer = ""
        self._at = 0
        self._ended = False
        self._kept: list[str] | None = None
        self._size = 0
        self._open = False
        self.behind_call = False  # only marks and white space since the last call
        self.calls = 0
        # Inside free text with nothing held back: the first characters of marks. Text without them
        # that does not end in white space needs no parsing.
        self.heads: frozenset[str] | None = None
        self.out: list[Piece] = []

    # Called by the parser.

    def push(self, text: str) -> None:
        """Appends text."""
        self._buffer = self._buffer[self._at :] + text
        self._at = 0

    def end(self) -> None:
        """Marks the end of the reply."""
        self._ended = True

    def drain(self) -> list[Piece]:
        """The pieces since the last call; adjacent pieces of one kind are joined."""
        out, self.out = self.out, []
        return out

    # Called by formats to read.

    def more(self) -> Reading[bool]:
        """Waits for a character; False at the end of the reply."""
        while self._at == len(self._buffer):
            if self._ended:
                return False
            yield
        return True

    def peek(self) -> Reading[str]:
        """The next character, "" at the end of the reply."""
        return self._buffer[self._at] if (yield from self.more()) else ""

    def skip(self, literal: str) -> Reading[bool]:
        """Takes ``literal`` if it comes next. A blank at its beginning stands for any white space,
        or none, as in scanf, which is taken in any case."""
        if literal[0] == " ":
            yield from self.spaces()
            literal = literal[1:]
        return (yield from self.skip_one((literal,))) is not None

    def skip_one(self, literals: Sequence[str]) -> Reading[str | None]:
        """Takes the longest of ``literals`` that comes next, if any."""
        while True:
            rest = self._buffer[self._at : self._at + 2 * MAX_NAME]
            longer = [s for s in literals if len(s) > len(rest) and s.startswith(rest)]
            if not longer or self._ended:
                break
            yield
        found = max((s for s in literals if rest.startswith(s)), key=len, default=None)
        if found is not None:
            self._take(len(found))
        return found

    def expect(self, literal: str) -> Wait:
        """Takes ``literal``, as ``skip`` does, or raises Malformed."""
        if not (yield from self.skip(literal)):
            raise Malformed

    def spaces(self) -> Wait:
        """Takes white space."""
        while (yield from self.more()):
            rest = self._buffer[self._at :]
            count = len(rest) - len(rest.lstrip())
            self._take(count)
            if count < len(rest):
                return

    def until(self, mark: str, limit: int = MAX_NAME) -> Reading[str]:
        """Takes the text up to ``mark``, and the mark. Raises Malformed if it does not come within
        the limit."""
        seen = 0
        parts: list[str] = []
        while True:
            at = self._buffer.find(mark, self._at)
            if at >= 0 and seen + at - self._at <= limit:
                parts.append(self._buffer[self._at : at])
                self._take(at + len(mark) - self._at)
                return "".join(parts)
            ready = max(0, len(self._buffer) - self._at - len(mark) + 1)
            if self._ended or at >= 0 or seen + ready > limit:
                raise Malformed
            parts.append(self._buffer[self._at : self._at + ready])
            self._take(ready)
            seen += ready
            yield

    def run(self, allowed: Callable[[str], bool], limit: int = MAX_NAME) -> Reading[str]:
        """Takes characters while they are allowed. Raises Malformed beyond the limit."""
        parts: list[str] = []
        while (yield from self.more()) and allowed(self._buffer[self._at]):
            parts.append(self._buffer[self._at])
            self._take(1)
            if len(parts) > limit:
                raise Malformed
        return "".join(parts)

    def value(self, sink: Callable[[str], None]) -> Wait:
        """Takes a JSON value, passing its text to ``sink`` as it streams."""
        scanner = JsonScanner()
        while not scanner.done:
            if not (yield from self.more()):
                if scanner.finish():
                    return
                raise Malformed
            end, text = scanner.scan(self._buffer, self._at)
            self._take(end - self._at)
            if text:
                sink(text)
            if scanner.failed:
                raise Malformed

    def text_until(self, marks: Sequence[str]) -> Reading[str]:
        """Emits text up to the first of ``marks`` and takes the mark; returns "" at the end of the
        reply.

        White space before a mark and after a call belongs to the format and is removed. No mark may
        be a prefix of another."""
        self._kept = None
        heads = frozenset(mark[0] for mark in marks)
        while True:
            self.heads = None
            rest = self._buffer[self._at :]
            if self.behind_call:
                self._take(len(rest) - len(rest.lstrip()))
                rest = rest.lstrip()
            at, mark = first_of(rest, marks)
            if mark:
                text = rest[:at].rstrip()
                self._text(text)
                self._take(len(text))
                self.keep()
                self._take(at - len(text) + len(mark))
                return mark
            if self._ended:
                self._text(rest)
                self._take(len(rest))
                return ""
            ready = rest[: len(rest) - overlap(rest, marks)].rstrip() if marks else rest
            self._text(ready)
            self._take(len(ready))
            if len(ready) == len(rest) and not self.behind_call:
                self.heads = heads
            yield

    # Called by formats to emit.

    def keep(self) -> None:
        """A call may begin here: keeps the text read from now on."""
        self._kept, self._size = [], 0

    def start(self, name: str) -> None:
        """Begins a call, irrevocably."""
        if not name or self.calls >= MAX_CALLS:
            raise Malformed
        self._kept = None
        self._open = True
        self.out.append(CallStart(self.calls, name))

    def arguments(self, text: str) -> None:
        """Emits a part of the open call's arguments."""
        last = self.out[-1] if self.out else None
        if isinstance(last, CallArguments):
            self.out[-1] = CallArguments(self.calls, last.text + text)
        elif text:
            self.out.append(CallArguments(self.calls, text))

    def finish(self) -> None:
        """Ends the open call."""
        self.out.append(CallEnd(self.calls))
        self._open = False
        self.behind_call = True
        self.calls += 1
        self.keep()

    def call(self, name: str, arguments: str) -> None:
        """Emits a whole call."""
        self.start(name)
        self.arguments(arguments)
        self.finish()

    def degrade(self) -> None:
        """Emits the kept text: it is not a call after all."""
        kept = self._give_up()
        if not self.behind_call or not kept.isspace():
            self._text(kept)

    def rewind(self) -> None:
        """Reads the kept text again, as text that may contain marks: it is not a call after all."""
        self._buffer = self._give_up() + self._buffer[self._at :]
        self._at = 0

    def _give_up(self) -> str:
        if self._open:
            self.out.append(CallEnd(self.calls, whole=False))
            self._open = False
            self.calls += 1
        kept, self._kept = "".join(self._kept or ()), None
        return kept

    def _text(self, text: str) -> None:
        if text:
            self.behind_call = False
            last = self.out[-1] if self.out else None
            if isinstance(last, TextPiece):
                self.out[-1] = TextPiece(last.text + text)
            else:
                self.out.append(TextPiece(text))

    def _take(self, count: int) -> None:
        if self._kept is not None and count:
            self._kept.append(self._buffer[self._at : self._at + count])
            self._size += count
            if self._size > MAX_HELD:
                self._at += count
                raise Malformed
        self._at += count
