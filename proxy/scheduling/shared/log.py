"""The log: a stream in Redis or Valkey, with a snapshot of the state after its entries.

The server's stream ids order the entries and are the clock. Every `EVERY` entries, the worker that
wrote the last of them writes a snapshot, and the stream is trimmed before the previous snapshot, so
that slow readers still find their entries. A slower reader, such as one on a machine that was
suspended, does not; it notices, because each reply to it begins with the last entry it had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from ...runtime import redis_client
from .ops import FORMAT

EVERY = 8192  # entries
BATCH = 64  # entries read per batch, at most, so that other threads may run in between
BLOCK = 500  # milliseconds a read waits for new entries
RULES_LAST = 30  # seconds that the rules outlive the last worker using them

# Whoever begins an empty log writes an entry without operations. Returns {its first entry}.
BEGIN = """
if redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('XADD', KEYS[1], '*', 'begin', '')
end
return redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
"""
# KEYS: snapshot, log. ARGV: the number and position of an entry, and the state after it. A worker
# that was slow must not replace a newer snapshot: the entries after its own may be trimmed.
KEEP = """
local before = redis.call('HMGET', KEYS[1], 'number', 'position')
if before[1] and tonumber(before[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'number', ARGV[1], 'position', ARGV[2], 'data', ARGV[3])
if before[2] then redis.call('XTRIM', KEYS[2], 'MINID', '~', before[2]) end
return 1
"""


class LogError(Exception):
    """The log is unavailable. The message is logged and shown to clients; it has no secrets."""


Position = tuple[int, int]  # an id of the stream


class LogEntry(NamedTuple):
    """`time` is in seconds of the Redis server; `ops` is the output of `ops.encode`."""

    position: Position
    time: float
    member: str
    ops: bytes


class RedisLog:
    """A log at `url` (redis://, rediss:// or unix://, as redis-py accepts it). Tables with another
    `name` are separate.

    Raises ImportError if redis-py is not installed, ValueError for an invalid URL. Every method
    raises LogError."""

    def __init__(self, url: str, name: str) -> None:
        import redis

        self._error = redis.RedisError
        self._redis: Any = redis_client.connect(url)
        key = f"slotproxy:{{{name}}}:"
        # The format is in the keys, so that an upgraded worker never reads an older format.
        self._log, self._snapshot = f"{key}log:{FORMAT}", f"{key}snapshot:{FORMAT}"
        self._rules = key + "rules"
        self._begin = self._redis.register_script(BEGIN)
        self._keep = self._redis.register_script(KEEP)
        self._idle: list[Any] = []  # connections

    @contextmanager
    def _reach(self) -> Iterator[None]:
        try:
            yield
        except (self._error, OSError) as error:
            raise LogError(f"Redis is unavailable: {type(error).__name__}") from error

    def ping(self) -> None:
        """Check that Redis answers; nothing is read or written."""
        with self._reach():
            self._redis.ping()

    def agree(self, rules: bytes) -> None:
        """Set these rules, or check that they are the current ones. Call again within
        `RULES_LAST` seconds. Raises LogError if the other workers have other rules."""
        with self._reach():
            self._redis.set(self._rules, rules, nx=True, ex=RULES_LAST)
            current = self._redis.get(self._rules)
            if current == rules:
                self._redis.expire(self._rules, RULES_LAST)
        if current != rules:
            raise LogError("other gateways on this Redis use different settings or another version")

    def begin(self) -> tuple[bytes, Position]:
        """The snapshot (b"" for none), and the position after which to read."""
        with self._reach():
            position, data = self._redis.hmget(self._snapshot, "position", "data")
            if data is not None:
                return data, _position(position)
            ((begin, fields),) = self._begin([self._log])
        if b"begin" not in fields:
            raise LogError(f"the snapshot of the log {self._log} is missing: delete the log")
        return b"", _position(begin)

    def append(self, member: str, ops: bytes) -> Position:
        """Write an entry. Returns its position."""
        return _position(*self._ask(self._append(member, ops)))

    def exchange(self, member: str, ops: bytes, position: Position) -> Sequence[LogEntry]:
        """Write an entry. Returns the entries after a position, in one round trip."""
        mark, rows = self._ask(self._append(member, ops), self._read(position))
        _position(mark)
        return _entries(rows, position)

    def read(self, position: Position) -> Sequence[LogEntry]:
        """The entries after a position. Waits for a moment; empty if there are none."""
        last = "{}-{}".format(*position)
        news = "XREAD", "COUNT", 1, "BLOCK", BLOCK, "STREAMS", self._log, last
        _, rows = self._ask(news, self._read(position))
        return _entries(rows, position)

    def _append(self, member: str, ops: bytes) -> tuple[Any, ...]:
        return "XADD", self._log, "NOMKSTREAM", "*", "member", member, "ops", ops

    def _read(self, position: Position) -> tuple[Any, ...]:
        return "XRANGE", self._log, "{}-{}".format(*position), "+", "COUNT", 1 + BATCH

    def _ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        """The replies to commands sent at once, without what redis-py does around each of them."""
        with self._reach():
            pool = self._redis.connection_pool
            connection = self._idle.pop() if self._idle else pool.make_connection()
            try:
                connection.send_packed_command(connection.pack_commands(commands))
                return [connection.read_response() for _ in commands]
            except BaseException:
                for broken in (connection, *self._idle):
                    broken.disconnect()  # until its next use
                raise
            finally:
                self._idle.append(connection)

    def keep(self, number: int, position: Position, data: bytes) -> None:
        """Store a snapshot of the state after so many entries, unless there is a newer one."""
        with self._reach():
            values = [number, "{}-{}".format(*position), data]
            self._keep([self._snapshot, self._log], values)

    def close(self) -> None:
        for connection in self._idle:
            connection.disconnect()
        self._redis.close()


def _position(reply: bytes | None) -> Position:
    if reply is None:
        raise LogError("the log in Redis was deleted")
    time, _, number = reply.partition(b"-")
    return int(time), int(number)


def _entries(rows: Any, after: Position) -> list[LogEntry]:
    """The entries in the reply to XRANGE, which begins with the one at the position. Without it,
    entries after it may be missing too, so this worker has to join again."""
    if not rows or _position(rows[0][0]) != after:
        raise LogError("this worker missed entries of the log, as after a long pause")
    entries = []
    for key, values in rows[1:]:
        position, fields = _position(key), dict(zip(values[::2], values[1::2], strict=True))
        member = fields.get(b"member", b"").decode("utf-8", "replace")
        ops = fields.get(b"ops", b"\x90")
        entries.append(LogEntry(position, position[0] / 1000, member, ops))
    return entries
