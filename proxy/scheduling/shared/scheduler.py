"""A scheduler that shares its table with other processes through a log.

Every worker applies the log to a replica of its own; the log's order makes the replicas agree. A
request costs one round trip to Redis before it is placed, and the policy is the same as in a single
process. Operations that need no result (a first token, a released slot) are written without
waiting.

A request for which this worker finds no backend up waits locally, and is written once one is up.

Without the log, a local scheduler places requests by load: no slot is requested by number, because
other workers use them too, and each worker uses its part of the slots. When the log is back, the
worker joins again and forgets cached prompts where they may have changed.
"""

from __future__ import annotations

import itertools
import logging
import math
import queue
from collections.abc import Callable

import msgspec

from ...errors import GatewayError, NoBackend, QueueFull
from ..base import PLACE_LOST, BaseScheduler
from ..fair import displaced
from ..lease import Lease, LeaseOwner, Outcome, Ticket, TicketOwner
from ..prefix import Chain
from ..scheduler import LocalScheduler
from ..state import MOST_SLOTS, BackendFacts, ConversationRecord, Grant, SlotRequest, SlotStep
from ..view import View
from . import ops
from .follower import BEAT, Follower
from .log import RedisLog
from .replica import OpResult, SharedRules, SlotWanted


# The leases and tickets of one worker, each with its number in the log.
class SharedLease(Lease):
    """A lease whose number in the log is `id`."""

    __slots__ = ("id",)

    def __init__(
        self,
        lender: LeaseOwner,
        want: SlotRequest,
        grant: Grant,
        conversation: ConversationRecord,
        id: int,
    ) -> None:
        super().__init__(lender, want, grant, conversation)
        self.id = id


class SharedTicket(Ticket):
    """A ticket whose number in the log is `id`.

    `log_lost`: the log was lost since, and `local_ticket` is the ticket of the local scheduler that
    replaces it. `rewritten` counts how often it is written again because the log knew of no backend
    that is up although this worker did."""

    __slots__ = ("id", "local_ticket", "log_lost", "rewritten")

    def __init__(
        self, scheduler: TicketOwner, want: SlotRequest, began: float, id: int, again: bool = False
    ) -> None:
        super().__init__(scheduler, want, ConversationRecord(), began, again)
        self.id = id
        self.log_lost = False
        self.rewritten = 0
        self.local_ticket: Ticket | None = None


log = logging.getLogger("slotproxy.scheduling")

ANSWER = 2.0  # seconds until an operation's result counts as missing
OVERTAKEN = 0.25  # seconds until a request is written again if the log did not know its backend
OVERTAKEN_MOST = 8  # times that a request is written again
ALONE = "state: Redis is unavailable, placing requests by load"


