"""Takes requests and tokens from the meters of subjects, and gives back what was not used."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from ...runtime.locks import native_lock
from .meters import Charge, Gauge, Level, Meter, sunk, wait

MOST_LEVELS = 65_536  # beyond which those that are down to 0 are forgotten


class Taken(Struct, frozen=True):
    """What was taken: `amounts` units for each charge, whose meters are then at `levels`, at the
    time `at`. `lease` names it in Redis."""

    charges: Sequence[Charge]
    gauges: Sequence[Gauge]
    amounts: Sequence[int]
    levels: Sequence[int]
    at: int
    lease: str = ""


class Refused(Struct, frozen=True):
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


class _Level:
    """The level of a meter of a subject, as `meters.Level`, changed in place."""

    __slots__ = ("at", "meter", "used")

    def __init__(self, meter: Meter, used: int = 0, at: int = 0) -> None:
        self.meter = meter
        self.used = used
        self.at = at


class LocalLimiter:
    """The meters of this process."""

    def __init__(self, clock: Callable[[], int] = clock, spent: Spent = nothing) -> None:
        """`spent` tells what was used of a budget in its epoch; it may wait."""
        self._clock = clock
        self._spent = spent
        self._lock = native_lock()
        self._levels: dict[tuple[str, str], _Level] = {}
        self._gauges: dict[tuple[str, str], int] = {}
        self._most = MOST_LEVELS

    def take(self, charges: Sequence[Charge], gauges: Sequence[Gauge]) -> Taken | Refused:
        for charge in charges:
            if not charge.meter.rate:
                self._learn(charge)
        now, running = self._clock(), self._gauges
        with self._lock:
            levels = [self._sunk(charge, now) for charge in charges]
            for gauge in gauges:
                subject, name, most = gauge
                if most >= 0 and running.get((subject, name), 0) >= most:
                    return Refused(gauge, None, [level.used for level in levels], now)
            amounts = []
            for charge, level in zip(charges, levels, strict=True):
                left, wish = charge.meter.capacity - level.used, charge.wish
                if charge.need > left:
                    before = Level(level.used, level.at)
                    found = [level.used for level in levels]
                    return Refused(charge, wait(charge, before, now), found, now)
                amounts.append(wish if wish < left else left)
            after = []
            for level, amount in zip(levels, amounts, strict=True):
                level.used += amount
                after.append(level.used)
            for subject, name, _ in gauges:
                running[subject, name] = running.get((subject, name), 0) + 1
            if len(self._levels) > self._most:
                self._sweep(now)
        return Taken(charges, gauges, amounts, after, now)

    def settle(self, taken: Taken, used: Sequence[int]) -> None:
        running = self._gauges
        with self._lock:
            for charge, amount, spent in zip(taken.charges, taken.amounts, used, strict=True):
                if spent != amount:
                    meter, level = charge.meter, self._sunk(charge, self._clock())
                    if meter.rate or level.at == meter.epoch:  # no other epoch has begun
                        level.used = max(0, level.used + spent - amount)
            for subject, name, _ in taken.gauges:
                left = running[subject, name] - 1
                if left:
                    running[subject, name] = left
                else:
                    del running[subject, name]

    def close(self) -> None:
        """Nothing is to be closed."""

    def _learn(self, charge: Charge) -> None:
        """Learn what was used of a budget before this process, or this epoch, began."""
        key, meter = (charge.subject, charge.meter.name), charge.meter
        known = self._levels.get(key)
        if known is None or known.at < meter.epoch:
            spent = self._spent(charge)
            with self._lock:
                if self._levels.get(key) is known:
                    self._levels[key] = _Level(meter, spent, meter.epoch)

    def _sunk(self, charge: Charge, now: int) -> _Level:
        """The level of a meter now, as `meters.sunk`."""
        subject, meter = charge.subject, charge.meter
        name, _, rate, tick, epoch, _ = meter
        at = now // tick if rate else epoch
        level = self._levels.get((subject, name))
        if level is None:
            level = self._levels[subject, name] = _Level(meter, 0, at)
        elif at > level.at:
            left = level.used - (at - level.at) * rate if rate else 0
            level.used, level.at = max(0, left), at
        level.meter = meter
        return level

    def _sweep(self, now: int) -> None:
        """Forget meters that are down to 0, or whose time is over."""
        self._levels = {key: level for key, level in self._levels.items() if _is_needed(level, now)}
        self._most = max(MOST_LEVELS, 2 * len(self._levels))


def _is_needed(level: _Level, now: int) -> bool:
    meter = level.meter
    if meter.rate:
        return sunk(meter, Level(level.used, level.at), now).used > 0
    return now < meter.ends or not meter.ends
