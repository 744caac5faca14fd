"""Takes requests and tokens from the meters of subjects, and gives back what was not used."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec import Struct

from ...runtime.locks import native_lock

# Meters: the arithmetic of limits in windows that slide, and of budgets. Pure.
#
# A window is the generic cell rate algorithm (GCRA) in its leaky-bucket form. What is used raises
# a level, which sinks evenly, by the whole limit in a period. A request is accepted if the level
# stays within the limit. So all of a limit may be used at once, and then comes back bit by bit:
# never more than the limit at once, never more than the limit in each period in the long run.
#
# Levels are integers, so workers agree exactly, also in Lua, whose numbers are doubles: a period
# is divided into TICKS ticks, and a request or token counts TICKS units. In each tick, the level
# sinks by the limit's number of units. The largest limit (10^11) has 6 * 10^15 units, less than
# 2^53.
TICKS = 60_000  # of a period; units of a request or token
MICROSECONDS = 1_000_000
ANY = -1


class Meter(NamedTuple):
    """`name` is unique within its subject. The level may reach `capacity` units, and sinks by
    `rate` in each `tick` (microseconds). With a rate of 0, it begins anew with each `epoch`, which
    ends at the time `ends`, 0 for never."""

    name: str
    capacity: int
    rate: int
    tick: int = 1
    epoch: int = 0
    ends: int = 0

    def time(self, now: int) -> int:
        """The number of the tick, or the epoch, at a time (microseconds since 1970)."""
        return now // self.tick if self.rate else self.epoch


class Level(NamedTuple):
    """`used` units at the time `at`, as of `Meter.time`."""

    used: int = 0
    at: int = 0


class Charge(Struct, frozen=True, gc=False):
    """What a request takes from a meter of a subject: `need` units, and up to `wish` if they are
    there: `least` of them, or half of what is left if that is more. `gives_back` what it did not
    use: tokens, but not the request itself. `token` is what one of its answer costs."""

    subject: str
    meter: Meter
    need: int
    wish: int
    gives_back: bool = True
    least: int = 0
    token: float = 0.0

    def amount(self, left: int) -> int:
        return min(self.wish, left, max(self.need, self.least, left // 2))


class Gauge(NamedTuple):
    """A count of requests of a subject that are under way, at most so many; ANY is no limit."""

    subject: str
    name: str
    most: int


def window(name: str, most: int, seconds: int) -> Meter:
    """The meter of at most so many requests or tokens in a period."""
    return Meter(name, most * TICKS, most, seconds * MICROSECONDS // TICKS)


def sunk(meter: Meter, level: Level, now: int) -> Level:
    """The level at a later time. A clock that was set back changes nothing."""
    at = meter.time(now)
    if at <= level.at:
        return level
    if not meter.rate:
        return Level(0, at)
    return Level(max(0, level.used - (at - level.at) * meter.rate), at)


def wait(charge: Charge, level: Level, now: int) -> float | None:
    """Seconds until a refused charge would be accepted, None if never."""
    meter, missing = charge.meter, level.used + charge.need - charge.meter.capacity
    if charge.need > meter.capacity:
        return None
    if not meter.rate:
        return max(0, meter.ends - now) / MICROSECONDS if meter.ends else None
    ticks = -(-missing // meter.rate)
    return max(0, (level.at + ticks) * meter.tick - now) / MICROSECONDS


def until_empty(meter: Meter, used: int, now: int) -> float:
    """Seconds until nothing of the limit is used any more."""
    if meter.rate:
        return -(-used // meter.rate) * meter.tick / MICROSECONDS
    return max(0, meter.ends - now) / MICROSECONDS


MOST_LEVELS = 65_536  # beyond which those that are down to 0 are forgotten


class Taken(Struct, frozen=True):
    """The units taken for each charge, whose meters are then at `levels`; `lease` is for Redis."""

    charges: Sequence[Charge]
    gauges: Sequence[Gauge]
    amounts: Sequence[int]
    levels: Sequence[int]
    at: int
    lease: str = ""


class Refused(Struct, frozen=True):
    """What was not there, seconds until it may be, and the levels of all at the time `at`."""

    by: Charge | Gauge
    wait: float | None
    levels: Sequence[int]
    at: int


Spent = Callable[[Charge], int]  # the units that were used in the epoch of a charge's meter


def nothing(charge: Charge) -> int:
    return 0


def clock() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


class LocalLimiter:
    def __init__(self, clock: Callable[[], int] = clock, spent: Spent = nothing) -> None:
        """`spent` tells what was used of a budget in its epoch; it may wait."""
        self._clock = clock
        self._spent = spent
        self._lock = native_lock()
        self._levels: dict[tuple[str, str], tuple[Meter, Level]] = {}
        self._gauges: dict[tuple[str, str], int] = {}
        self._most = MOST_LEVELS

    def take(self, charges: Sequence[Charge], gauges: Sequence[Gauge]) -> Taken | Refused:
        """Take all of these, or nothing."""
        for charge in charges:
            if not charge.meter.rate:
                self._learn(charge)
        now, running = self._clock(), self._gauges
        with self._lock:
            levels = [self._level(charge, now) for charge in charges]
            used = [level.used for level in levels]
            for gauge in gauges:
                subject, name, most = gauge
                if most >= 0 and running.get((subject, name), 0) >= most:
                    return Refused(gauge, None, used, now)
            amounts = []
            for charge, level in zip(charges, levels, strict=True):
                left = charge.meter.capacity - level.used
                if charge.need > left:
                    return Refused(charge, wait(charge, level, now), used, now)
                amounts.append(charge.amount(left))
            for charge, level, amount in zip(charges, levels, amounts, strict=True):
                self._set(charge, level, amount)
            for subject, name, _ in gauges:
                running[subject, name] = running.get((subject, name), 0) + 1
            if len(self._levels) > self._most:
                self._sweep(now)
        after = [level + amount for level, amount in zip(used, amounts, strict=True)]
        return Taken(charges, gauges, amounts, after, now)

    def settle(self, taken: Taken, used: Sequence[int]) -> None:
        """End what was taken: `used` units were used for each charge."""
        running = self._gauges
        with self._lock:
            for charge, amount, spent in zip(taken.charges, taken.amounts, used, strict=True):
                if spent != amount:
                    level = self._level(charge, self._clock())
                    if charge.meter.rate or level.at == charge.meter.epoch:  # else it is over
                        self._set(charge, level, spent - amount)
            for subject, name, _ in taken.gauges:
                running[subject, name] -= 1
                if not running[subject, name]:
                    del running[subject, name]

    def close(self) -> None:
        """Nothing is to be closed."""

    def _learn(self, charge: Charge) -> None:
        """Learn what was used of a budget before this process, or this epoch, began."""
        key, meter = (charge.subject, charge.meter.name), charge.meter
        level = self._levels.get(key)
        if level is None or level[1].at < meter.epoch:
            spent = self._spent(charge)
            with self._lock:
                if self._levels.get(key) is level:
                    self._levels[key] = meter, Level(spent, meter.epoch)

    def _level(self, charge: Charge, now: int) -> Level:
        level = self._levels.get((charge.subject, charge.meter.name))
        if level is None:
            return Level(0, charge.meter.time(now))
        return sunk(charge.meter, level[1], now)

    def _set(self, charge: Charge, level: Level, more: int) -> None:
        """Raise the level of a charge's meter, or lower it."""
        after = Level(max(0, level.used + more), level.at)
        self._levels[charge.subject, charge.meter.name] = charge.meter, after

    def _sweep(self, now: int) -> None:
        """Forget meters that are down to 0, or whose time is over."""
        self._levels = {
            key: (meter, level)
            for key, (meter, level) in self._levels.items()
            if (sunk(meter, level, now).used if meter.rate else now < meter.ends or not meter.ends)
        }
        self._most = max(MOST_LEVELS, 2 * len(self._levels))
