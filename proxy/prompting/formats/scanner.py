"""What is found in a stream of text: marks, code in Markdown, and the end of a JSON value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import NoReturn


def first_of(text: str, marks: Sequence[str]) -> tuple[int, str]:
    """Position and text of the first mark, the longer of two at one position; -1 if there is
    none."""
    places = [(text.find(mark), -len(mark), mark) for mark in marks]
    at, _, mark = min((place for place in places if place[0] >= 0), default=(-1, 0, ""))
    return at, mark


def overlap(text: str, marks: Iterable[str]) -> int:
    """Length of the longest tail that may become a mark."""
    longest = 0
    for mark in marks:
        for length in range(min(len(mark) - 1, len(text)), longest, -1):
            if text.endswith(mark[:length]):
                longest = length
                break
    return longest


def common_start(text: str, other: str) -> str:
    size = min(len(text), len(other))
    return text[: next((at for at in range(size) if text[at] != other[at]), size)]


def common_end(text: str, other: str) -> str:
    return common_start(text[::-1], other[::-1])[::-1]


# Where in Markdown a streamed text stands. A model quotes the mark of a call as code or in a
# sentence; a call that it means begins a line.

_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
_HEAD = 80  # characters of a line in which a fence may stand


class Place:
    """``feed`` it the text. A span of code ends with its line at the latest, so that one stray
    backtick does not hide what follows."""

    __slots__ = ("_fence", "_head", "_ticks", "is_fresh")

    def __init__(self) -> None:
        self.is_fresh = True
        """Whether a line begins here, but for white space."""
        self._fence = ""  # the marks that opened the block of code in which the line began
        self._head = ""  # of the line
        self._ticks = 0  # backticks of the line

    def is_code_behind(self, spaces: str) -> bool:
        """Whether the place behind these white spaces is inside a block or a span of code."""
        return bool(self._open_fence()) or (self._ticks % 2 == 1 and "\n" not in spaces)

    def feed(self, text: str) -> None:
        lines = text.split("\n") if "\n" in text else [text]
        self._add(lines[0])
        for line in lines[1:]:
            self._fence = self._open_fence()
            self._head, self._ticks, self.is_fresh = "", 0, True
            self._add(line)

    def _add(self, text: str) -> None:
        if len(self._head) < _HEAD:
            self._head += text[:_HEAD]
        self._ticks += text.count("`")
        self.is_fresh = self.is_fresh and (not text or text.isspace())

    def _open_fence(self) -> str:
        """The marks of the block that is open behind the line so far, "" for none."""
        fence = _FENCE.match(self._head)
        if fence is None:
            return self._fence
        if not self._fence:
            return fence[1]
        return "" if fence[1].startswith(self._fence) else self._fence


# The end of a JSON value.

MAX_DEPTH = 128

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_SPACE = re.compile(r"[ \t\n\r]+")
_WORD = re.compile(r"[-+.0-9A-Za-z]+")
_BETWEEN = re.compile(r"[-+.0-9A-Za-z,: \t\n\r]+")
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}
_CLOSING = {"{": "}", "[": "]"}


class JsonScanner:
    """Scans one value until it is ``done`` or has ``failed``, at a character that no value has or a
    bracket that does not match; whether it is JSON, :func:`is_json` tells at its end. Raw control
    characters in strings (models write newlines into code) are escaped."""

    __slots__ = ("_closing", "_escaped", "_in_string", "_is_word", "done", "failed")

    def __init__(self) -> None:
        self.done = False
        self.failed = False
        self._closing: list[str] = []  # the brackets that must come
        self._in_string = False
        self._escaped = False  # behind a backslash
        self._is_word = False  # the value is a number, true, false or null

    def scan(self, text: str, start: int = 0) -> tuple[int, str]:
        """Continues at ``text[start:]``; returns where it stopped and the JSON it passed."""
        out: list[str] = []
        at = start
        while at < len(text) and not (self.done or self.failed):
            passed = (
                self._string(text, at, out) if self._in_string else self._outside(text, at, out)
            )
            at += passed
        return at, "".join(out)

    def finish(self) -> bool:
        """At the end of the text: whether the value is complete (a bare number may be)."""
        self.done = self.done or (self._is_word and not self.failed)
        return self.done

    def _string(self, text: str, at: int, out: list[str]) -> int:
        match = None if self._escaped else _PLAIN.match(text, at)
        if match is not None:
            out.append(match[0])
            return len(match[0])
        char = text[at]
        if char == '"' and not self._escaped:
            self._in_string = False
            self.done = not self._closing
        self._escaped = char == "\\" and not self._escaped
        out.append(_ESCAPES.get(char) or (char if char >= " " else f"\\u{ord(char):04x}"))
        return 1

    def _outside(self, text: str, at: int, out: list[str]) -> int:
        char = text[at]
        pattern = _BETWEEN if self._closing else _WORD if self._is_word else _SPACE
        match = pattern.match(text, at)
        if match is not None:
            out.append(match[0])
            return len(match[0])
        if self._is_word:
            self.done = True
            return 0
        if char == '"':
            self._in_string = True
        elif char in _CLOSING:
            self._closing.append(_CLOSING[char])
            self.failed = len(self._closing) > MAX_DEPTH
        elif self._closing and char == self._closing[-1]:
            self._closing.pop()
            self.done = not self._closing
        elif not self._closing and _WORD.match(char):
            self._is_word = True
            return 0
        else:
            self.failed = True
        if self.failed:
            return 0
        out.append(char)
        return 1


def is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    """NaN and the infinities are no JSON."""
    raise ValueError(constant)
