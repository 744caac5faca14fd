"""Connects a worker to the shared log: writes its operations and applies everybody's entries.

Two threads do the round trips to Redis, so that no request waits for a write. One writes, and reads
what is new in the same round trip; the other waits for entries of other workers. When the log is
lost, the follower logs it once, keeps the operations that must not be lost, and joins again when it
is back. An unexpected exception counts as a loss of the log too, so both threads keep running.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from ...runtime.locks import native_rlock
from . import ops, snapshot
from .log import BATCH, EVERY, LogEntry, LogError, Position, RedisLog
from .ops import Op
from .replica import OpResult, Replica, ReplicaMember, SharedRules

log = logging.getLogger("slotproxy.scheduling")

BEAT = 1.5  # seconds between two heartbeats
REJOIN = 1.0  # seconds between two attempts to join
ENDING = 4.0  # seconds the threads get to end
LINGER = 0.001  # seconds in which operations without a result are written together
PAUSE = 0.01  # seconds between two reads of entries that others write, if none waits for a slot
BUSY_PAUSE, MANY = 0.05, 8  # the same for a worker with so many requests under way
HURRIED = (ops.Enqueue, ops.RequestSteps)
LASTING = (ops.Release, ops.Leave)  # those that must not be lost
SOONEST = 0.02  # seconds between two looks at a queue after a deadline was reached


class Listener(Protocol):
    """Called under the follower's lock; it may post operations in response."""

    def on_result(self, result: OpResult) -> None:
        """The result of an operation of this worker."""

    def joined(self) -> None:
        """The log is connected, perhaps again: say what this worker has and what not."""

    def forgotten(self) -> None:
        """The other workers considered this one dead and dropped its state."""

    def lost(self) -> None:
        """The log is lost: let waiting requests continue without it."""

    def check(self) -> None:
        """Called now and then while the log is connected: lose it if it owes a result for long."""


