"""Which of the models that wait is loaded next, and which loaded one ends for it. Pure.

1. Models that wait stand in one line, however many requests wait for each. The turn of a model is
   the time at which its first request came. A key whose requests had models loaded owes the seconds
   of these loads: its later requests stand in line as if they had come so much later.
2. A model enters as soon as it fits. One behind the first may enter before it, if the first has
   still enough room from those that end for it.
3. For the first in line, idle models end, those worth least.
4. If these do not suffice, busy ones end too, after their answers: as soon as its requests together
   have waited as long as the change costs (its load, and what the models that end are worth), and
   at the latest when the first of them has waited `swap_wait` seconds. But a busy model stays at
   least as long as its load took, so that no more time is spent on loads than on answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from .budget import Amounts, Limits, Resident, Shortage, shortage, victims

LONGEST_DEBT = 60.0  # seconds of loads that a key owes at most


class Waiter(Struct, frozen=True):
    """A request that waits for a model, since a time in seconds."""

    key: str
    since: float


class Asked(Struct, frozen=True):
    """A model in line: what it needs, the seconds of its load, and its requests, not none."""

    name: str
    need: Amounts
    load: float
    waiters: tuple[Waiter, ...]


class Loaded(Struct, frozen=True):
    """A model that has its room. It is loaded since a time, inf while it loads, which takes `load`
    seconds. A pinned one never ends for others; a leaving one does so already. An idle one has no
    requests."""

    resident: Resident
    since: float = math.inf
    load: float = 0.0
    idle: bool = False
    pinned: bool = False
    leaving: bool = False


class Step(Struct, frozen=True):
    """The model that enters now, "" for none; the ones that shall end."""

    enters: str = ""
    ends: tuple[str, ...] = ()


class Debts:
    """What keys owe for loads."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def turn(self, asked: Asked) -> tuple[float, str]:
        """When it is the turn of a model, and by which key."""
        return min(
            (max(one.since, self._until.get(one.key, 0.0)), one.key) for one in asked.waiters
        )

    def line(self, asked: Sequence[Asked]) -> list[Asked]:
        """The models in the order of their turns."""
        return sorted(asked, key=lambda one: (self.turn(one)[0], first_came(one), one.name))

    def charge(self, asked: Asked, now: float) -> None:
        """A model is loaded: its key owes the load."""
        _, key = self.turn(asked)
        self._until = {name: until for name, until in self._until.items() if until > now}
        until = max(now, self._until.get(key, now)) + asked.load
        self._until[key] = min(until, now + LONGEST_DEBT)


def first_came(asked: Asked) -> float:
    return min(one.since for one in asked.waiters)


def step(
    limits: Limits, line: Sequence[Asked], loaded: Sequence[Loaded], now: float, swap_wait: float
) -> Step:
    """What happens now. `line` is in the order of turns."""
    if not line:
        return Step()
    first, residents = line[0], [one.resident for one in loaded]
    missing = shortage(limits, first.need, residents)
    if not missing:
        return Step(enters=first.name)
    going = [one.resident for one in loaded if one.leaving]
    missing = missing.without(going)
    ends = _ends(first, missing, loaded, now, swap_wait) if missing else ()
    going += [one for one in residents if one.name in ends]
    for other in line[1:]:
        if not shortage(limits, other.need, residents):
            beside = [*residents, Resident(other.name, other.need, 0.0)]
            if not shortage(limits, first.need, beside).without(going):
                return Step(enters=other.name, ends=ends)
    return Step(ends=ends)


def _ends(
    first: Asked, missing: Shortage, loaded: Sequence[Loaded], now: float, swap_wait: float
) -> tuple[str, ...]:
    free = [one for one in loaded if not (one.pinned or one.leaving)]
    idle = victims([one.resident for one in free if one.idle], missing)
    if idle is not None:
        return idle
    names = victims([one.resident for one in free], missing) or ()
    busy = [one for one in free if one.resident.name in names]
    if any(not one.idle and now - one.since < one.load for one in busy):
        return ()
    cost = first.load + sum(one.resident.worth for one in busy)
    waited = sum(now - one.since for one in first.waiters)
    late = now - first_came(first) >= swap_wait
    return names if late or waited >= cost else ()
