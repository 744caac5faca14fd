"""Meters: the arithmetic of limits in windows that slide, and of budgets. Pure.

A window is the generic cell rate algorithm (GCRA) in its leaky-bucket form. What is used raises a
level, which sinks evenly, by the whole limit in a period. A request is accepted if the level stays
within the limit. So all of a limit may be used at once, and then comes back bit by bit: never more
than the limit at once, never more than the limit in each period in the long run.

Levels are integers, so workers agree exactly, also in Lua, whose numbers are doubles: a period is
divided into TICKS ticks, and a request or token counts TICKS units. In each tick, the level sinks
by the limit's number of units. The largest limit (10^11) has 6 * 10^15 units, less than 2^53.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

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
    there. `gives_back` what it did not use: tokens, but not the request itself."""

    subject: str
    meter: Meter
    need: int
    wish: int
    gives_back: bool = True


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