class Follower:
    """`lock` protects the replica and everything derived from it. Nothing waits under it, so it is
    a native lock. `up`: the table is shared."""

    def __init__(
        self, shared: RedisLog, clock: Callable[[], float], rules: SharedRules, listener: Listener
    ) -> None:
        self.lock = native_rlock()
        self.replica = Replica(rules)
        self.up = False
        self._log = shared
        self._clock = clock
        self._rules = rules
        self._listener = listener
        self._me = uuid.uuid4().hex[:12]
        self._applied = 0.0  # our clock's time when the last entry was applied
        self._why = "Redis has not been reached yet"
        self._defect = ""  # the last unexpected exception, which is logged only once
        self._outbox: list[Op] = []
        self._beating = False
        self._mine: ReplicaMember | None = None  # as of this worker's last entry
        self._position: Position = 0, 0  # of the last entry applied
        self._read_at = 0.0  # when the writer last read
        self._posted = threading.Event()
        self._hurried = threading.Event()  # some of it has a result that a request waits for
        self._urgent = threading.Event()  # the reader does not pause
        self._joined = threading.Event()
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, name="log-reader", daemon=True),
            threading.Thread(target=self._write, name="log-writer", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def ready(self, seconds: float) -> bool:
        """Whether the table is shared, after waiting for at most so many seconds."""
        return self._joined.wait(seconds)

    @property
    def member(self) -> ReplicaMember | None:
        """This worker in the replica, or None if the log does not know it."""
        return self.replica.members.get(self._me)

    def post(self, op: Op) -> None:
        """Queue an operation for the writer. Without the log, only lasting ones are kept."""
        with self.lock:
            if self.up or isinstance(op, LASTING):
                self._outbox.append(op)
                self._posted.set()
                if isinstance(op, HURRIED):
                    self._hurried.set()

    def time_left(self, until: float, now: float) -> float:
        """Seconds until the log's time is `until`. Posts a heartbeat if that has passed, because
        only entries advance the log's time."""
        left = until - self.replica.now - (now - self._applied)
        if left <= 0 and not self._beating:
            self._beating = True
            self.post(ops.Heartbeat())
        return max(SOONEST, left)

    def lose(self, why: str) -> None:
        """Record that the log is unavailable or unusable, with the reason."""
        with self.lock:
            was_up, is_news = self.up, why != self._why
            self.up, self._why = False, why
            if was_up:
                self._joined.clear()
                self._beating = False
                self._listener.lost()
        if was_up:
            log.warning("state: %s; placing requests by load until it recovers", why)
        elif is_news:
            log.warning("state: %s", why)

    def _lose_by(self, error: Exception) -> None:
        is_defect = not isinstance(error, LogError)
        if is_defect and repr(error) != self._defect:
            self._defect = repr(error)
            log.error("unhandled exception while sharing slots", exc_info=error)
        self.lose("internal error, see the log" if is_defect else str(error))

    def close(self) -> None:
        """Tell the other workers that this one leaves, and stop."""
        for event in (self._closed, self._posted, self._urgent, self._joined):
            event.set()
        for thread in self._threads:
            thread.join(timeout=ENDING)
        if self.up:
            with contextlib.suppress(LogError):
                self._log.append(self._me, ops.encode([*self._outbox, ops.MemberLeft()]))
            with self.lock:
                self.up = False
                self._listener.lost()
        self._log.close()

    def _write(self) -> None:
        agreed = 0.0
        while not self._closed.is_set():
            if self._posted.wait(BEAT) and self._hurried.wait(LINGER):
                time.sleep(0)  # requests that are ready to write join this one
            with self.lock:
                self._posted.clear()
                self._hurried.clear()
                written, going, replica = self._outbox, self.up, self.replica
                if going:
                    self._outbox = []
            if not going:
                self._joined.wait(BEAT)
                continue
            try:
                encoded = ops.encode(written or [ops.Heartbeat()])
                self._take(replica, self._log.exchange(self._me, encoded, self._position))
                self._read_at = self._clock()
                if self._clock() - agreed > 4 * BEAT:
                    self._log.agree(msgspec.msgpack.encode(self._rules))
                    agreed = self._clock()
            except Exception as error:
                with self.lock:
                    self._outbox[:0] = [op for op in written if isinstance(op, LASTING)]
                self._lose_by(error)

    def _follow(self) -> None:
        while not self._closed.is_set():
            try:
                self._join()
                while self.up and not self._closed.is_set():
                    self._listener.check()
                    pause = self._pause()
                    if self._urgent.wait(pause) or self._clock() - self._read_at > pause:
                        self._urgent.clear()
                        self._take(self.replica, self._log.read(self._position))
            except Exception as error:
                self._lose_by(error)
            self._closed.wait(REJOIN)

    def _pause(self) -> float:
        """A worker with many requests writes often, and reads then."""
        member, idle = self.member, self.replica.scheduler.idle_leases
        return BUSY_PAUSE if member and len(member.leases) >= MANY and not idle else PAUSE

    def _join(self) -> None:
        """Load the newest snapshot and apply the entries after it."""
        self._log.agree(msgspec.msgpack.encode(self._rules))
        data, position = self._log.begin()
        try:
            replica = snapshot.load(data, self._rules) if data else Replica(self._rules)
        except ValueError as error:
            raise LogError(f"{error} in Redis: delete the log and its snapshot") from None
        mark = self._log.append(self._me, ops.encode([ops.Heartbeat()]))
        while position < mark:
            for entry in self._log.read(position):
                _apply(replica, entry)
                position = entry.position
        with self.lock:
            self.replica, self._applied, self._position = replica, self._clock(), position
            self._mine = self.member
            self.up = True
            self._joined.set()
            self._listener.joined()
        log.info("state: %d workers share the slots", len(replica.members))

    def _take(self, replica: Replica, entries: Sequence[LogEntry]) -> None:
        """Apply entries that were read for this replica, and pass on the results."""
        for entry in entries:
            with self.lock:
                if replica is not self.replica:
                    return  # this worker has joined again meanwhile
                if entry.position <= self._position:
                    continue  # the other thread has read it, too
                results = _apply(replica, entry)
                self._applied, self._position = self._clock(), entry.position
                is_forgotten = False
                if entry.member == self._me:
                    self._beating = False
                    # It was dropped since its last entry if this one has made another member.
                    before, self._mine = self._mine, self.member
                    is_forgotten = before not in (None, self._mine) and not self._closed.is_set()
                    if is_forgotten:
                        self._listener.forgotten()  # before it hears of backends that it lacks
                for result in results:
                    if result.member == self._me:
                        self._listener.on_result(result)
                number, data = replica.entries, b""
                if number % EVERY == 0 and entry.member == self._me:
                    data = snapshot.dump(replica)
            if is_forgotten:
                log.warning("state: the other workers considered this worker dead")
            if data:
                self._log.keep(number, entry.position, data)
        member = self.member
        if len(entries) == BATCH or (member is not None and member.tickets):
            self._urgent.set()


def _apply(replica: Replica, entry: LogEntry) -> list[OpResult]:
    try:
        written = ops.decode(entry.ops)
    except (ValueError, RecursionError):
        log.error("state: invalid log entry from %s", entry.member[:40])
        written = []
    return replica.apply(entry.time, entry.member, written)
