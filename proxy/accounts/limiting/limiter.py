"""Takes requests and tokens from the meters of subjects, and gives back what was not used."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ...runtime.locks import native_lock
from .meters import Charge, Gauge, Level, Meter, sunk, taken, wait

MOST_LEVELS = 65_536  # beyond which those that are down to 0 are forgotten


class Taken(NamedTuple):
    """What was taken: `amounts` units for each charge, whose meters are then at `levels`, at the
    time `at`. `lease` names it in Redis."""

    charges: Sequence[Charge]
    gauges: Sequence[Gauge]
    amounts: Sequence[int]
    levels: Sequence[int]
    at: int
    lease: str = ""


class Refused(NamedTuple):
    """The charge or gauge that was not there, seconds until it may be (None: never, or unknown for
    a gauge), and the levels of all charges at the time `at`."""

    by: Charge | Gauge
    wait: float | None
    levels: Sequence[int]
    at: int


class Limiter(Protocol):
    """Raises LimitsUnavailable if it cannot tell."""

    def take(self, charges: Sequence[Charge], gauges: Sequence[Gauge]) -> Taken | Refused:
        """Take all of these, or nothing."""

    def settle(self, taken: Taken, used: Sequence[int]) -> None:
        """End what was taken: `used` units were used for each charge."""

    def close(self) -> None: ...


Spent = Callable[[Charge], int]  # the units that were used in the epoch of a charge's meter


def nothing(charge: Charge) -> int:
    """Nothing is known of the past of a meter."""
    return 0


def clock() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


class LocalLimiter:
    """The meters of this process."""

    def __init__(self, clock: Callable[[], int] = clock, spent: Spent = nothing) -> None:
        """`spent` tells what was used of a budget in its epoch; it may wait."""
        self._clock = clock
        self._spent = spent
        self._lock = native_lock()
        self._levels: dict[tuple[str, str], tuple[Meter, Level]] = {}
        self._gauges: dict[tuple[str, str], int] = {}
        self._most = MOST_LEVELS

    def take(self, charges: Sequence[Charge], gauges: Sequence[Gauge]) -> Taken | Refused:
        for charge in charges:
            if not charge.meter.rate:
                self._learn(charge)
        now = self._clock()
        with self._lock:
            levels = [self._level(charge, now) for charge in charges]
            found = [level.used for level in levels]
            for gauge in gauges:
                if 0 <= gauge.most <= self._gauges.get((gauge.subject, gauge.name), 0):
                    return Refused(gauge, None, found, now)
            amounts = []
            for charge, level in zip(charges, levels, strict=True):
                amount = taken(charge, level)
                if amount is None:
                    return Refused(charge, wait(charge, level, now), found, now)
                amounts.append(amount)
            for charge, level, amount in zip(charges, levels, amounts, strict=True):
                self._set(charge, Level(level.used + amount, level.at))
            for gauge in gauges:
                key = gauge.subject, gauge.name
                self._gauges[key] = self._gauges.get(key, 0) + 1
        after = [used + amount for used, amount in zip(found, amounts, strict=True)]
        return Taken(charges, gauges, amounts, after, now)

    def settle(self, taken: Taken, used: Sequence[int]) -> None:
        now = self._clock()
        with self._lock:
            for charge, amount, spent in zip(taken.charges, taken.amounts, used, strict=True):
                if spent != amount:
                    level = self._level(charge, now)
                    if not charge.meter.rate and level.at != charge.meter.epoch:
                        continue  # another epoch has begun
                    self._set(charge, Level(max(0, level.used + spent - amount), level.at))
            for gauge in taken.gauges:
                key = gauge.subject, gauge.name
                self._gauges[key] -= 1
                if not self._gauges[key]:
                    del self._gauges[key]

    def close(self) -> None:
        """Nothing is to be closed."""

    def _learn(self, charge: Charge) -> None:
        """Learn what was used of a budget before this process, or this epoch, began."""
        known = self._levels.get((charge.subject, charge.meter.name))
        if known is None or known[1].at < charge.meter.epoch:
            spent = Level(self._spent(charge), charge.meter.epoch)
            with self._lock:
                if self._levels.get((charge.subject, charge.meter.name)) is known:
                    self._set(charge, spent)

    def _level(self, charge: Charge, now: int) -> Level:
        known = self._levels.get((charge.subject, charge.meter.name))
        return sunk(charge.meter, known[1] if known else Level(), now)

    def _set(self, charge: Charge, level: Level) -> None:
        if len(self._levels) >= self._most:
            self._sweep(self._clock())
        self._levels[charge.subject, charge.meter.name] = charge.meter, level

    def _sweep(self, now: int) -> None:
        """Forget meters that are down to 0, or whose time is over."""
        self._levels = {
            key: (meter, level)
            for key, (meter, level) in self._levels.items()
            if (sunk(meter, level, now).used if meter.rate else now < meter.ends or not meter.ends)
        }
        self._most = max(MOST_LEVELS, 2 * len(self._levels))
