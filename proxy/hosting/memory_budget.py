"""Which models may be loaded at once: those that wait stand in a line (see `step`), the others
have room (see `budget`).

A model enters when its turn has come and it fits; idle or busy models end for it. A busy one that
shall end takes no new requests, and ends after its last answer. The requests held back load it
again, in their turn.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Protocol

from msgspec import Struct

from ..errors import BadRequest
from .budget import Amounts, Limits, Resident, Shortage, shortage, total, victims

# Which of the models that wait is loaded next, and which loaded one ends for it. Pure.
#
# 1. Models that wait stand in one line, however many requests wait for each. The turn of a model
# is the time at which its first request came. A key whose requests had models loaded owes the
# seconds of these loads: its later requests stand in line as if they had come so much later. 2. A
# model enters as soon as it fits. One behind the first may enter before it, if the first has
# still enough room from those that end for it. 3. For the first in line, idle models end, those
# worth least. 4. If these do not suffice, busy ones end too, after their answers: as soon as its
# requests together have waited as long as the change costs (its load, and what the models that
# end are worth), and at the latest when the first of them has waited `swap_wait` seconds. But a
# busy model stays at least as long as its load took, so that no more time is spent on loads than
# on answers.
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


SETTLE = 0.2  # seconds without a use after which a model counts as idle
UNUSED = 2.0  # the same for one that was just loaded, whose first request is on its way
LOOK = 0.25  # seconds between two looks at the line
GIB = 1 << 30


class Candidate(Protocol):
    """A model, as far as its room is concerned. Called under the lock of the room."""

    @property
    def name(self) -> str: ...

    @property
    def need(self) -> Amounts:
        """What it needs when loaded."""

    @property
    def pinned(self) -> bool: ...

    @property
    def waiters(self) -> tuple[Waiter, ...]:
        """The requests that wait for its load."""

    @property
    def takes(self) -> float:
        """The seconds that its load takes."""

    @property
    def loaded_at(self) -> float:
        """Since when it is loaded, inf while it is not."""

    @property
    def leaving(self) -> bool:
        """Whether it ends as soon as no request uses it."""

    def idle(self, now: float) -> float:
        """The seconds since its last use; below 0 while it is in use or not loaded yet."""

    def fresh(self) -> bool:
        """Whether it has completed no request since it was loaded."""

    def worth(self, now: float) -> float:
        """The expected seconds that its end costs."""

    def stop(self) -> None: ...


class MemoryBudget:
    """`changed` is the lock of the room and of all its residents; waiting on it is woken by any
    change."""

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008  (frozen)
        swap_wait: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.changed = threading.Condition()
        self.limits = limits
        self._swap_wait = swap_wait
        self._clock = clock
        self._line: list[Candidate] = []
        self._loaded: list[Candidate] = []
        self._debts = Debts()

    def enter(self, candidate: Candidate) -> bool:
        """Wait until there is room for a model, which then has it until `leave`. Returns False if
        no request waits for it any more. Raises BadRequest if it can never fit."""
        with self.changed:
            self._line.append(candidate)
            try:
                while candidate.waiters:
                    self._check(candidate)
                    if self._enters(candidate):
                        self._loaded.append(candidate)
                        return True
                    self.changed.wait(LOOK)
                return False
            finally:
                self._line.remove(candidate)
                self.changed.notify_all()

    def leave(self, candidate: Candidate) -> None:
        with self.changed:
            if candidate in self._loaded:
                self._loaded.remove(candidate)
            self.changed.notify_all()

    @property
    def residents(self) -> tuple[Candidate, ...]:
        """The models that have room: loaded ones, those that load, and those that end."""
        with self.changed:
            return tuple(self._loaded)

    def place(self, candidate: Candidate) -> tuple[int, float]:
        """The place of a model in the line, 0 if it has room, and the seconds until it is loaded if
        answers under way and loads take no longer than expected."""
        with self.changed:
            now = self._clock()
            line = self._debts.line(self._asked())
            for number, one in enumerate(line, start=1):
                if one.name == candidate.name:
                    before = sum(other.load for other in line[:number])
                    patience = self._swap_wait - (now - first_came(line[0]))
                    return number, before + max(0.0, patience)
        return 0, candidate.takes

    def _enters(self, candidate: Candidate) -> bool:
        """Whether a model enters now. Others are asked to end for those in line."""
        now = self._clock()
        line = self._debts.line(self._asked())
        done = step(self.limits, line, [*self._residents(now)], now, self._swap_wait)
        for one in self._loaded:
            if one.name in done.ends:
                one.stop()
        if done.enters != candidate.name:
            return False
        self._debts.charge(next(one for one in line if one.name == candidate.name), now)
        return True

    def _asked(self) -> list[Asked]:
        return [
            Asked(one.name, one.need, one.takes, waiters)
            for one in self._line
            if (waiters := one.waiters)
        ]

    def _residents(self, now: float) -> Iterator[Loaded]:
        for one in self._loaded:
            yield Loaded(
                Resident(one.name, one.need, one.worth(now)),
                since=one.loaded_at,
                load=one.takes,
                idle=one.idle(now) >= (UNUSED if one.fresh() else SETTLE),
                pinned=one.pinned,
                leaving=one.leaving,
            )

    def _check(self, candidate: Candidate) -> None:
        pinned = [one for one in self._loaded if one.pinned and one is not candidate]
        stays = total([Resident(one.name, one.need, 0.0) for one in pinned])
        for device, (limit, need, rest) in enumerate(
            zip_longest(self.limits.amounts, candidate.need, stays, fillvalue=0)
        ):
            if limit and need + rest > limit:
                raise _too_large(candidate.name, device, need, rest, limit)


def _too_large(name: str, device: int, need: int, pinned: int, limit: int) -> BadRequest:
    where, setting = "", "--memory"
    if device:
        where, setting = f" of graphics card {device - 1}", "--gpu-memory"
    rest = f", of which pinned models take {pinned / GIB:.1f}" if pinned else ""
    return BadRequest(
        f"the model {name} does not fit: it needs about {need / GIB:.1f} GiB{where},"
        f" and models may take {limit / GIB:.1f} GiB{rest} ({setting})",
        param="model",
        code="model_too_large",
    )
