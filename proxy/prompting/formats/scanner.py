"""Reads a reply while it streams, as if all of it were there.

Methods that may wait for text are generators, which yield when they need more. What is read may be
kept, at most MAX_HELD characters, to be read again if it was not what it seemed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from msgspec import Struct

from ..marks import overlap

# Finds the end of a JSON value in a stream and validates it, reading each character once.
#
# The value is RFC 8259 JSON with one exception: raw control characters in strings (models write
# newlines into code) are escaped, so the output is always valid JSON. The scanner stops at the
# first character that cannot belong to the value.

MAX_DEPTH = 128

_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_SPACE = re.compile(r"[ \t\n\r]*")
_TOKEN = re.compile(r"[-+.0-9A-Za-z]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_NUMBER_HEAD = re.compile(
    r"-?(?:(?:0|[1-9][0-9]*)(?:\.(?:[0-9]+(?:[eE][-+]?[0-9]*)?)?|[eE][-+]?[0-9]*)?)?"
)
_WORDS = ("true", "false", "null")
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}


class JsonScanner:
    """Scans one value. ``done`` or ``failed`` is set once :meth:`scan` has stopped for good."""

    __slots__ = ("_escape", "_stack", "_state", "_token", "done", "failed")

    def __init__(self) -> None:
        self.done = False
        self.failed = False
        self._stack: list[str] = []  # open "{" and "["
        # value | first (value or "]") | key | firstkey (key or "}") | colon | next (comma or end)
        # | string | keystring | token
        self._state = "value"
        self._escape = 0  # remaining characters of an escape; -1: its letter
        self._token = ""

    def scan(self, text: str, start: int = 0) -> tuple[int, str]:
        """Continues at ``text[start:]``; returns where it stopped and the JSON it passed."""
        out: list[str] = []
        at = start
        while at < len(text) and not (self.done or self.failed):
            if self._state in ("string", "keystring"):
                at = self._in_string(text, at, out)
            elif self._state == "token":
                at = self._in_token(text, at, out)
            else:
                at = self._between(text, at, out)
        return at, "".join(out)

    def finish(self) -> bool:
        """At the end of the text: whether the value is complete (a bare number may be)."""
        if not self.done and not self.failed and self._state == "token" and not self._stack:
            self._end_token()
        return self.done

    def _in_string(self, text: str, at: int, out: list[str]) -> int:
        if self._escape:
            return self._in_escape(text, at, out)
        match = _PLAIN.match(text, at)
        assert match is not None
        end = match.end()
        if end < len(text):
            char = text[end]
            if char == '"':
                end += 1
                if self._state == "string":
                    self._after_value()
                else:
                    self._state = "colon"
            elif char == "\\":
                end += 1
                self._escape = -1
            else:
                out.append(text[at:end])
                out.append(_ESCAPES.get(char) or f"\\u{ord(char):04x}")
                return end + 1
        out.append(text[at:end])
        return end

    def _in_escape(self, text: str, at: int, out: list[str]) -> int:
        char = text[at]
        if self._escape == -1:
            if char not in '"\\/bfnrtu':
                self.failed = True
                return at
            self._escape = 4 if char == "u" else 0
        else:
            if char not in "0123456789abcdefABCDEF":
                self.failed = True
                return at
            self._escape -= 1
        out.append(char)
        return at + 1

    def _in_token(self, text: str, at: int, out: list[str]) -> int:
        match = _TOKEN.match(text, at)
        assert match is not None
        # Character by character, since numbers and words are short.
        for end in range(at, match.end()):
            token = self._token + text[end]
            if len(token) > 400 or not _may_be(token):
                self.failed = True
                out.append(text[at:end])
                return end
            self._token = token
        out.append(text[at : match.end()])
        if match.end() < len(text):
            self._end_token()
        return match.end()

    def _end_token(self) -> None:
        if self._token in _WORDS or _NUMBER.fullmatch(self._token):
            self._token = ""
            self._after_value()
        else:
            self.failed = True

    def _between(self, text: str, at: int, out: list[str]) -> int:
        match = _SPACE.match(text, at)
        assert match is not None
        if match.end() > at:
            out.append(text[at : match.end()])
            return match.end()
        char = text[at]
        if not self._take(char):
            self.failed = True
            return at
        if self._state != "token":
            out.append(char)
            return at + 1
        return at  # _in_token reads the whole token

    def _take(self, char: str) -> bool:
        """Whether a character may follow here; updates the state."""
        state = self._state
        if state in ("value", "first"):
            if char in "{[":
                self._stack.append(char)
                self._state = "firstkey" if char == "{" else "first"
                return len(self._stack) <= MAX_DEPTH
            if char == "]" and state == "first":
                self._close()
            elif char == '"':
                self._state = "string"
            elif char in "-0123456789tfn":
                self._state = "token"
            else:
                return False
        elif state in ("key", "firstkey"):
            if char == '"':
                self._state = "keystring"
            elif char == "}" and state == "firstkey":
                self._close()
            else:
                return False
        elif state == "colon":
            self._state = "value"
            return char == ":"
        elif char == ",":
            self._state = "key" if self._stack[-1] == "{" else "value"
        elif char == ("}" if self._stack[-1] == "{" else "]"):
            self._close()
        else:
            return False
        return True

    def _close(self) -> None:
        self._stack.pop()
        self._after_value()

    def _after_value(self) -> None:
        self._state = "next"
        self.done = not self._stack


def _may_be(token: str) -> bool:
    return bool(_NUMBER_HEAD.fullmatch(token)) or any(w.startswith(token) for w in _WORDS)


def is_json(text: str) -> bool:
    """Whether ``text`` is one JSON value, nested at most MAX_DEPTH deep."""
    scanner = JsonScanner()
    end, _ = scanner.scan(text)
    return scanner.finish() and not text[end:].strip(" \t\n\r")


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
