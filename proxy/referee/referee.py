"""Decides about an answer that repeats itself, or thinks too long.

where it happens          what becomes of it
thoughts                  they end, with the tag of the model's template, and the answer begins
text                      it ends with `stop`, or continues with a penalty for repetition
a document, or a call     it ends with `length`: it is not whole, and no cut could make it so
"""

from __future__ import annotations

import sys
from typing import Literal

from msgspec import Struct

from ..core.request import CompletionRequest
from .loops import PROSE, STEP, Loop, find

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


def mode_of(request: CompletionRequest, *wanted: str | None) -> str:
    """The first setting that is there. A prompt without messages is for programs, which get what
    the model writes unless a setting says it; so is an answer that must have a length, or whose
    tokens are reported."""
    mode = next(filter(None, wanted), "auto")
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


def warning(step: Step, place: Place) -> str:
    """What the client reads about a repetition."""
    what = f"the model repeated itself in {WHERE[place]}"
    if step == "close":
        return f"{what}: the reasoning was ended there"
    if step == "again":
        return f"{what}: it was continued with a penalty for repetition"
    if step == "stop":
        return f"{what}: the answer was ended there"
    return f"{what}: the answer was ended there and is not complete"


def budget(request: CompletionRequest, limit: int, usual: int | None) -> int:
    """What thoughts may take of an answer of at most `limit` tokens: what the client wants, a share
    of max_tokens by its effort, or what is `usual`, but for a reserve for the words."""
    wanted = request.reasoning_tokens
    if wanted is None and request.max_tokens is not None and request.reasoning_effort in SHARES:
        wanted = int(limit * SHARES[request.reasoning_effort])
    if wanted is None:
        wanted = usual
    reserve = min(limit // RESERVE, MOST_RESERVE) if limit >= SMALL else 0
    return limit - reserve if wanted is None else min(limit - reserve, wanted)
