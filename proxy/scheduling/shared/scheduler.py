"""A scheduler that shares its table with other processes through a log.

Every worker applies the log to a replica of its own; the log's order makes the replicas agree. A
request costs one round trip to Redis before it is placed, and the policy is the same as in a single
process. Operations that need no result (a first token, a released slot) are written without
waiting.

Without the log, a local scheduler places requests by load: no slot is requested by number, because
other workers use them too, and each worker uses its part of the slots. When the log is back, the
worker joins again and forgets cached prompts where they may have changed.
"""

from __future__ import annotations

import itertools
import math
import queue
from collections.abc import Callable
from typing import Any

import msgspec

from ...errors import GatewayError
from ..lease import BaseScheduler, Lease, Outcome, Ticket
from ..placement import Preview
from ..prefix import Chain
from ..scheduler import LocalScheduler
from ..state import MOST_SLOTS, BackendFacts, ConversationRecord, SlotRequest, SlotStep
from ..view import View
from . import ops
from .follower import BEAT, Follower
from .log import RedisLog
from .replica import OpResult, SharedRules, SlotWanted


class SharedTicket(Ticket, kw_only=True):
    id: int  # its number in the log
    local_ticket: Ticket | None = None  # replaces it because the log was lost


ANSWER = 2.0  # seconds until an operation's result counts as missing
ALONE = "state: Redis is unavailable, placing requests by load"


