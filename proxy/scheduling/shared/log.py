"""The log itself: a stream in Redis or Valkey, and beside it a snapshot of what it led to.

The server's stream ids order the entries and tell the time. A snapshot is written every `EVERY`
entries, by who wrote the last of them, and the stream is cut before the snapshot before that: who
reads slowly still finds what it has not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from .ops import FORMAT

EVERY = 8192  # entries
BATCH = 64  # entries read at once, at most: others may run in between
SECONDS = 2.0  # until a silent server counts as gone
BLOCK = 500  # milliseconds a read waits for something new
RULES_LAST = 30  # seconds after the last worker that goes by them
T = TypeVar("T")


class LogError(Exception):
    """The log cannot be had. The message is for the log and for clients: without any secret."""


class Entry(NamedTuple):
    """`time` in seconds of the server; `ops` as `ops.encode` wrote them."""

    position: str
    time: float
    member: str
    ops: bytes


class RedisLog:
    """`url` as redis-py takes it (redis://, rediss://, unix://); `name` tells tables apart.

    Raises ImportError where redis-py is not installed, ValueError for an url that is none."""

    def __init__(self, url: str, name: str) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self._error = redis.RedisError
        self._redis: Any = redis.Redis.from_url(
            url,
            socket_timeout=SECONDS,
            socket_connect_timeout=SECONDS,
            protocol=2,
            # Written twice is worse than not written.
            retry=Retry(NoBackoff(), 0),
        )
        key = f"slotproxy:{{{name}}}:"
        # Whoever joins after an upgrade begins anew, rather than to read what it cannot.
        self._log, self._snapshot = f"{key}log:{FORMAT}", f"{key}snapshot:{FORMAT}"
        self._rules = key + "rules"

    def _ask(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except (self._error, OSError) as error:
            raise LogError(f"Redis is gone: {type(error).__name__}") from error

    def agree(self, rules: bytes) -> None:
        """Go by these rules with all others, or by none. To be said again before they end."""

        def ask() -> bytes | None:
            self._redis.set(self._rules, rules, nx=True, ex=RULES_LAST)
            found: bytes | None = self._redis.get(self._rules)
            if found == rules:
                self._redis.expire(self._rules, RULES_LAST)
            return found

        if self._ask(ask) != rules:
            raise LogError("others at this Redis run with other settings, or of another version")

    def begin(self) -> tuple[bytes, str]:
        """The snapshot, b"" for none, and the position to read on from."""

        def ask() -> tuple[bytes, str]:
            position, data = self._redis.hmget(self._snapshot, "position", "data")
            if data is not None:
                return data, position.decode()
            first = self._redis.xrange(self._log, count=1)
            if not first:
                self._redis.xadd(self._log, {"begin": ""})
            elif b"begin" not in first[0][1]:
                raise LogError(f"the snapshot of the log {self._log} is gone: delete the log")
            return b"", "0"

        return self._ask(ask)

    def append(self, member: str, ops: bytes) -> str:
        """The position of the new entry."""
        fields = {"member": member, "ops": ops}
        found = self._ask(lambda: self._redis.xadd(self._log, fields, nomkstream=True))
        if found is None:
            raise LogError("the log in Redis was deleted")
        return str(found.decode())

    def read(self, position: str) -> Sequence[Entry]:
        """What comes after it; nothing after a while without news."""
        found = self._ask(
            lambda: self._redis.xread({self._log: position}, count=BATCH, block=BLOCK)
        )
        entries = []
        for _, rows in found or ():
            for key, fields in rows:
                at = key.decode()
                member = fields.get(b"member", b"").decode("utf-8", "replace")
                time = int(at.split("-")[0]) / 1000
                entries.append(Entry(at, time, member, fields.get(b"ops", b"\x90")))
        return entries

    def keep(self, position: str, data: bytes) -> None:
        """A snapshot of what all entries up to this position led to."""

        def ask() -> None:
            before = self._redis.hget(self._snapshot, "position")
            self._redis.hset(self._snapshot, mapping={"position": position, "data": data})
            if before is not None:
                self._redis.xtrim(self._log, minid=before, approximate=True)

        self._ask(ask)

    def close(self) -> None:
        self._redis.close()
