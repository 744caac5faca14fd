"""Reads a reply while it streams, as if all of it were there.

Methods that may wait for text are generators, which yield when they need more. What is read may be
kept, at most MAX_HELD characters, to be read again if it was not what it seemed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from msgspec import Struct

from ..marks import overlap
from .jsonscan import JsonScanner

# What a parser tells of a reply, piece by piece.


class TextPiece(Struct, frozen=True):
    """Text of the answer."""

    text: str


class ReasoningPiece(Struct, frozen=True):
    """Text of the reasoning, from formats that read the whole answer."""

    text: str


class CallStart(Struct, frozen=True):
    """A call begins; ``index`` counts the calls of a reply from 0. ``id`` is the model's own, if it
    writes one before the arguments."""

    index: int
    name: str
    id: str = ""


class CallArguments(Struct, frozen=True):
    """A part of the arguments' JSON text; the parts of a complete call join to an object."""

    index: int
    text: str


class CallEnd(Struct, frozen=True):
    """A call ends. ``whole`` is False if the reply ended or became malformed within its
    arguments."""

    index: int
    whole: bool = True


Piece = TextPiece | ReasoningPiece | CallStart | CallArguments | CallEnd


class Opening(Struct, frozen=True):
    """A mark that opens a call; ``end`` is the position behind it in the reply."""

    end: int
    mark: str


class Malformed(Exception):
    """The text read is not a call."""


MAX_HELD = 262_144
"""Maximum characters kept while a call is suspected."""
MAX_NAME = 256

Wait = Generator[None, None, None]
T = TypeVar("T")
Reading = Generator[None, None, T]


class Scanner:
    """The text of a reply, and how far it was read."""

    def __init__(self) -> None:
        self._buffer = ""
        self._at = 0
        self._before = 0  # characters of the reply before the buffer
        self._ended = False
        self._kept: list[str] | None = None
        self._size = 0

    def push(self, text: str) -> None:
        """Appends text."""
        self._before += self._at
        self._buffer = self._buffer[self._at :] + text
        self._at = 0

    def end(self) -> None:
        """Marks the end of the reply."""
        self._ended = True

    @property
    def position(self) -> int:
        """Characters of the reply that were read."""
        return self._before + self._at

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
        literal = yield from self.look(literals)
        if literal is not None:
            self._take(len(literal))
        return literal

    def look(self, literals: Sequence[str]) -> Reading[str | None]:
        """The longest of ``literals`` that comes next, if any, which is not taken."""
        while True:
            rest = self._buffer[self._at : self._at + 2 * MAX_NAME]
            longer = [s for s in literals if len(s) > len(rest) and s.startswith(rest)]
            if not longer or self._ended:
                break
            yield
        return max((s for s in literals if rest.startswith(s)), key=len, default=None)

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

    def char(self) -> Reading[str]:
        """Takes the next character. Raises Malformed at the end of the reply."""
        if not (yield from self.more()):
            raise Malformed
        self._take(1)
        return self._buffer[self._at - 1]

    def chunk(self, stops: str) -> Reading[str]:
        """Takes what is there up to one of these characters: "" if one comes next, or at the end of
        the reply."""
        yield from self.more()
        rest = self._buffer[self._at :]
        end = min((at for stop in stops if (at := rest.find(stop)) >= 0), default=len(rest))
        self._take(end)
        return rest[:end]

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

    def starts(self, literals: Sequence[str]) -> Reading[bool]:
        """Whether one of ``literals`` comes next, behind any white space, or the reply ends there.
        Takes nothing."""
        while True:
            rest = self._buffer[self._at :]
            text = rest.lstrip()
            if text.startswith(tuple(literals)) or (self._ended and not text):
                return True
            waits = len(rest) - len(text) <= MAX_NAME and any(s.startswith(text) for s in literals)
            if self._ended or not waits:
                return False
            yield

    def up_to(
        self, mark: str, sink: Callable[[str], None], before: str = ""
    ) -> Reading[str | None]:
        """Passes text to ``sink`` as it streams, up to ``mark``, which is taken, together with
        ``before`` if that comes directly before it. Returns what was taken; None if the reply ends
        first."""
        marks = (mark, before + mark)
        while True:
            rest = self._buffer[self._at :]
            at = rest.find(mark)
            end = at if at >= 0 else len(rest) - (0 if self._ended else overlap(rest, marks))
            if at >= 0 and before and rest.endswith(before, 0, at):
                end -= len(before)
            if end:
                sink(rest[:end])
                self._take(end)
            if at >= 0:
                self._take(at + len(mark) - end)
                return rest[end : at + len(mark)]
            if self._ended:
                return None
            yield

    def _unread(self, text: str) -> None:
        self._before += self._at - len(text)
        self._buffer = text + self._buffer[self._at :]
        self._at = 0

    def _take(self, count: int) -> None:
        if self._kept is not None and count:
            self._kept.append(self._buffer[self._at : self._at + count])
            self._size += count
            if self._size > MAX_HELD:
                self._at += count
                raise Malformed
        self._at += count