class SharedScheduler(BaseScheduler):
    """Like `LocalScheduler`, for all processes that share the log."""

    def __init__(
        self,
        shared: RedisLog,
        clock: Callable[[], float],
        *,
        version: str,
        queue_timeout: float = 300.0,
        **rules: Any,
    ) -> None:
        """`rules` are those of `SharedRules`."""
        shared_rules = SharedRules(version, **rules)
        self._clock = clock
        self._queue_timeout = queue_timeout
        self._wait_for_backend = shared_rules.wait_for_backend
        self._local = shared_rules.scheduler(clock, queue_timeout)
        self._local.on_stranded = lambda model: self.on_stranded(model)
        self._used_alone: set[str] = set()  # backends used while the log was lost
        self._backends: dict[str, tuple[bool | None, BackendFacts]] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, SharedTicket] = {}
        self._unanswered: dict[int, float] = {}  # of them, when they were written, oldest first
        self._overdue = 0  # the number of a request whose result is late
        self._leases: dict[int, Lease] = {}
        self.on_stranded: Callable[[str], None] = lambda model: None
        self._steps: dict[int, queue.SimpleQueue[tuple[SlotStep, ...]]] = {}
        self._follower = Follower(shared, clock, shared_rules, self)
        self._lock = self._follower.lock
        self._post = self._follower.post
        self.ready, self.close = self._follower.ready, self._follower.close
        self._follower.start()

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

    def mark(self, name: str, up: bool, load_delay: float = 0.0) -> None:
        with self._lock:
            if name not in self._backends:
                return  # it was drained
            self._backends[name] = up, self._backends[name][1]
            self._post(ops.BackendHealth(name, up, load_delay))
            self._local.mark(name, up, load_delay)

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

    def enter(self, request: SlotRequest, is_retry: bool = False) -> Lease | Ticket:
        with self._lock:
            if not self._follower.up:
                return self._enter_local(request, is_retry)
            now = self._clock()
            began = request.since or now
            if now - began >= self._queue_timeout:
                raise self._too_late(request)
            ticket = SharedTicket(self, request, ConversationRecord(), began, is_retry, id=0)
            self._write(ticket, is_retry)
        ticket.event.wait()  # without a timer for each: see `check`
        with self._lock:
            if ticket.error is not None:
                raise ticket.error
            lease, ticket.lease = ticket.lease, None
            return lease or ticket

    def _write(self, ticket: SharedTicket, is_retry: bool) -> None:
        """Write a request under a new number, so that results of an earlier one are ignored."""
        self._waiting.pop(ticket.id, None)
        ticket.id = next(self._numbers)
        self._waiting[ticket.id] = ticket
        self._unanswered[ticket.id] = self._clock()
        self._post(ops.enqueue(ticket.id, ticket.request, is_retry))

    def _enter_local(self, request: SlotRequest, is_retry: bool) -> Lease | Ticket:
        request = msgspec.structs.replace(request, chain=Chain(), session="")
        return self._local.enter(request, is_retry)

    @property
    def _table(self) -> LocalScheduler:
        return self._follower.replica.scheduler if self._follower.up else self._local

    @property
    def outstanding(self) -> int:
        return len(self._leases) + self._local.outstanding

    @property
    def waiting(self) -> int:
        """The number of requests waiting in all workers."""
        return self._table.waiting

    def idle_slots(self, model: str) -> int:
        return self._table.idle_slots(model)

    def in_flight(self, name: str) -> int:
        alone = self._local.in_flight(name)
        return alone + (self._table.in_flight(name) if self._follower.up else 0)

    def slots(self, name: str) -> int:
        return self._table.slots(name)

    def preview(self, request: SlotRequest) -> Preview:
        with self._lock:
            views = {name: up for name, (up, _) in self._backends.items()}
            request = ops.enqueue(0, request, is_retry=False).request
            return self._table.preview(msgspec.structs.replace(request, views=views))

    def view(self, group: str | None, key: str) -> View:
        with self._lock:
            view, members = self._table.view(group, key), self._follower.replica.members
            if not self._follower.up:
                return msgspec.structs.replace(view, state="alone")
            return msgspec.structs.replace(view, state="shared", workers=len(members))

    def leaks(self, lease: Lease, outcome: Outcome) -> bool:
        return self._local.leaks(lease, outcome)

    # for leases

    def on_last_token(self, lease: Lease) -> None:
        """Nothing is written: the release follows at once."""

    def on_first_token(self, lease: Lease, number: int) -> None:
        self._post(ops.FirstToken(lease.id, number if -1 <= number < MOST_SLOTS else -1))

    def steps(self, lease: Lease) -> tuple[SlotStep, ...]:
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
        self._post(ops.StepDone(lease.id, step, tokens, size, seconds))

    def give_back(self, lease: Lease, outcome: Outcome) -> None:
        with self._lock:
            self._leases.pop(lease.id, None)
            self._post(ops.Release(lease.id, outcome))

    # for tickets

    def look(self, ticket: Ticket, now: float) -> float:
        assert isinstance(ticket, SharedTicket)
        with self._lock:
            if ticket.lease is not None:
                return now
            if ticket.local_ticket is not None:
                until = self._local.look(ticket.local_ticket, now)
                ticket.no_backend_since = ticket.local_ticket.no_backend_since
                ticket.lease, ticket.local_ticket.lease = ticket.local_ticket.lease, None
                ticket.error = ticket.local_ticket.error
                return until
            member = self._follower.member
            in_log = member.tickets.get(ticket.id) if member is not None else None
            if in_log is None:
                return now + BEAT
            if in_log.no_backend_since is None:
                ticket.no_backend_since = None
            elif ticket.no_backend_since is None:
                ticket.no_backend_since = now  # by the clock of this process
                self.on_stranded(ticket.request.model)
            in_log.wakes = in_log.until  # its event wakes the request if that becomes sooner
            return now + self._follower.time_left(in_log.until, now)

    def expected_wait(self, request: SlotRequest) -> float:
        return 1.0

    def leave(self, ticket: Ticket) -> None:
        assert isinstance(ticket, SharedTicket)
        if ticket.local_ticket is not None:
            ticket.local_ticket.leave()
        with self._lock:
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
            in_log = member.tickets.get(ticket.id) if member is not None else None
            return in_log.place if in_log is not None else 0

    # for the follower

    def on_result(self, result: OpResult) -> None:
        number, value = result.id, result.value
        if isinstance(value, tuple):
            if number in self._steps:
                self._steps[number].put(value)
        elif isinstance(value, SlotWanted):
            if number in self._leases:
                self._leases[number].want_back()
        elif value is None:
            if number in self._leases:
                self._leases[number].streaming = True
        else:
            self._on_placed(number, value)

    def check(self) -> None:
        with self._lock:
            number, since = next(iter(self._unanswered.items()), (0, math.inf))
            if self._clock() - since <= ANSWER:
                return
            before, self._overdue = self._overdue, number
            # This process may have stood still: the result gets half as long again.
            self._unanswered[number] = self._clock() - ANSWER / 2
        if before == number:
            self._follower.lose("Redis is not responding")

    def _on_placed(self, number: int, value: Lease | Ticket | GatewayError) -> None:
        self._unanswered.pop(number, None)
        ticket = self._waiting.get(number)
        if ticket is None:
            self._post(ops.Leave(number))  # the request has left
            return
        if isinstance(value, Ticket):
            ticket.first_place = value.first_place
            value.event = ticket.event
        elif isinstance(value, Lease) and value.backend not in self._backends:
            # The backend was drained after this was written. By now the log knows.
            self._post(ops.Leave(number))
            self._write(ticket, is_retry=True)
            return
        elif isinstance(value, Lease):
            lease = msgspec.structs.replace(value, owner=self, request=ticket.request, id=number)
            del self._waiting[number]
            self._leases[number] = ticket.lease = lease
        else:
            del self._waiting[number]
            ticket.error = value
        ticket.event.set()

    def joined(self) -> None:
        member = self._follower.member
        in_log = {*member.leases, *member.tickets} if member is not None else set()
        for number in in_log - {*self._leases}:  # the log still has them, this worker does not
            self._post(ops.Leave(number))
        self._introduce(self._used_alone)
        self._used_alone = set()

    def forgotten(self) -> None:
        self._introduce(set())
        member = self._follower.member
        for ticket in tuple(self._waiting.values()):
            if member is None or ticket.id not in member.tickets:
                self._write(ticket, is_retry=True)  # its place in the queue was dropped

    def _introduce(self, used_alone: set[str]) -> None:
        for name, (up, facts) in self._backends.items():
            self._post(ops.BackendFound(name, up, facts, name in used_alone))

    def lost(self) -> None:
        self._used_alone = {*self._backends}
        for name in self._backends:
            self._update_local(name)
        for ticket in self._waiting.values():
            try:
                entry = self._enter_local(ticket.request, True)
                if isinstance(entry, Lease):
                    ticket.lease = entry
                else:
                    ticket.local_ticket, entry.event = entry, ticket.event
            except GatewayError as error:
                ticket.error = error
            ticket.event.set()
        self._waiting.clear()
        self._unanswered.clear()
