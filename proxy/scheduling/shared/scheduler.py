"""A scheduler whose table is shared: it writes what happens into the log, and hears what came of
it.

Every worker follows the log with a replica of its own; the log's order is what they agree by. So a
request costs one trip to Redis before it is placed, and the policy is the very same as in one
process. What needs no answer (a first token, a slot given back) is written without waiting.

Without the log, requests are placed by load, by a scheduler of this process alone: no slot is asked
for by number, as others use them too, and each worker takes its part of the slots. When the log is
back, the worker joins again and forgets what slots hold where it may be wrong.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import threading
import uuid
from collections.abc import Callable

import msgspec

from ...cancel import Cancel
from ...errors import Cancelled, GatewayError, QueueTimeout
from ..lease import Lease, Outcome
from ..prefix import Chain
from ..scheduler import Scheduler
from ..state import Conversation, Grant, Keeps, Step, Want
from ..ticket import Ticket
from ..view import View
from . import ops, snapshot
from .log import EVERY, Entry, LogError, RedisLog
from .ops import Facts, Op
from .replica import Replica, Rules, Told

log = logging.getLogger("slotproxy.scheduling")

BEAT = 1.5  # seconds between two signs of life
ANSWER = 2.0  # seconds within which what was written must have come back
REJOIN = 1.0  # seconds between two attempts
SOONEST = 0.02  # seconds between two looks at a queue in which a time was reached
ALONE = "state: Redis is gone, requests are placed by load"


class SharedLease(Lease):
    """`id` is its number in the log."""

    __slots__ = ("id",)

    def __init__(
        self, lender: SharedScheduler, want: Want, grant: Grant, conversation: Conversation, id: int
    ) -> None:
        super().__init__(lender, want, grant, conversation)
        self.id = id

    def ends(self) -> None:
        lender = self._lender
        assert isinstance(lender, SharedScheduler)
        lender.post(ops.Ends(self.id))


class SharedTicket(Ticket):
    """What a request came to. `queued`: it has a place; `adrift`: the log was lost since, and
    `alone` is its place where nobody shares."""

    __slots__ = ("adrift", "alone", "id", "queued", "steps")

    def __init__(self, scheduler: SharedScheduler, want: Want, began: float, id: int) -> None:
        super().__init__(scheduler, want, Conversation(), began)
        self.id = id
        self.queued = self.adrift = False
        self.alone: Ticket | None = None


class SharedScheduler:
    """As `Scheduler`, for as many processes as share the log."""

    def __init__(
        self,
        shared: RedisLog,
        clock: Callable[[], float],
        *,
        version: str,
        max_queue: int = 256,
        queue_timeout: float = 300.0,
        groups: bool = False,
        disk: int = 0,
    ) -> None:
        self._log = shared
        self._clock = clock
        self._queue_timeout = queue_timeout
        self._rules = Rules(version, max_queue, groups, disk)
        self._alone = Scheduler(
            clock, max_queue=max_queue, queue_timeout=queue_timeout, groups=groups
        )
        self._me = uuid.uuid4().hex[:12]
        self._lock = threading.RLock()  # around all below
        self._replica = Replica(self._rules)
        self._applied = 0.0  # our clock's time when the last entry was applied
        self._up = False
        self._why = "Redis was not reached yet"
        self._strayed: set[str] = set()  # backends used without the log
        self._mine: dict[str, tuple[bool | None, Facts]] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, SharedTicket] = {}
        self._leases: dict[int, SharedLease] = {}
        self._steps: dict[int, tuple[threading.Event, list[tuple[Step, ...]]]] = {}
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
        for thread in self._threads:
            thread.start()

    def ready(self, seconds: float) -> bool:
        """Whether the table is shared, or will be within so many seconds."""
        return self._joined.wait(seconds)

    @property
    def notices(self) -> tuple[str, ...]:
        return () if self._up else (ALONE,)

    # what the registry tells

    def update(
        self,
        name: str,
        model: str,
        *,
        up: bool | None,
        slots: int,
        weight: float = 1.0,
        pins: bool = True,
        keeps: Keeps = "nothing",
        settles: float = 0.0,
    ) -> None:
        with self._lock:
            facts = Facts(model, slots, weight, pins, keeps, settles)
            self._mine[name] = up, facts
            self.post(ops.Found(name, up, facts))
            self._tell_alone(name)

    def mark(self, name: str, up: bool) -> None:
        with self._lock:
            if name in self._mine:
                self._mine[name] = up, self._mine[name][1]
            self.post(ops.Down(name, up))
            self._alone.mark(name, up)

    def drain(self, name: str) -> None:
        with self._lock:
            self._mine.pop(name, None)
            self.post(ops.Drain(name))
            self._alone.drain(name)

    def _tell_alone(self, name: str) -> None:
        up, facts = self._mine[name]
        slots = math.ceil(facts.slots / max(1, len(self._replica.members)))
        self._alone.update(
            name,
            facts.model,
            up=up,
            slots=slots,
            weight=facts.weight,
            pins=False,
            settles=facts.settles,
        )

    # what the gateway asks

    def chain(
        self, prompt: str | tuple[int, ...], boundaries: tuple[int, ...] = (), group: str = ""
    ) -> Chain:
        return self._alone.chain(prompt, boundaries, group)

    def acquire(self, want: Want, cancel: Cancel, again: bool = False) -> Lease:
        found = self.enter(want, again)
        if isinstance(found, Lease):
            return found
        lease = found.wait(cancel)
        assert lease is not None, "it waits without end"
        return lease

    def enter(self, want: Want, again: bool = False) -> Lease | Ticket:
        with self._lock:
            if not self._up:
                return self._enter_alone(want, again)
            number = next(self._numbers)
            ticket = SharedTicket(self, want, self._clock(), number)
            self._waiting[number] = ticket
            # What we cannot reach is nothing for us, even where others can.
            unseen = frozenset(name for name, (up, _) in self._mine.items() if not up)
            self.post(ops.come(number, want, unseen, again))
        answered = ticket.event.wait(ANSWER)
        with self._lock:
            if not answered:
                self._lose("Redis does not answer")
            if ticket.adrift:
                return self._enter_alone(want, again)
            if ticket.error is not None:
                raise ticket.error
            if ticket.lease is None:
                return ticket
            lease, ticket.lease = ticket.lease, None
            return lease

    def _enter_alone(self, want: Want, again: bool) -> Lease | Ticket:
        return self._alone.enter(msgspec.structs.replace(want, chain=Chain(), session=""), again)

    @property
    def outstanding(self) -> int:
        """Of this worker."""
        return len(self._leases) + self._alone.outstanding

    @property
    def waiting(self) -> int:
        """Of all workers."""
        return (self._replica.scheduler if self._up else self._alone).waiting

    def in_flight(self, name: str) -> int:
        alone = self._alone.in_flight(name)
        return alone + (self._replica.scheduler.in_flight(name) if self._up else 0)

    def slots(self, name: str) -> int:
        return (self._replica.scheduler if self._up else self._alone).slots(name)

    def view(self, group: str, key: str) -> View:
        with self._lock:
            if not self._up:
                found = self._alone.view(group, key)
                return msgspec.structs.replace(found, state="alone")
            found = self._replica.scheduler.view(group, key)
            return msgspec.structs.replace(
                found, state="shared", workers=len(self._replica.members)
            )

    def leaks(self, lease: Lease, outcome: Outcome) -> bool:
        return self._alone.leaks(lease, outcome)

    # for leases alone

    def flows(self, lease: Lease, number: int) -> None:
        assert isinstance(lease, SharedLease)
        self.post(ops.Flows(lease.id, number))

    def steps(self, lease: Lease) -> tuple[Step, ...]:
        assert isinstance(lease, SharedLease)
        heard: tuple[threading.Event, list[tuple[Step, ...]]] = threading.Event(), []
        self._steps[lease.id] = heard
        self.post(ops.Steps(lease.id))
        heard[0].wait(ANSWER)
        self._steps.pop(lease.id, None)
        return heard[1][0] if heard[1] else ()

    def stepped(self, lease: Lease, step: Step, tokens: int, size: int, seconds: float) -> None:
        assert isinstance(lease, SharedLease)
        self.post(ops.Stepped(lease.id, step, tokens, size, seconds))

    def give_back(self, lease: Lease, outcome: Outcome) -> None:
        assert isinstance(lease, SharedLease)
        with self._lock:
            self._leases.pop(lease.id, None)
            self.post(ops.Back(lease.id, outcome))

    # for tickets alone

    def wait_for(self, ticket: Ticket, cancel: Cancel, seconds: float) -> Lease | None:
        assert isinstance(ticket, SharedTicket)
        end = self._clock() + seconds
        cancel.add(ticket.event.set)
        try:
            while True:
                if ticket.alone is not None:
                    return ticket.alone.wait(cancel, max(0.0, end - self._clock()))
                ticket.event.clear()  # before looking, so that no news is missed
                with self._lock:
                    now = self._clock()
                    left = ticket.began + self._queue_timeout - now
                    if cancel.cancelled or (left <= 0 and ticket.lease is None):
                        self.leave(ticket)
                        if cancel.cancelled:
                            raise Cancelled("the client closed the request")
                        raise QueueTimeout("no slot came free in time", retry_after=1.0)
                    if ticket.lease is not None:
                        lease, ticket.lease = ticket.lease, None
                        return lease
                    if ticket.error is not None:
                        raise ticket.error
                    if ticket.adrift:
                        found = self._enter_alone(ticket.want, True)
                        if isinstance(found, Lease):
                            return found
                        ticket.alone = found
                        continue
                    if now >= end:
                        return None
                    pause = min(left, end - now, self._until(ticket, now))
                ticket.event.wait(pause)
        finally:
            cancel.remove(ticket.event.set)

    def _until(self, ticket: SharedTicket, now: float) -> float:
        """Seconds until it is to be thought over again, for which the log's time must go on."""
        mine = self._replica.members.get(self._me)
        known = mine.tickets.get(ticket.id) if mine is not None else None
        if known is None:
            return BEAT
        left = known.until - self._replica.now - (now - self._applied)
        if left <= 0 and not self._beating:
            self._beating = True
            self.post(ops.Beat())
        return max(SOONEST, left)

    def leave(self, ticket: Ticket) -> None:
        assert isinstance(ticket, SharedTicket)
        if ticket.alone is not None:
            ticket.alone.leave()
        with self._lock:
            if self._waiting.pop(ticket.id, None) is not None:
                self.post(ops.Leave(ticket.id))
            lease, ticket.lease = ticket.lease, None
        if lease is not None:
            lease.release()

    def place(self, ticket: Ticket) -> int:
        assert isinstance(ticket, SharedTicket)
        if ticket.alone is not None:
            return ticket.alone.place
        with self._lock:
            mine = self._replica.members.get(self._me)
            known = mine.tickets.get(ticket.id) if mine is not None else None
            return known.place if known is not None else 0

    # the log

    def post(self, op: Op) -> None:
        """Write it soon. Without the log, only what must be told later is kept."""
        with self._lock:
            if self._up or isinstance(op, ops.Back | ops.Leave):
                self._outbox.append(op)
                self._posted.set()

    def _write(self) -> None:
        """The writer's thread."""
        agreed = 0.0
        while not self._closed.is_set():
            self._posted.wait(BEAT)
            with self._lock:
                self._posted.clear()
                written, going = self._outbox, self._up
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
            except LogError as error:
                with self._lock:
                    self._outbox = [
                        op for op in written if isinstance(op, ops.Back | ops.Leave)
                    ] + self._outbox
                    self._lose(str(error))

    def _follow(self) -> None:
        """The reader's thread."""
        while not self._closed.is_set():
            try:
                position = self._join()
                while self._up and not self._closed.is_set():
                    position = self._read(position)
            except LogError as error:
                with self._lock:
                    self._lose(str(error))
            except Exception:
                log.exception("a defect in following the log")
                with self._lock:
                    self._lose("a defect, see the log")
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
        with self._lock:
            self._replica, self._applied = replica, self._clock()
            self._up = True
            self._joined.set()
            log.info("state: %d workers share the slots", len(replica.members))
            self._reconcile()
            self._introduce(self._strayed)
            self._strayed = set()
        return position

    def _reconcile(self) -> None:
        """What the log has of us, and we have no more."""
        mine = self._replica.members.get(self._me)
        known = {*mine.leases, *mine.tickets} if mine is not None else set()
        for number in known - {*self._leases}:
            self._outbox.append(ops.Leave(number))

    def _introduce(self, strayed: set[str]) -> None:
        for name, (up, facts) in self._mine.items():
            self._outbox.append(ops.Found(name, up, facts, name in strayed))
        self._posted.set()

    def _read(self, position: str) -> str:
        for entry in self._log.read(position):
            with self._lock:
                for told in self._replica.apply(entry.time, entry.member, _decoded(entry)):
                    if told.member == self._me:
                        self._hear(told)
                self._applied = self._clock()
                if entry.member == self._me:
                    self._beating = False
                    if self._forgotten():
                        log.warning("state: the others thought this worker dead")
                        self._introduce(set())
                data = b""
                if self._replica.entries % EVERY == 0 and entry.member == self._me:
                    data = snapshot.dump(self._replica)
            if data:
                self._log.keep(entry.position, data)
            position = entry.position
        return position

    def _forgotten(self) -> bool:
        """Whether this worker was known, and is not any more."""
        mine = self._replica.members.get(self._me)
        was, self._known = self._known, mine is not None and bool(mine.backends)
        return was and not self._known and bool(self._mine) and not self._closed.is_set()

    def _hear(self, told: Told) -> None:
        number, news = told.id, told.news
        if isinstance(news, tuple):
            heard = self._steps.get(number)
            if heard is not None:
                heard[1].append(news)
                heard[0].set()
        elif news is None:
            if number in self._leases:
                self._leases[number].flowing = True
        else:
            self._placed(number, news)

    def _placed(self, number: int, news: Lease | Ticket | GatewayError) -> None:
        ticket = self._waiting.get(number)
        if ticket is None:
            self.post(ops.Leave(number))  # nobody waits for it any more
            return
        if isinstance(news, Ticket):
            ticket.queued, ticket.first_place = True, news.first_place
        elif isinstance(news, Lease):
            lease = SharedLease(self, ticket.want, news.grant, news.conversation, number)
            lease.waited, lease.place = news.waited, news.place
            del self._waiting[number]
            self._leases[number] = ticket.lease = lease
        else:
            del self._waiting[number]
            ticket.error = news
        ticket.event.set()

    def _lose(self, why: str) -> None:
        """The log is gone: who waits goes on without it."""
        if not self._up:
            if why != self._why:
                log.warning("state: %s", why)
                self._why = why
            return
        log.warning("state: %s; requests are placed by load until it is back", why)
        self._up, self._why = False, why
        self._joined.clear()
        self._beating = self._known = False
        self._strayed = {*self._mine}
        for name in self._mine:
            self._tell_alone(name)
        for ticket in self._waiting.values():
            ticket.adrift = True
            ticket.event.set()
        self._waiting.clear()

    def close(self) -> None:
        """Tell the others, and end."""
        self._closed.set()
        self._posted.set()
        self._joined.set()
        for thread in self._threads:
            thread.join(timeout=2 * ANSWER)
        if self._up:
            with contextlib.suppress(LogError):
                self._log.append(self._me, ops.encode([*self._outbox, ops.Bye()]))
        self._log.close()


def _decoded(entry: Entry) -> list[Op]:
    try:
        return ops.decode(entry.ops)
    except msgspec.MsgspecError:
        log.error("state: an entry of %s in the log is none", entry.member[:40])
        return []


def _order(position: str) -> tuple[int, int]:
    time, _, number = position.partition("-")
    return int(time), int(number or 0)
