"""Finds marks in streamed text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def first_of(text: str, marks: Sequence[str]) -> tuple[int, str]:
    """Position and text of the first mark, the longer of two at one position; -1 if there is
    none."""
    found = [(text.find(mark), -len(mark), mark) for mark in marks]
    at, _, mark = min((match for match in found if match[0] >= 0), default=(-1, 0, ""))
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
    """The longest beginning that both texts have."""
    size = min(len(text), len(other))
    at = next((i for i in range(size) if text[i] != other[i]), size)
    return text[:at]


def common_end(text: str, other: str) -> str:
    """The longest end that both texts have."""
    return common_start(text[::-1], other[::-1])[::-1]


# Where in Markdown a streamed text stands: in code, or at the beginning of a line.
#
# A model that quotes the mark of a call writes it as code, or in the middle of a sentence. A call
# that it means begins a line, or the answer.

_FENCE = 3


class Place:
    """``feed`` it the text; the properties tell of the next character. A span of code ends with its
    line at the latest, so that one stray backtick does not hide what follows."""

    __slots__ = ("_char", "_fence", "_fresh", "_run", "_span")

    def __init__(self) -> None:
        self._fresh = True  # only white space since the line began
        self._fence = ""  # the marks that opened a block of code
        self._span = 0  # backticks that opened a span of code
        self._char = ""  # of the run of backticks or tildes that is being read
        self._run = 0

    @property
    def is_fresh(self) -> bool:
        """Whether a line begins here, but for white space."""
        return self._fresh and not self._run

    @property
    def is_block(self) -> bool:
        """Whether this is inside a block of code."""
        self._settle()
        return bool(self._fence)

    @property
    def is_code(self) -> bool:
        """Whether this is inside a block or a span of code."""
        return self.is_block or bool(self._span)

    def feed(self, text: str) -> None:
        if not self._run and "`" not in text and "~" not in text:
            line = text
            if "\n" in text:
                self._span = 0
                line = text[text.rfind("\n") + 1 :]
                self._fresh = True
            self._fresh = self._fresh and (not line or line.isspace())
            return
        for char in text:
            if char in "`~" and (char == self._char or not self._run):
                self._char = char
                self._run += 1
                continue
            self._settle()
            if char in "`~":
                self._char, self._run = char, 1
            elif char == "\n":
                self._fresh, self._span = True, 0
            elif not char.isspace():
                self._fresh = False

    def _settle(self) -> None:
        """The end of a run of backticks or tildes."""
        run, char = self._run, self._char
        if not run:
            return
        self._run, self._char = 0, ""
        if self._fresh and run >= _FENCE:
            if not self._fence:
                self._fence = char * run
            elif char == self._fence[0] and run >= len(self._fence):
                self._fence = ""
        elif char == "`" and not self._fence:
            if not self._span:
                self._span = run
            elif self._span == run:
                self._span = 0
        self._fresh = False
