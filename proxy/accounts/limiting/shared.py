"""Meters in Redis or Valkey, which all workers and hosts share.

A request takes everything in one round trip. A thread gives back what it did not use; with a limit
of running requests, the request itself waits for that. The leases of a killed worker end after
LEASE seconds, and everything is given back.

Lua scripts do in Redis what `LocalLimiter` does in a process. Each subject has a hash with the
levels of its meters ("USED:AT" by name), and a sorted set of leases for each gauge. A lease is
"ID|NAME=UNITS,…": what it took and gives back if its worker dies. Numbers are doubles, written with
all digits.
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

COMMON = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local job = cmsgpack.unpack(ARGV[1])
local text = function(number) return string.format('%.0f', number) end

-- The level of a charge {key, name, capacity, rate, tick, epoch, …}, and its time. The level of a
-- budget is nil if nothing is known of its epoch.
local function level(one)
  local rate, at = one[4], one[6]
  if rate > 0 then at = math.floor(now / one[5]) end
  local known = redis.call('HGET', KEYS[one[1]], one[2])
  local used, before = string.match(known or '', '^(%d+):(%d+)$')
  used, before = tonumber(used), tonumber(before)
  if not used then
    if rate > 0 then return 0, at end
    return nil, at
  end
  if at <= before then return used, before end
  if rate == 0 then return nil, at end
  return math.max(0, used - (at - before) * rate), at
end

local function set(one, used, at)
  redis.call('HSET', KEYS[one[1]], one[2], text(math.max(0, used)) .. ':' .. text(at))
end
"""

# job: {lease id, seconds of a lease, charges {key, name, capacity, rate, tick, epoch, need, wish,
# least, level if it is unknown or -1}, gauges {key of the set, key of the hash, most, places of the
# charges that are given back}, milliseconds that a hash lasts at least}.
# Returns {place of what refused or 0, now, levels…}, and if nothing refused {…, units taken…,
# leases…}. Places of charges come before those of gauges. A level of -1 is unknown.
TAKE = (
    COMMON
    + """
local charges, gauges = job[3], job[4]

-- Give back what dead workers have leased.
for _, gauge in ipairs(gauges) do
  local dead = redis.call('ZRANGEBYSCORE', KEYS[gauge[1]], '-inf', now, 'LIMIT', 0, 100)
  for _, lease in ipairs(dead) do
    redis.call('ZREM', KEYS[gauge[1]], lease)
    for name, units in string.gmatch(lease, '([%w_/]+)=(%d+)') do
      local known = redis.call('HGET', KEYS[gauge[2]], name)
      local used, at = string.match(known or '', '^(%d+):(%d+)$')
      if used then
        redis.call('HSET', KEYS[gauge[2]], name, text(math.max(0, used - units)) .. ':' .. at)
      end
    end
  end
end

local refused, levels, ats, amounts, from_ledger = 0, {}, {}, {}, {}
for place, gauge in ipairs(gauges) do
  if gauge[3] >= 0 and redis.call('ZCARD', KEYS[gauge[1]]) >= gauge[3] then
    refused = #charges + place
  end
end
for place, one in ipairs(charges) do
  local used, at = level(one)
  if not used then used, from_ledger[place] = one[10], true end
  levels[place], ats[place] = used, at
  local left = one[3] - used
  amounts[place] = math.min(one[8], left, math.max(one[7], one[9], math.floor(left / 2)))
  if refused == 0 and (used < 0 or one[7] > left) then refused = place end
end
local answer = {tostring(refused), text(now)}
for place in ipairs(charges) do answer[#answer + 1] = text(levels[place]) end
if refused > 0 then return answer end

for place, one in ipairs(charges) do
  set(one, levels[place] + amounts[place], ats[place])
  if from_ledger[place] then
    redis.call('HSET', KEYS[one[1]], 'read ' .. one[2], text(now))
  end
  -- Never sooner: other models of this subject may have meters that last longer.
  if redis.call('PTTL', KEYS[one[1]]) < job[5] then
    redis.call('PEXPIRE', KEYS[one[1]], text(job[5]))
  end
  answer[#answer + 1] = text(amounts[place])
end
for _, gauge in ipairs(gauges) do
  local units = {}
  for _, place in ipairs(gauge[4]) do
    units[#units + 1] = charges[place][2] .. '=' .. text(amounts[place])
  end
  local lease = job[1] .. '|' .. table.concat(units, ',')
  redis.call('ZADD', KEYS[gauge[1]], text(now + job[2] * 1000000), lease)
  redis.call('EXPIRE', KEYS[gauge[1]], 10 * job[2])
  answer[#answer + 1] = lease
end
return answer
"""
)