class SharedScheduler(BaseScheduler):
    """Like `LocalScheduler`, for all processes that share the log."""

    def __init__(
        self,
        shared: RedisLog,
        clock: Callable[[], float],
        *,
        version: str,
        max_queue: int = 256,
        queue_timeout: float = 300.0,
        wait_for_backend: float = 0.0,
        groups: bool = False,
        disk: int = 0,
    ) -> None:
        self._clock = clock
        self._max_queue = max_queue
        self._queue_timeout = queue_timeout
        self._wait_for_backend = wait_for_backend
        self._local = LocalScheduler(
            clock,
            max_queue=max_queue,
            queue_timeout=queue_timeout,
            wait_for_backend=wait_for_backend,
            groups=groups,
        )
        self._local.on_stranded = lambda model: self.on_stranded(model)
        self._strayed: set[str] = set()  # backends used while the log was lost
        self._backends: dict[str, tuple[bool | None, BackendFacts]] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, SharedTicket] = {}
        self._stranded: dict[int, SharedTicket] = {}  # not written, as no backend is up for them
        self._leases: dict[int, SharedLease] = {}
        self.on_stranded: Callable[[str], None] = lambda model: None
        self._steps: dict[int, queue.SimpleQueue[tuple[SlotStep, ...]]] = {}
        rules = SharedRules(version, max_queue=max_queue, groups=groups, disk=disk)
        self._follower = Follower(shared, clock, rules, self)
        self._lock = self._follower.lock
        self._post = self._follower.post
        self._follower.start()

    def ready(self, seconds: float) -> bool:
        """Whether the table is shared, after waiting for at most so many seconds."""
        return self._follower.ready(seconds)

    def close(self) -> None:
        """Tell the other workers that this one leaves, and stop."""
        self._follower.close()

    @property
    def notices(self) -> tuple[str, ...]:
        return () if self._follower.up else (ALONE,)

    # for the registry

    def update(
        self,
        name: str,
        facts: BackendFacts,
        *,
        up: bool | None,
        anew: bool = False,
        replaces: bool = False,
    ) -> None:
        with self._lock:
            facts = msgspec.structs.replace(facts, slots=min(facts.slots, MOST_SLOTS))
            self._backends[name] = up, facts
            self._post(ops.BackendFound(name, up, facts, anew, replaces))
            self._update_local(name, replaces)
            self._write_unstranded()

    def mark(self, name: str, up: bool, load_delay: float = 0.0) -> None:
        with self._lock:
            if name not in self._backends:
                return  # it was drained
            self._backends[name] = up, self._backends[name][1]
            self._post(ops.BackendHealth(name, up, load_delay))
            self._local.mark(name, up, load_delay)
            self._write_unstranded()

    def queued(self, name: str, running: int) -> None:
        with self._lock:
            if name in self._backends:
                self._post(ops.BackendQueues(name, running))
                self._local.queued(name, running)

    def drain(self, name: str) -> None:
        with self._lock:
            self._backends.pop(name, None)
            self._post(ops.Drain(name))
            self._local.drain(name)

    def _update_local(self, name: str, replaces: bool = False) -> None:
        up, facts = self._backends[name]
        slots = math.ceil(facts.slots / max(1, len(self._follower.replica.members)))
        share = msgspec.structs.replace(facts, slots=slots, pins=False, cache_kind="nothing")
        self._local.update(name, share, up=up, replaces=replaces)

    # for the gateway

    def enter(self, want: SlotRequest, again: bool = False) -> Lease | Ticket:
        with self._lock:
            if not self._follower.up:
                return self._enter_local(want, again)
            now = self._clock()
            ticket = SharedTicket(self, want, self._began(want, now), next(self._numbers), again)
            if want.idle and self._none_up(want):
                raise NoBackend()
            if self._wait_for_backend and self._none_up(want):
                if self.waiting >= self._max_queue and not again:
                    self._make_room(want)
                self._strand(ticket, now)
                return ticket
            self._write(ticket, again)
        answered = ticket.event.wait(ANSWER)
        with self._lock:
            if not answered:
                self._follower.lose("Redis is not responding")
            if ticket.log_lost:
                return self._enter_local(want, again)
            if ticket.error is not None:
                raise ticket.error
            if ticket.lease is None:
                return ticket
            lease, ticket.lease = ticket.lease, None
            return lease

    def _make_room(self, want: SlotRequest) -> None:
        """Make room in a full queue, among the requests that wait locally only. Raises
        QueueFull."""
        ticket = displaced(tuple(self._stranded.values()), want.key)
        if ticket is None:
            raise QueueFull(
                f"the queue is full: {self.waiting} requests are already waiting", retry_after=1.0
            )
        del self._stranded[ticket.id]
        ticket.error = QueueFull(PLACE_LOST, retry_after=1.0)
        ticket.event.set()

    def _write(self, ticket: SharedTicket, again: bool) -> None:
        """Write a request under a new number, so that results of an earlier one are ignored."""
        self._stranded.pop(ticket.id, None)
        self._waiting.pop(ticket.id, None)
        ticket.id = next(self._numbers)
        ticket.stranded = None
        self._waiting[ticket.id] = ticket
        self._post(ops.enqueue(ticket.id, ticket.want, again))

    def _views(self, want: SlotRequest) -> list[bool | None]:
        """This worker's view of its backends that could serve a request."""
        return [
            up
            for name, (up, facts) in self._backends.items()
            if facts.model == want.model
            and name not in want.exclude
            and facts.tier.name not in want.barred
        ]

    def _none_up(self, want: SlotRequest) -> bool:
        """Whether this worker has backends for a request but finds none of them up."""
        views = self._views(want)
        return bool(views) and not any(views)

    def _strand(self, ticket: SharedTicket, now: float) -> None:
        ticket.stranded = now
        self._stranded[ticket.id] = ticket
        self.on_stranded(ticket.want.model)

    def _may_strand(self, ticket: SharedTicket) -> bool:
        """Whether to wait for a backend when the log knows of none that is up."""
        views = self._views(ticket.want)
        if not any(views):
            return bool(views) and self._wait_for_backend > 0
        ticket.rewritten += 1
        return ticket.rewritten <= OVERTAKEN_MOST

    def _write_unstranded(self) -> None:
        """Health changed: write the requests whose backends are back, in order of arrival."""
        for ticket in tuple(self._stranded.values()):
            if any(self._views(ticket.want)):
                self._write(ticket, again=False)

    def _enter_local(self, want: SlotRequest, again: bool) -> Lease | Ticket:
        return self._local.enter(msgspec.structs.replace(want, chain=Chain(), session=""), again)

    @property
    def _table(self) -> LocalScheduler:
        """The scheduler that places requests at the moment."""
        return self._follower.replica.scheduler if self._follower.up else self._local

    @property
    def outstanding(self) -> int:
        """The number of this worker's leases."""
        return len(self._leases) + self._local.outstanding

    @property
    def waiting(self) -> int:
        """The number of requests waiting in all workers."""
        return self._table.waiting + len(self._stranded)

    def idle_slots(self, model: str) -> int:
        return self._table.idle_slots(model)

    def in_flight(self, name: str) -> int:
        alone = self._local.in_flight(name)
        return alone + (self._table.in_flight(name) if self._follower.up else 0)

    def slots(self, name: str) -> int:
        return self._table.slots(name)

    def view(self, group: str, key: str) -> View:
        with self._lock:
            if not self._follower.up:
                view = self._local.view(group, key)
                return msgspec.structs.replace(view, state="alone")
            view = self._table.view(group, key)
            return msgspec.structs.replace(
                view, state="shared", workers=len(self._follower.replica.members)
            )

    def leaks(self, lease: Lease, outcome: Outcome) -> bool:
        return self._local.leaks(lease, outcome)

    # for leases

    def on_last_token(self, lease: Lease) -> None:
        assert isinstance(lease, SharedLease)
        self._post(ops.LastToken(lease.id))

    def on_first_token(self, lease: Lease, number: int) -> None:
        assert isinstance(lease, SharedLease)
        self._post(ops.FirstToken(lease.id, number))

    def steps(self, lease: Lease) -> tuple[SlotStep, ...]:
        assert isinstance(lease, SharedLease)
        answer = self._steps[lease.id] = queue.SimpleQueue()
        self._post(ops.RequestSteps(lease.id))
        try:
            return answer.get(timeout=ANSWER)
        except queue.Empty:
            return ()
        finally:
            del self._steps[lease.id]

    def record_step(
        self, lease: Lease, step: SlotStep, tokens: int, size: int, seconds: float
    ) -> None:
        assert isinstance(lease, SharedLease)
        self._post(ops.StepDone(lease.id, step, tokens, size, seconds))

    def give_back(self, lease: Lease, outcome: Outcome) -> None:
        assert isinstance(lease, SharedLease)
        with self._lock:
            self._leases.pop(lease.id, None)
            self._post(ops.Release(lease.id, outcome))

    # for tickets

    def look(self, ticket: Ticket, now: float) -> float:
        assert isinstance(ticket, SharedTicket)
        with self._lock:
            if ticket.log_lost and ticket.local_ticket is None:
                entry = self._enter_local(ticket.want, True)
                if isinstance(entry, Lease):
                    ticket.lease, ticket.log_lost = entry, False
                    return now
                ticket.local_ticket, entry.event = entry, ticket.event
            if ticket.local_ticket is not None:
                until = self._local.look(ticket.local_ticket, now)
                ticket.stranded = ticket.local_ticket.stranded
                ticket.lease, ticket.local_ticket.lease = ticket.local_ticket.lease, None
                ticket.error = ticket.local_ticket.error
                return until
            if ticket.id in self._stranded:
                return self._look_at_stranded(ticket, now)
            member = self._follower.member
            known = member.tickets.get(ticket.id) if member is not None else None
            if known is None:
                return now + BEAT
            known.wakes = known.until  # its event wakes the request if that becomes sooner
            return now + self._follower.time_left(known.until, now)

    def _look_at_stranded(self, ticket: SharedTicket, now: float) -> float:
        assert ticket.stranded is not None, "set with its place there"
        if any(self._views(ticket.want)) and ticket.rewritten <= OVERTAKEN_MOST:
            # The log knew of no backend that is up, but this worker has seen one come back.
            if now >= ticket.stranded + OVERTAKEN:
                self._write(ticket, again=True)
            return now + OVERTAKEN
        if self._is_lost(ticket, now):
            del self._stranded[ticket.id]
            ticket.error = NoBackend()
            return now
        return ticket.until

    def expected_wait(self, want: SlotRequest) -> float:
        return 1.0

    def leave(self, ticket: Ticket) -> None:
        assert isinstance(ticket, SharedTicket)
        if ticket.local_ticket is not None:
            ticket.local_ticket.leave()
        with self._lock:
            self._stranded.pop(ticket.id, None)
            if self._waiting.pop(ticket.id, None) is not None:
                self._post(ops.Leave(ticket.id))
            lease, ticket.lease = ticket.lease, None
        if lease is not None:
            lease.release()

    def place(self, ticket: Ticket) -> int:
        assert isinstance(ticket, SharedTicket)
        if ticket.local_ticket is not None:
            return ticket.local_ticket.place
        with self._lock:
            member = self._follower.member
            known = member.tickets.get(ticket.id) if member is not None else None
            return known.place if known is not None else 0

    # for the follower

    def hear(self, result: OpResult) -> None:
        number, news = result.id, result.news
        if isinstance(news, tuple):
            answer = self._steps.get(number)
            if answer is not None:
                answer.put(news)
        elif isinstance(news, SlotWanted):
            if number in self._leases:
                self._leases[number].want_back()
        elif news is None:
            if number in self._leases:
                self._leases[number].streaming = True
        else:
            self._on_placed(number, news)

    def _on_placed(self, number: int, news: Lease | Ticket | GatewayError) -> None:
        ticket = self._waiting.get(number)
        if ticket is None:
            self._post(ops.Leave(number))  # the request has left
            return
        if isinstance(news, Ticket):
            ticket.first_place = news.first_place
            news.event = ticket.event
        elif isinstance(news, Lease) and news.backend not in self._backends:
            # The backend was drained after this was written. By now the log knows.
            self._post(ops.Leave(number))
            self._write(ticket, again=True)
            return
        elif isinstance(news, Lease):
            lease = SharedLease(self, ticket.want, news.grant, news.conversation, number)
            lease.waited, lease.place = news.waited, news.place
            del self._waiting[number]
            self._leases[number] = ticket.lease = lease
        elif isinstance(news, NoBackend) and not ticket.want.idle and self._may_strand(ticket):
            del self._waiting[number]
            self._strand(ticket, self._clock())
        else:
            del self._waiting[number]
            ticket.error = news
        ticket.event.set()

    def joined(self) -> None:
        member = self._follower.member
        known = {*member.leases, *member.tickets} if member is not None else set()
        for number in known - {*self._leases}:  # the log still has them, this worker does not
            self._post(ops.Leave(number))
        self._introduce(self._strayed)
        self._strayed = set()

    def forgotten(self) -> None:
        if self._backends:
            log.warning("state: the other workers considered this worker dead")
            self._introduce(set())
        member = self._follower.member
        for ticket in tuple(self._waiting.values()):
            if member is None or ticket.id not in member.tickets:
                self._write(ticket, again=True)  # its place in the queue was dropped

    def _introduce(self, strayed: set[str]) -> None:
        for name, (up, facts) in self._backends.items():
            self._post(ops.BackendFound(name, up, facts, name in strayed))

    def lost(self) -> None:
        """Let waiting requests continue with the local scheduler."""
        self._strayed = {*self._backends}
        for name in self._backends:
            self._update_local(name)
        for ticket in (*self._waiting.values(), *self._stranded.values()):
            ticket.log_lost = True
            ticket.event.set()
        self._waiting.clear()
        self._stranded.clear()
