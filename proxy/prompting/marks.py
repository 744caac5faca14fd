"""Finds marks in streamed text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


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
