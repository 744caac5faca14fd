"""Decides about an answer that repeats itself, or thinks too long.

where it happens          what becomes of it
thoughts                  they end, with the tag of the model's template, and the answer begins
text                      it ends with `stop`, or continues with a penalty for repetition
a document, or a call     it ends with `length`: it is not whole, and no cut could make it so

Pure.
"""

from __future__ import annotations

import re
import sys
from typing import Literal

from msgspec import Struct

from .core.request import CompletionRequest

# Finds the repetition at the end of a text.
#
# A model that loops repeats itself exactly, token for token. So the last bytes of the text stand
# one period earlier, too: the search for them names the period, and one comparison of bytes proves
# it. Both run in C, over the window only, and only every STEP bytes.
#
# What repeats itself rightly differs in its size and its material: data (digits, base64, rules of
# tables) continues for long, while prose that stands there again word for word does not.

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
        at = end.end() if end else copy
        while at < len(text) and text[at] & 0xC0 == 0x80:  # within a character
            at += 1
        return at

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


# What becomes of a repetition, and of thoughts.

Place = Literal["thoughts", "text", "bound"]
Step = Literal["close", "again", "stop", "cut"]

NEVER = sys.maxsize
FIRST = PROSE  # bytes of text before which nothing is looked for
MOST_STEPS = 2  # times that an answer continues after a repetition
LONGEST_WAIT = 256  # bytes of a repetition that are awaited, so that the text ends with a sentence
PENALTIES = (1.15, 1.3)
SEEN = 1024  # tokens to which they apply: a period, and what surrounds it

RESERVE = 4  # a quarter of an answer is not for thoughts,
MOST_RESERVE = 1024  # and at most so many tokens
SMALL = 64  # tokens of an answer that has no reserve
SHARES = {"minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8}  # of max_tokens, by effort

WHERE = {"thoughts": "its reasoning", "text": "its text", "bound": "a document or call"}


class Referee(Struct, eq=False):
    """Of one choice. `steps`: how often it went on after a repetition."""

    mode: str  # auto, off, end or mend
    steps: int = 0
    loop: Loop | None = None  # as last found

    def look(self, text: bytearray, *, waits: bool) -> int:
        """The length of the text at which to look again, 0 to stop its run. If it `waits`, the text
        may continue until a sentence ends."""
        if self.mode == "off":
            return NEVER
        loop = self.loop
        if loop is not None and loop.goes_on(text):
            return 0
        loop = self.loop = find(text)
        if loop is None:
            return len(text) + STEP
        end = loop.next_end(text) if waits else len(text)
        return end if 0 < end - len(text) <= LONGEST_WAIT else 0

    def step(self, place: Place, *, continues: bool) -> Step:
        """What to do about a repetition; it `continues` if another run can follow."""
        if place == "bound":
            return "cut"
        mends = self.mode == "mend" or (self.mode == "auto" and place == "thoughts")
        if continues and mends and self.steps < MOST_STEPS:
            self.steps += 1
            return "close" if place == "thoughts" else "again"
        return "stop" if place == "text" else "cut"

    def penalty(self, given: object) -> float:
        """The penalty for repetition of the next run, never less than the client's."""
        least = PENALTIES[min(self.steps, len(PENALTIES)) - 1]
        return max(least, given) if isinstance(given, int | float) else least


def mode_of(request: CompletionRequest, *modes: str | None) -> str:
    """The first setting that is there. A prompt without messages is for programs, which get what
    the model writes unless a setting says it; so is an answer that must have a length, or whose
    tokens are reported."""
    mode = next(filter(None, modes), "auto")
    if request.sampling.get("ignore_eos") or request.report.tokens:
        return "off"
    return "off" if mode == "auto" and not request.is_chat else mode


def spent(tokens: int) -> str:
    """What the client reads about reasoning that its budget ended."""
    return f"the reasoning was ended after {tokens} tokens, so that an answer follows"


EMPTY = (
    "all tokens went into reasoning: raise max_tokens, or lower max_reasoning_tokens or"
    " reasoning_effort"
)


OUTCOMES = {
    "close": "the reasoning was ended there",
    "again": "it was continued with a penalty for repetition",
    "stop": "the answer was ended there",
    "cut": "the answer was ended there and is not complete",
}


def warning(step: Step, place: Place) -> str:
    """What the client reads about a repetition."""
    return f"the model repeated itself in {WHERE[place]}: {OUTCOMES[step]}"


def budget(request: CompletionRequest, limit: int, usual: int | None) -> int:
    """What thoughts may take of an answer of at most `limit` tokens: what the client wants, a share
    of max_tokens by its effort, or what is `usual`, but for a reserve for the words."""
    thinking = request.reasoning_tokens
    if thinking is None and request.max_tokens is not None and request.reasoning_effort in SHARES:
        thinking = int(limit * SHARES[request.reasoning_effort])
    if thinking is None:
        thinking = usual
    reserve = min(limit // RESERVE, MOST_RESERVE) if limit >= SMALL else 0
    return limit - reserve if thinking is None else min(limit - reserve, thinking)
