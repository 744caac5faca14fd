"""The lines of requests that wait for a limit, in one worker.

Each window, or count of running requests, that refuses a request has a line. In it, API keys take
turns as in the queue for slots, by what each asks for of this limit. Only the first of a line asks
the limiter, so however many wait, one request to Redis decides for all of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

from msgspec import Struct

from ...errors import QueueFull, QueueTimeout
from ...runtime.cancel import Cancel
from ...runtime.locks import native_lock
from ...scheduling.fair import FairQueue, displaced
from .limiter import Refused, Taken
from .meters import MICROSECONDS, TICKS, Charge, Gauge

LOOK = 0.25  # seconds until the first asks again, if other workers may have given something back
SLOWEST_LOOK = 2.0  # the pause doubles up to this
NEXT = 0.02  # seconds between two looks of the first, at least
TICK = 1.0  # seconds between two reports of a place
LimitName = tuple[str, str]  # a subject, and the name of its meter or gauge


def limit_name(by: Charge | Gauge) -> LimitName:
    return by.subject, by.name if isinstance(by, Gauge) else by.meter.name


class LimitPlace(Struct, frozen=True):
    """A place in a line, from 1, and about how many seconds are left there, None if unknown."""

    place: int
    seconds: float | None = None


class LimitWaiter(Struct, frozen=True):
    """A waiting request as others may see it: its place and the estimate as `LimitPlace`, its
    model, seconds since it began to wait, and whether it is of the key that looks."""

    place: int
    seconds: float | None
    model: str
    waited: float
    mine: bool


class LimitTicket:
    """A request that waits in at most one line at a time. `asks` is what it takes of each limit
    that it may wait for, in requests or tokens. `again`: it is a further round of a request, which
    is served next. `error` is set if it lost its place."""

    __slots__ = (
        "again",
        "asks",
        "began",
        "error",
        "event",
        "key",
        "line",
        "model",
        "number",
        "share",
        "tag",
    )

    def __init__(
        self,
        key: str,
        asks: Mapping[LimitName, float],
        *,
        share: float = 1.0,
        again: bool = False,
        model: str = "",
    ) -> None:
        self.key = key
        self.asks = asks
        self.share = share
        self.again = again
        self.model = model
        self.began = 0.0
        self.tag = 0.0
        self.number = 0
        self.line: LimitName | None = None
        self.error: QueueFull | None = None
        self.event = threading.Event()

    @property
    def order(self) -> tuple[float, float, int]:
        return self.tag, self.began, self.number


class _Line:
    """`ready` is when the first may be let through, None if that is unknown; `pace` the units a
    second that come back, 0 if they come back with the end of other requests."""

    def __init__(self) -> None:
        self.queue: FairQueue[LimitTicket] = FairQueue()
        self.first: LimitTicket | None = None
        self.ready: float | None = None
        self.pace = 0.0


class LimitLines:
    """At most `most` requests wait in all lines together."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lines: dict[LimitName, _Line] = {}
        self._tickets: dict[LimitTicket, None] = {}  # in the order in which they came
        self._lock = native_lock()

    def __len__(self) -> int:
        return len(self._tickets)

    def wait(
        self,
        ticket: LimitTicket,
        name: LimitName,
        ask: Callable[[], Taken | Refused | None],
        cancel: Cancel,
        patience: float,
    ) -> Generator[LimitPlace, None, Taken | None]:
        """Wait for this limit, then for others that `ask` names by its refusal. Yields the place
        every second. Raises what `ask` raises, QueueFull, QueueTimeout after so many seconds of
        `patience`, and Cancelled."""
        clock, event = self._clock, ticket.event
        end = clock() + patience
        looked, again, pause = -NEXT, 0.0, LOOK
        served = False
        cancel.add(event.set)
        try:
            self.join(ticket, name)
            while True:
                woken = event.is_set()
                event.clear()
                cancel.check()
                if ticket.error is not None:
                    raise ticket.error
                now = clock()
                if woken:
                    again, pause = min(again, looked + NEXT), LOOK
                if self.is_first(ticket) and now >= again:
                    looked = now
                    later = self._later(ticket)
                    if later is None:
                        found = ask()
                        if not isinstance(found, Refused):
                            served = True
                            return found
                        later = limit_name(found.by)
                        self.join(ticket, later)
                        self._put_off(ticket, found)
                        again = now + _until_look(found, pause)
                        pause = min(2 * pause, SLOWEST_LOOK)
                    else:
                        self.join(ticket, later)
                        again = now
                if now >= end:
                    left = self.place(ticket).seconds
                    raise QueueTimeout(
                        "timed out waiting for the limits of this API key",
                        retry_after=left or LOOK,
                    )
                sleep = min(TICK, end - now)
                if self.is_first(ticket):
                    sleep = min(sleep, max(0.0, again - now))
                event.wait(sleep)
                yield self.place(ticket)
        finally:
            cancel.remove(event.set)
            self.leave(ticket, served=served)

    def first_of(self, names: Iterable[LimitName]) -> LimitName | None:
        """The first of these limits that others wait for."""
        return next((name for name in names if name in self._lines), None) if self._lines else None

    def join(self, ticket: LimitTicket, name: LimitName) -> None:
        """Wait for this limit, and for no other any more. Has no effect if the ticket does. If all
        places are taken, a key with few of them gets one of the key with the most. Raises
        QueueFull."""
        with self._lock:
            if ticket.line == name:
                return
            if ticket.line is None:
                self._make_room(ticket)
                ticket.began = self._clock()
                self._tickets[ticket] = None
            else:
                self._remove(ticket, served=True)
            ticket.line = name
            line = self._lines.setdefault(name, _Line())
            weight = ticket.asks.get(name, 1.0) / ticket.share
            line.queue.push(ticket, ticket.key, weight, ticket.again)
            self._call_first(line)

    def leave(self, ticket: LimitTicket, *, served: bool = False) -> None:
        """End the waiting; `served`: because it got what it waits for. Safe to call again."""
        with self._lock:
            if ticket.line is not None:
                self._remove(ticket, served=served)
                del self._tickets[ticket]

    def is_first(self, ticket: LimitTicket) -> bool:
        line = self._lines.get(ticket.line) if ticket.line is not None else None
        return line is not None and line.first is ticket

    def wake(self, names: Iterable[LimitName]) -> None:
        """Let the first in the lines of these limits ask again: something was given back."""
        for name in names if self._lines else ():
            line = self._lines.get(name)
            if line is not None and (first := line.first) is not None:
                first.event.set()

    def place(self, ticket: LimitTicket) -> LimitPlace:
        line = self._lines.get(ticket.line) if ticket.line is not None else None
        if line is None:
            return LimitPlace(0)
        place, now = line.queue.place(ticket), self._clock()
        return LimitPlace(place, _estimate(line, ticket, place, now))

    def waiting(self, key: str) -> Iterator[LimitWaiter]:
        """All that wait, line by line, as the key may see them."""
        now = self._clock()
        for line in tuple(self._lines.values()):
            for place, one in enumerate(line.queue, start=1):
                seconds = _estimate(line, one, place, now)
                waited = round(now - one.began, 3)
                yield LimitWaiter(place, seconds, one.model, waited, one.key == key)

    def _later(self, ticket: LimitTicket) -> LimitName | None:
        """The next limit that others wait for, behind the one that this request waits for. Those
        before it are not looked at, so that two lines never pass requests to and fro."""
        names, line = list(ticket.asks), ticket.line
        if line is None or line not in ticket.asks:
            return None
        return self.first_of(names[names.index(line) + 1 :])

    def _put_off(self, ticket: LimitTicket, found: Refused) -> None:
        """Note when the line of a refused request may go on, if it is the first."""
        if not self.is_first(ticket):
            return
        assert ticket.line is not None, "the first of a line"
        line, by = self._lines[ticket.line], found.by
        line.ready = None if found.wait is None else self._clock() + found.wait
        if isinstance(by, Charge):
            line.pace = by.meter.rate * MICROSECONDS / (by.meter.tick * TICKS)

    def _make_room(self, ticket: LimitTicket) -> None:
        """Raises QueueFull."""
        if len(self._tickets) < self._most:
            return
        last = displaced(tuple(self._tickets), ticket.key)
        full = QueueFull(
            "too many requests wait for the limits of their API keys: try again later",
            retry_after=1.0,
        )
        if last is None:
            raise full
        self._remove(last, served=False)
        del self._tickets[last]
        last.error = full
        last.event.set()

    def _remove(self, ticket: LimitTicket, *, served: bool) -> None:
        name, ticket.line = ticket.line, None
        assert name is not None, "only called for one that waits"
        line = self._lines[name]
        if served:
            line.queue.served(ticket)
        else:
            line.queue.remove(ticket)
        if line.queue:
            self._call_first(line)
        else:
            del self._lines[name]

    def _call_first(self, line: _Line) -> None:
        """Let the first ask the limiter, if it is another one than before."""
        first = next(iter(line.queue))
        if first is not line.first:
            line.first = first
            first.event.set()


def _until_look(found: Refused, pause: float) -> float:
    """Seconds until a refused request asks again, if it is not woken before."""
    by, wait = found.by, found.wait
    if isinstance(by, Charge) and not by.gives_back and wait is not None:
        return max(NEXT, wait)  # nothing comes back sooner
    return max(NEXT, min(pause, wait if wait is not None else pause))


def _estimate(line: _Line, ticket: LimitTicket, place: int, now: float) -> float | None:
    """About how many seconds are left, if those before ask for as much."""
    if line.ready is None or ticket.line is None or not line.pace:
        return None
    each = ticket.asks.get(ticket.line, 1.0) / line.pace
    return round(max(0.0, line.ready - now) + (place - 1) * each, 1)
