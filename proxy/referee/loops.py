"""Finds the repetition at the end of a text.

A model that loops repeats itself exactly, token for token. So the last bytes of the text stand one
period earlier, too: the search for them names the period, and one comparison of bytes proves it.
Both run in C, over the window only, and only every STEP bytes.

What repeats itself rightly differs in its size and its material: data (digits, base64, rules of
tables) continues for long, while prose that stands there again word for word does not.
"""

from __future__ import annotations

import re

from msgspec import Struct

WINDOW = 16 << 10  # bytes that are searched: some 4 000 tokens, in which a period stands thrice
STEP = 256  # bytes between two searches
PROBE = 32  # bytes that are looked for; a rarer text has fewer candidates
CANDIDATES = 64  # places at which they may stand in one period
COPIES = 3
# Bytes that a repetition must have in all, by its material, at least.
PROSE = 560
WORDS = 1024  # of one or two words, as `null, null,`
DATA = 3584
FEW = 3
SHORT = 24
LONGEST = 60  # bytes of a word; data has longer ones
LONG = 240  # bytes of prose that nobody writes thrice in a row

# Signs, as those of tables and boxes, begin with \xe2.
_WORD = re.compile(rb"(?:[A-Za-z]|[\xc3-\xe1\xe3-\xf4][\x80-\xbf]+){2,}")
_CODE = re.compile(rb"[!-~]{%d}" % (LONGEST + 1))  # base64 and the like; not Chinese
_END = re.compile(rb"(?:[.!?]|\xe2\x80\xa6)[\"')\]*_]*(?=\s|$)|\xe3\x80\x82|\n")
_ENDS = (b".", b"!", b"?", b"\n", b"\xe3\x80\x82")


class Loop(Struct, frozen=True):
    """From `start` on, the text has this period, in bytes."""

    start: int
    period: int

    def first_copy(self, text: bytes | bytearray) -> int:
        """Where its first copy ends, with the sentence or line that ends next."""
        copy = self.start + self.period
        first = text[self.start : copy].rstrip()
        if first.endswith(_ENDS):
            return self.start + len(first)
        end = _END.search(text, copy, min(len(text), copy + self.period))
        return _whole(text, end.end() if end else copy)

    def next_end(self, text: bytes | bytearray) -> int:
        """Where the text ends a sentence or line again if the loop continues; its present end if it
        never does."""
        size, period = len(text), self.period
        if text.endswith(_ENDS):
            return size
        end = _END.search(text, size - period, size)
        return size if end is None else end.end() + period

    def goes_on(self, text: bytes | bytearray) -> bool:
        """Whether a text that has grown still has the period."""
        return text[self.start + self.period :] == text[self.start : -self.period]


def find(text: bytes | bytearray, since: int = 0) -> Loop | None:
    """The repetition with which the text ends, if it is one of a model that loops."""
    size = len(text)
    since = max(since, size - WINDOW)
    if size - since < PROSE:
        return None
    probe = text[-PROBE:]
    at, least = size, size - (size - since) // COPIES - PROBE
    for _ in range(CANDIDATES):
        at = text.rfind(probe, least, at - 1)
        if at < 0:
            return None
        period = size - PROBE - at
        if text[size - 2 * period :] == text[size - 3 * period : size - period]:
            return _judged(text, since, period)
    return None


def _judged(text: bytes | bytearray, since: int, period: int) -> Loop | None:
    size = len(text)
    # In whole periods, then in bytes: the first copy may begin in the middle of one.
    start, unit = size - 3 * period, text[size - period :]
    while start - period >= since and text[start - period : start] == unit:
        start -= period
    while start > since and text[start - 1] == text[start - 1 + period]:
        start -= 1
    return Loop(start, period) if size - start >= _least(bytes(unit)) else None


def _least(unit: bytes) -> int:
    """The size of a repetition of this unit that is a loop."""
    rows = unit * (2 + LONGEST // len(unit))
    words = _WORD.findall(rows)
    letters = sum(map(len, words))
    if letters * 2 < len(rows) or _CODE.search(rows):
        return DATA
    if len(unit) < SHORT and len(set(words)) < FEW:
        return WORDS
    return PROSE if len(unit) < LONG else COPIES * len(unit)


def _whole(text: bytes | bytearray, at: int) -> int:
    """The place, or the next at which a character begins."""
    while at < len(text) and text[at] & 0xC0 == 0x80:
        at += 1
    return at
