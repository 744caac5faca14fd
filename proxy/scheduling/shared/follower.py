"""One worker's place in the log: it writes what happens, and applies what all wrote.

Two threads do the trips to Redis, so that nobody who places a request waits for a write. When the
log is gone the follower says so once, keeps what must be told later, and joins again when it is
back. An exception that nobody thought of counts as a loss of the log too: both threads go on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable
from typing import Protocol

import msgspec

from . import ops, snapshot
from .log import EVERY, Entry, LogError, RedisLog
from .ops import Op
from .replica import Member, Replica, Rules, Told

log = logging.getLogger("slotproxy.scheduling")

BEAT = 1.5  # seconds between two signs of life
REJOIN = 1.0  # seconds between two attempts
ENDING = 4.0  # seconds the threads have to end
SOONEST = 0.02  # seconds between two looks at a queue in which a time was reached


class Listener(Protocol):
    """Who is told, under the follower's lock, and posts in answer."""

    def hear(self, told: Told) -> None:
        """What came of something that this worker wrote."""

    def joined(self) -> None:
        """The log is there (again): tell it what this worker has and finds."""

    def forgotten(self) -> None:
        """The others thought this worker dead, and know nothing of it."""

    def lost(self) -> None:
        """The log is gone."""


class Follower:
    """`lock` is around the replica and all that follows from it. `up`: the table is shared now."""

    def __init__(
        self, shared: RedisLog, clock: Callable[[], float], rules: Rules, listener: Listener
    ) -> None:
        self.lock = threading.RLock()
        self.replica = Replica(rules)
        self.up = False
        self._log = shared
        self._clock = clock
        self._rules = rules
        self._listener = listener
        self._me = uuid.uuid4().hex[:12]
        self._applied = 0.0  # our clock's time when the last entry was applied
        self._why = "Redis was not reached yet"
        self._defect = ""  # the last one that was logged
        self._outbox: list[Op] = []
        self._beating = False
        self._known = False  # by the others, with our backends
        self._posted = threading.Event()
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
        """Whether the table is shared, or will be within so many seconds."""
        return self._joined.wait(seconds)

    @property
    def member(self) -> Member | None:
        """This worker, as the log knows it."""
        return self.replica.members.get(self._me)

    def post(self, op: Op) -> None:
        """Write it soon. Without the log, only what must be told later is kept."""
        with self.lock:
            if self.up or isinstance(op, ops.Back | ops.Leave):
                self._outbox.append(op)
                self._posted.set()

    def time_left(self, until: float, now: float) -> float:
        """Seconds until the log's time is `until`, for which it must go on."""
        left = until - self.replica.now - (now - self._applied)
        if left <= 0 and not self._beating:
            self._beating = True
            self.post(ops.Beat())
        return max(SOONEST, left)

    def lose(self, why: str) -> None:
        """The log is gone, or of no use."""
        with self.lock:
            if not self.up:
                if why != self._why:
                    log.warning("state: %s", why)
                    self._why = why
                return
            log.warning("state: %s; requests are placed by load until it is back", why)
            self.up, self._why = False, why
            self._joined.clear()
            self._beating = self._known = False
            self._listener.lost()

    def _lose_by(self, error: Exception) -> None:
        if isinstance(error, LogError):
            self.lose(str(error))
            return
        if repr(error) != self._defect:
            self._defect = repr(error)
            log.error("a defect in sharing the table", exc_info=error)
        self.lose("a defect, see the log")

    def close(self) -> None:
        """Tell the others, and end."""
        self._closed.set()
        self._posted.set()
        self._joined.set()
        for thread in self._threads:
            thread.join(timeout=ENDING)
        if self.up:
            with contextlib.suppress(LogError):
                self._log.append(self._me, ops.encode([*self._outbox, ops.Bye()]))
        self._log.close()

    def _write(self) -> None:
        """The writer's thread."""
        agreed = 0.0
        while not self._closed.is_set():
            self._posted.wait(BEAT)
            with self.lock:
                self._posted.clear()
                written, going = self._outbox, self.up
                if going:
                    self._outbox = []
            if not going:
                self._joined.wait(BEAT)
                continue
            try:
                self._log.append(self._me, ops.encode(written or [ops.Beat()]))
                if self._clock() - agreed > 4 * BEAT:
                    self._log.agree(msgspec.msgpack.encode(self._rules))
                    agreed = self._clock()
            except Exception as error:
                with self.lock:
                    self._outbox = [
                        op for op in written if isinstance(op, ops.Back | ops.Leave)
                    ] + self._outbox
                    self._lose_by(error)

    def _follow(self) -> None:
        """The reader's thread."""
        while not self._closed.is_set():
            try:
                position = self._join()
                while self.up and not self._closed.is_set():
                    position = self._read(position)
            except Exception as error:
                self._lose_by(error)
            self._closed.wait(REJOIN)

    def _join(self) -> str:
        """Take up what the log led to so far, and what came in between."""
        self._log.agree(msgspec.msgpack.encode(self._rules))
        data, position = self._log.begin()
        try:
            replica = snapshot.load(data, self._rules) if data else Replica(self._rules)
        except ValueError as error:
            raise LogError(f"{error} in Redis: delete the log and its snapshot") from None
        mark = self._log.append(self._me, ops.encode([ops.Beat()]))
        while _order(position) < _order(mark):
            for entry in self._log.read(position):
                replica.apply(entry.time, entry.member, _decoded(entry))
                position = entry.position
        with self.lock:
            self.replica, self._applied = replica, self._clock()
            self.up = True
            self._joined.set()
            log.info("state: %d workers share the slots", len(replica.members))
            self._listener.joined()
        return position

    def _read(self, position: str) -> str:
        for entry in self._log.read(position):
            with self.lock:
                for told in self.replica.apply(entry.time, entry.member, _decoded(entry)):
                    if told.member == self._me:
                        self._listener.hear(told)
                self._applied = self._clock()
                if entry.member == self._me:
                    self._beating = False
                    if self._is_forgotten() and not self._closed.is_set():
                        self._listener.forgotten()
                data = b""
                if self.replica.entries % EVERY == 0 and entry.member == self._me:
                    data = snapshot.dump(self.replica)
            if data:
                self._log.keep(entry.position, data)
            position = entry.position
        return position

    def _is_forgotten(self) -> bool:
        """Whether this worker was known, and is not any more."""
        mine = self.member
        was, self._known = self._known, mine is not None and bool(mine.backends)
        return was and not self._known


def _decoded(entry: Entry) -> list[Op]:
    try:
        return ops.decode(entry.ops)
    except (ValueError, RecursionError):
        log.error("state: an entry of %s in the log is none", entry.member[:40])
        return []


def _order(position: str) -> tuple[int, int]:
    time, _, number = position.partition("-")
    return int(time), int(number or 0)
