"""What must go so that a model fits, and what a loaded model is worth. Pure.

The worth of a loaded model is what its loss would cost: the seconds that requests will wait for its
next load. Uses count less the longer ago they are, so of two models used once, the one used longer
ago is worth less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

from msgspec import Struct

MEMORY_OF_USES = 600.0  # seconds in which the count of uses falls to a third (1/e)


# Bytes: of the machine's memory, then of each graphics card's. What is left out is 0.
Amounts = tuple[int, ...]


class Limits(Struct, frozen=True):
    """The bytes of memory and the number of models that may be loaded; 0: any. `cards` are the
    bytes of each graphics card."""

    memory: int = 0
    models: int = 0
    cards: Amounts = ()

    @property
    def amounts(self) -> Amounts:
        return (self.memory, *self.cards)


class Resident(Struct, frozen=True):
    """A loaded model: what it needs, and its worth in seconds."""

    name: str
    need: Amounts
    worth: float


class Shortage(Struct, frozen=True):
    """What is missing for a model: bytes, and places; nothing above 0: it fits."""

    memory: Amounts
    places: int

    def __bool__(self) -> bool:
        return self.places > 0 or any(missing > 0 for missing in self.memory)

    def without(self, going: Sequence[Resident]) -> Shortage:
        """What is still missing once these have gone."""
        return Shortage(less(self.memory, total(going)), self.places - len(going))


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

    def worth(self, load: float, now: float) -> float:
        """The seconds that requests will wait if a model ends whose load takes `load` seconds: the
        first one for all of it, those that come meanwhile for half of it on average."""
        meanwhile = self._left(now) / MEMORY_OF_USES * load
        return load * (self.chance(now) + meanwhile / 2)

    def _left(self, now: float) -> float:
        return self._count * math.exp(-max(0.0, now - self._at) / MEMORY_OF_USES)


def shortage(limits: Limits, need: Amounts, loaded: Sequence[Resident]) -> Shortage:
    """What is missing for a model of this need."""
    used = tuple(map(sum, zip_longest(total(loaded), need, fillvalue=0)))
    pairs = zip_longest(used, limits.amounts, fillvalue=0)
    places = len(loaded) + 1 - limits.models if limits.models else 0
    return Shortage(tuple(taken - limit if limit else 0 for taken, limit in pairs), places)


def victims(candidates: Sequence[Resident], missing: Shortage) -> tuple[str, ...] | None:
    """The names of models worth little whose end frees what is missing; none of them could stay.
    None if all of them together do not suffice."""
    chosen: list[Resident] = []
    for one in sorted(candidates, key=lambda one: (one.worth, -sum(one.need), one.name)):
        if not missing.without(chosen):
            break
        chosen.append(one)
    if missing.without(chosen):
        return None
    for one in reversed(list(chosen)):  # the dearest first: perhaps a later one made it needless
        rest = [other for other in chosen if other is not one]
        if not missing.without(rest):
            chosen = rest
    return tuple(one.name for one in chosen)


def total(models: Sequence[Resident]) -> Amounts:
    """What they need together."""
    return tuple(map(sum, zip_longest(*(one.need for one in models), fillvalue=0)))


def less(amounts: Amounts, freed: Amounts) -> Amounts:
    """The amounts without what is freed."""
    return tuple(one - other for one, other in zip_longest(amounts, freed, fillvalue=0))
