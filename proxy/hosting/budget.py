"""What must go so that a model fits, and what a loaded model is worth. Pure.

The worth of a loaded model is what its loss would cost: the seconds of its next load, times the
chance that a request for it comes soon. Uses count less the longer ago they are, so of two models
used once, the one used longer ago is worth less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

MEMORY_OF_USES = 600.0  # seconds in which the count of uses falls to a third (1/e)


class Limits(Struct, frozen=True):
    """The bytes of memory and the number of models that may be loaded; 0: any."""

    memory: int = 0
    models: int = 0


class Resident(Struct, frozen=True):
    """A loaded model: the bytes that it needs, and its worth in seconds."""

    name: str
    need: int
    worth: float


class Uses:
    """The uses of a model."""

    def __init__(self) -> None:
        self._count = 0.0
        self._at = 0.0

    def add(self, now: float) -> None:
        self._count = self._left(now) + 1.0
        self._at = now

    def chance(self, now: float) -> float:
        """The chance of another use in the next ten minutes, judged by the last ones."""
        return -math.expm1(-self._left(now))

    def _left(self, now: float) -> float:
        return self._count * math.exp(-max(0.0, now - self._at) / MEMORY_OF_USES)


def shortage(limits: Limits, need: int, loaded: Sequence[Resident]) -> tuple[int, int]:
    """The bytes and places that are missing for a model of this need; not above 0: none."""
    used = sum(one.need for one in loaded)
    memory = used + need - limits.memory if limits.memory else 0
    places = len(loaded) + 1 - limits.models if limits.models else 0
    return memory, places


def victims(candidates: Sequence[Resident], memory: int, places: int) -> tuple[str, ...] | None:
    """The names of models worth little whose end frees so many bytes and places; none of them could
    stay. None if all of them together do not suffice."""
    chosen: list[Resident] = []
    for one in sorted(candidates, key=lambda one: (one.worth, -one.need, one.name)):
        if _suffices(chosen, memory, places):
            break
        chosen.append(one)
    if not _suffices(chosen, memory, places):
        return None
    for one in reversed(list(chosen)):  # the dearest first: perhaps a later one made it needless
        rest = [other for other in chosen if other is not one]
        if _suffices(rest, memory, places):
            chosen = rest
    return tuple(one.name for one in chosen)


def _suffices(chosen: Sequence[Resident], memory: int, places: int) -> bool:
    return sum(one.need for one in chosen) >= memory and len(chosen) >= places
