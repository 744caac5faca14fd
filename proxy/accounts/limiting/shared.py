"""Meters in Redis or Valkey, which all workers and hosts share.

A request takes everything in one round trip. A thread gives back what it did not use; with a limit
of running requests, the request itself waits for that. The leases of a killed worker end after
LEASE seconds, and everything is given back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from secrets import token_hex
from typing import Any, NamedTuple

import msgspec

from ...errors import LimitsUnavailable
from ...runtime import redis_client
from ...runtime.keep_alive import KeepAlive
from ...runtime.locks import native_lock
from . import scripts
from .limiter import (
    ANY,
    MICROSECONDS,
    TICKS,
    Charge,
    Gauge,
    Level,
    Refused,
    Spent,
    Taken,
    nothing,
    wait,
)

LEASE = 10  # seconds
RENEWAL = 2.5  # seconds between two renewals
AGAIN = 1.0  # seconds for which a failed Redis is not asked again
AT_ONCE = 200  # leases renewed, or requests settled, in one round trip
MOST_WAITING = 32_768  # settlements that wait for Redis; without it, the oldest are dropped
FOREVER = 400 * 86_400_000  # milliseconds until an unused budget is read from the ledger again

log = logging.getLogger("slotproxy.limits")
_encode = msgspec.msgpack.Encoder().encode


class _Settlement(NamedTuple):
    taken: Taken
    used: Sequence[int]
    leases: Sequence[tuple[str, str]]  # keys of sets and leases


class SharedLimiter:
    """Limits of all workers with this `url` and `name`. Raises ImportError, ValueError."""

    def __init__(self, url: str, name: str, spent: Spent = nothing) -> None:
        import redis

        self._error, self._timeout = redis.RedisError, redis.TimeoutError
        self._redis: Any = redis_client.connect(url)
        # Another number for other units of a level, so that no level of an older release is read.
        self._prefix = f"slotproxy:{{{name}}}:limits2:"
        self._take = self._redis.register_script(scripts.TAKE)
        self._settle = self._redis.register_script(scripts.SETTLE)
        self._renew = self._redis.register_script(scripts.RENEW)
        self._spent = spent
        self._leases: dict[str, Sequence[tuple[str, str]]] = {}  # keys of sets and leases, by id
        self._lock = native_lock()
        self._waiting: deque[_Settlement] = deque()
        self._work = threading.Event()
        self._closed = threading.Event()
        self._down = 0.0  # until when Redis is not asked again
        self._thread: threading.Thread | None = None

    def take(self, charges: Sequence[Charge], gauges: Sequence[Gauge]) -> Taken | Refused:
        """Raises LimitsUnavailable."""
        self._start()
        keys = _Keys(self._prefix)
        given_back = [number for number, charge in enumerate(charges) if charge.gives_back]
        held = [
            (
                keys.place(gauge.subject, gauge.name),
                keys.place(gauge.subject),
                gauge.most,
                [n + 1 for n in given_back if charges[n].subject == gauge.subject],
            )
            for gauge in gauges
        ]
        wanted = [
            (keys.place(c.subject), *c.meter[:5], c.need, c.wish, c.least, -1) for c in charges
        ]
        lease, count = token_hex(8), len(charges)
        lasts = max(map(_lasts, charges), default=1000 * LEASE)
        job = lease, LEASE, wanted, held, lasts
        answer = self._run(self._take, keys.names, _encode(job))
        unknown = [place for place, level in enumerate(answer[2 : 2 + count]) if level == b"-1"]
        if unknown:
            for place in unknown:
                wanted[place] = (*wanted[place][:-1], self._spent(charges[place]))
            answer = self._run(self._take, keys.names, _encode(job))
        refused, now, *rest = answer
        at = int(now)
        levels = [int(item) for item in rest[:count]]
        if place := int(refused):
            if place > count:
                return Refused(gauges[place - count - 1], None, levels, at)
            charge, level = charges[place - 1], levels[place - 1]
            before = Level(level, charge.meter.time(at))
            return Refused(charge, wait(charge, before, at), levels, at)
        amounts = [int(item) for item in rest[count : 2 * count]]
        leases = [item.decode() for item in rest[2 * count :]]
        with self._lock:
            self._leases[lease] = [
                (keys.names[gauge[0] - 1], item) for gauge, item in zip(held, leases, strict=True)
            ]
        after = [level + amount for level, amount in zip(levels, amounts, strict=True)]
        return Taken(charges, gauges, amounts, after, at, lease)

    def settle(self, taken: Taken, used: Sequence[int]) -> None:
        settlement = _Settlement(taken, used, self._leases[taken.lease])
        if any(gauge.most != ANY for gauge in taken.gauges) and not self._waiting:
            try:
                self._settle_all((settlement,))
                return
            except LimitsUnavailable:
                pass  # the thread tries again
        if len(self._waiting) >= MOST_WAITING:
            self._forget((self._waiting.popleft(),))
        self._waiting.append(settlement)
        self._work.set()

    def close(self) -> None:
        """Give back what is still to be settled."""
        self._closed.set()
        self._work.set()
        if self._thread is not None:
            self._thread.join(redis_client.SECONDS + 1.0)
        self._redis.close()

    def _run(self, script: Any, keys: Sequence[str], *args: Any) -> Any:
        if time.monotonic() < self._down:
            raise _unavailable()
        try:
            answer = script(keys, args)
        except (self._error, OSError) as error:
            if not self._down:
                log.error("limits: Redis is unavailable: %s", type(error).__name__)
            self._down = time.monotonic() + AGAIN
            raise _unavailable() from error
        if self._down:
            log.warning("limits: Redis is back")
            self._down = 0.0
        return answer

    # the thread

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._serve, name="limits", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        lasting = KeepAlive("settling limits", self._closed.wait)
        renewed = time.monotonic()
        while not self._closed.is_set():
            if not self._waiting:
                self._work.wait(RENEWAL)
                self._work.clear()
            if self._waiting:
                lasting.turn(self._settle_or_pause)
            if time.monotonic() - renewed >= RENEWAL:
                renewed = time.monotonic()
                lasting.turn(self._renew_leases)
        with suppress(LimitsUnavailable):
            while self._waiting:
                self._settle_waiting()

    def _settle_or_pause(self) -> None:
        try:
            self._settle_waiting()
        except LimitsUnavailable:
            self._closed.wait(AGAIN)

    def _settle_waiting(self) -> None:
        """Settle the first that wait. Raises LimitsUnavailable."""
        first = tuple(islice(self._waiting, AT_ONCE))
        self._settle_all(first)
        for settlement in first:
            if self._waiting and self._waiting[0] is settlement:  # not dropped meanwhile
                self._waiting.popleft()

    def _settle_all(self, settlements: Sequence[_Settlement]) -> None:
        """Settle these in one round trip. Raises LimitsUnavailable if Redis has not;
        after a timeout it may have, and twice would be wrong."""
        keys = _Keys(self._prefix)
        jobs = [_job(settlement, keys) for settlement in settlements]
        try:
            self._run(self._settle, keys.names, *jobs)
        except LimitsUnavailable as fault:
            if not isinstance(fault.__cause__, self._timeout):
                raise
        self._forget(settlements)

    def _forget(self, settlements: Sequence[_Settlement]) -> None:
        """Renew their leases no more."""
        with self._lock:
            for settlement in settlements:
                self._leases.pop(settlement.taken.lease, None)

    def _renew_leases(self) -> None:
        with self._lock:
            leases = [lease for batch in self._leases.values() for lease in batch]
        for start in range(0, len(leases), AT_ONCE):
            batch = leases[start : start + AT_ONCE]
            try:
                keys, names = zip(*batch, strict=True)
                self._run(self._renew, keys, LEASE, *names)
            except LimitsUnavailable:
                return


class _Keys:
    """The keys of a script, each once; places are counted from 1, as in Lua."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.names: list[str] = []

    def place(self, *parts: str) -> int:
        return self.key(self._prefix + "\0".join(parts))

    def key(self, name: str) -> int:
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name) + 1


def _job(settlement: _Settlement, keys: _Keys) -> bytes:
    """A job of `scripts.SETTLE`."""
    taken, used, leases = settlement
    subjects = [gauge.subject for gauge in taken.gauges]
    changes = [
        (
            keys.place(charge.subject),
            *charge.meter[:5],
            amount,
            units,
            subjects.index(charge.subject) + 1,
        )
        for charge, amount, units in zip(taken.charges, taken.amounts, used, strict=True)
        if charge.gives_back
    ]
    return _encode(([(keys.key(key), lease) for key, lease in leases], changes))


def _lasts(charge: Charge) -> int:
    """Milliseconds after which an unused meter may be forgotten."""
    meter = charge.meter
    return 2 * TICKS * meter.tick * 1000 // MICROSECONDS if meter.rate else FOREVER


def _unavailable() -> LimitsUnavailable:
    return LimitsUnavailable(
        "the limits of this API key cannot be checked: Redis is unavailable. Try again, or ask the"
        " operator",
        retry_after=AGAIN,
    )