# ARGV: jobs {gauges {key of the set, lease}, charges {key, name, capacity, rate, tick, epoch, units
# taken, units used, place of the gauge that leased them}, microseconds since the request ended}. If
# that lease was given back, all of the units used are charged, unless the level was read from the
# ledger since, which had them: Redis had lost it. An epoch that is over changes no more.
SETTLE = (
    COMMON
    + """
for _, packed in ipairs(ARGV) do
  local gauges, charges, ended = unpack(cmsgpack.unpack(packed))
  local leased = {}
  for place, gauge in ipairs(gauges) do
    leased[place] = redis.call('ZREM', KEYS[gauge[1]], gauge[2]) == 1
  end
  for _, one in ipairs(charges) do
    local used, at = level(one)
    local change = one[8]
    if leased[one[9]] then
      change = one[8] - one[7]
    elseif one[4] == 0 then
      local read = tonumber(redis.call('HGET', KEYS[one[1]], 'read ' .. one[2]) or 0)
      if read > now - ended + 1000000 then change = 0 end -- a row is written within a second
    end
    if used and change ~= 0 and (one[4] > 0 or at == one[6]) then set(one, used + change, at) end
  end
end
return 1
"""
)

# KEYS: sorted sets. ARGV: seconds of a lease, then a lease of each.
RENEW = """
local time = redis.call('TIME')
local ends = time[1] * 1000000 + time[2] + ARGV[1] * 1000000
for place, key in ipairs(KEYS) do
  redis.call('ZADD', key, 'XX', string.format('%.0f', ends), ARGV[place + 1])
  redis.call('EXPIRE', key, 10 * ARGV[1])
end
return 1
"""


LEASE = 10  # seconds
RENEWAL = 2.5  # seconds between two renewals
AGAIN = 1.0  # seconds for which a failed Redis is not asked again
AT_ONCE = 200  # leases renewed, or requests settled, in one round trip
MOST_WAITING = 32_768  # settlements that wait for Redis; without it, the oldest are dropped
FOREVER = 400 * 86_400_000  # milliseconds until an unused budget is read from the ledger again

log = logging.getLogger("slotproxy.limits")
_encode = msgspec.msgpack.Encoder().encode


class _Settlement(NamedTuple):
    ended: float  # when it was asked for
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
        self._take = self._redis.register_script(TAKE)
        self._settle = self._redis.register_script(SETTLE)
        self._renew = self._redis.register_script(RENEW)
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
        claims = [
            (keys.place(c.subject), *c.meter[:5], c.need, c.wish, c.least, -1) for c in charges
        ]
        lease, count = token_hex(8), len(charges)
        lasts = max(map(_lasts, charges), default=1000 * LEASE)
        job = lease, LEASE, claims, held, lasts
        answer = self._run(self._take, keys.names, _encode(job))
        unknown = [place for place, level in enumerate(answer[2 : 2 + count]) if level == b"-1"]
        if unknown:
            for place in unknown:
                claims[place] = (*claims[place][:-1], self._spent(charges[place]))
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
        settlement = _Settlement(time.monotonic(), taken, used, self._leases[taken.lease])
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
    """A job of `SETTLE`."""
    ended, taken, used, leases = settlement
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
    ago = round((time.monotonic() - ended) * MICROSECONDS)
    return _encode(([(keys.key(key), lease) for key, lease in leases], changes, ago))


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
