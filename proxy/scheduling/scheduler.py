"""The admission queue: one lock around a pure policy.

A request gets a slot at once if the policy grants one and nobody is ahead of it; otherwise it waits
as a ticket, in the queue and in the line of its pool (see `fair`). A released slot is offered to
the requests that it can serve, in fair order. A backend that goes up or down makes all decide
again, a deadline one. A lease is settled in the pool where its backend is by then, because the
backend may have changed its model.

Nothing blocks under the lock (no I/O, no logging, no other lock but an event's), so it is a native
lock. It is reentrant: `leave`, for example, releases a lease that the ticket already has.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable

import msgspec

from ..core.adapters import ADAPTED
from ..errors import GatewayError, NoBackend, NoIdleSlot, QueueFull
from ..runtime.locks import native_rlock
from . import idle, outcomes, saved_slots
from .fair import FairQueue, displaced
from .history import named
from .lease import BaseScheduler, Lease, Outcome, Ticket
from .placement import Preview, placement, places
from .policy import Policy, decide, decide_whole_backend, emptiest, holds_foreign_cache
from .pool import Pool
from .saved_slots import SavedSlots
from .state import (
    ANSWER,
    MOST_SLOTS,
    BackendFacts,
    BackendRecord,
    ConversationRecord,
    Grant,
    Loss,
    LossCause,
    SlotRequest,
    SlotStep,
    WaitForSlot,
)
from .tiers import EVERYWHERE, TierChoice, Tiers
from .view import View, view

log = logging.getLogger("slotproxy.scheduling")

GUESS = 4  # slots assumed for a server that does not report a number
MOST_EMPTY = 16  # models without a backend that are remembered, in case they come back
FOREVER = 60.0  # seconds after which a waiting request looks again, if nothing happens before
FROM_FACTS = tuple("model weight pins cache_kind release_delay keeps_files tier adapters".split())
PLACE_LOST = (
    "the queue is full and this API key has the most requests in it, so this request was dropped"
    " in favor of another key: retry later"
)


class LocalScheduler(BaseScheduler):
    """The scheduler of a single process.

    `clock` returns monotonic seconds. At most `max_queue` requests wait, each for at most
    `queue_timeout` seconds; keys share the places (see `fair.displaced`). While no backend of its
    model is up, a request waits for at most `wait_for_backend` seconds. `groups`: there are several
    groups of keys, whose caches are kept apart. `disk` is the budget in bytes for the saved slot
    files of a backend. The callbacks are called under the lock, so they must not block."""

    notices: tuple[str, ...] = ()  # warnings for clients about how their requests are placed

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        max_queue: int = 256,
        queue_timeout: float = 300.0,
        wait_for_backend: float = 0.0,
        groups: bool = False,
        disk: int = 0,
        policy: Policy = decide,
    ) -> None:
        self._clock = clock
        self._max_queue = max_queue
        self._queue_timeout = queue_timeout
        self._wait_for_backend = wait_for_backend
        # A request begins to wait for a backend of this model.
        self.on_stranded: Callable[[str], None] = lambda model: None
        # It has its lease or its error.
        self.on_settled: Callable[[Ticket], None] = lambda ticket: None
        # Others need the slot of this lease of an idle request.
        self.on_wanted: Callable[[Lease], None] = Lease.want_back
        self.idle_leases: dict[Lease, None] = {}  # of idle requests
        self._groups = groups
        self._disk = disk
        self._policy = policy
        self._lock = native_rlock()
        self.pools: dict[str, Pool] = {}
        self.backends: dict[str, BackendRecord] = {}
        self.saved_slots = SavedSlots(self._lock, self.backends, clock, disk)
        self.queue = FairQueue()
        self.outstanding = 0  # leases not released yet

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
        """Record what a probe found. The backend may have restarted, so its cache is forgotten.

        `anew`: it certainly restarted although it looks the same, which other workers cannot see.
        `replaces`: it is a different server under an old name. Answers under way on the old server
        finish there and take no slot of the new one."""
        with self._lock:
            backend = self.backends.get(name)
            if backend is not None and replaces:
                self._remove(backend)
                backend = None
            if backend is None:
                backend = BackendRecord(name=name, model=facts.model)
            else:
                is_other = backend.model != facts.model
                why: LossCause = "swapped" if is_other else "restarted"
                loss = Loss(why=why, at=self._clock(), backend=name)
                backend.pool.forget(backend, files=not facts.keeps_files, loss=loss)
                if is_other:
                    self._remove(backend)
            pool = backend.pool = self.pools.setdefault(facts.model, Pool())
            self.backends[name] = pool.backends[name] = backend
            for field in FROM_FACTS:
                setattr(backend, field, getattr(facts, field))
            backend.mixes = backend.mixes or facts.mixes  # it may not have restarted
            backend.up, backend.leaving, backend.draining = up, False, False
            backend.failures, backend.ready = 0, 0.0
            slots, most = min(facts.slots, MOST_SLOTS), min(facts.most, MOST_SLOTS)
            learns = not slots or most > 0
            is_learned = backend.guessed and bool(backend.slots)
            if not (learns and is_learned and (not slots or backend.most == most)):
                outcomes.resize(pool, backend, slots or GUESS)
                backend.more = self._clock() + backend.patience
            backend.guessed, backend.counting, backend.most = learns, slots == 0, most
            backend.seen.clear()
            pool.refresh(backend)
            pool.on_changed()
            self._review(self.queue)
            self._forget_models()

    def mark(self, name: str, up: bool, load_delay: float = 0.0) -> None:
        """Record a change of health only. `load_delay`: seconds until the model is loaded."""
        with self._lock:
            if backend := self.backends.get(name):
                backend.up, backend.load_delay = up, load_delay
                backend.pool.refresh(backend)
                self._review(self.queue)

    def drain(self, name: str) -> None:
        """Give a backend no new requests. It is removed after its last answer."""
        with self._lock:
            if backend := self.backends.get(name):
                backend.draining = True
                backend.pool.refresh(backend)
                if not backend.in_flight:
                    self._remove(backend)
                self._review(self.queue)

    # for the gateway

    def enter(self, request: SlotRequest, is_retry: bool = False) -> Lease | Ticket:
        with self._lock:
            if request.idle:
                return self._enter_idle(request)
            entry = self._enter(request, is_retry)
            if self.idle_leases:
                pool, now = self.pools[request.model], self._clock()
                for lease in idle.in_the_way(self.idle_leases, request, entry, pool, now):
                    self.on_wanted(lease)
            return entry

    def _enter_idle(self, request: SlotRequest) -> Lease:
        """Raises NoIdleSlot, and NoBackend."""
        now = self._clock()
        pool, up = self._pool(request)
        if not up:
            raise NoBackend()
        if pool.free and not len(pool.line):
            conversation = pool.conversation(request)
            reach = EVERYWHERE
            if pool.tiered:
                reach = Tiers(pool, now).reach(request, 0)
            decision = self._policy(_within(request, reach), pool, now)
            if type(decision) is Grant and idle.may_take(
                decision, request, pool, self.idle_leases, now
            ):
                lease = self._take(pool, request, decision, conversation, now, reach)
                self.idle_leases[lease] = None
                return lease
        raise NoIdleSlot("all slots are in use by other requests")

    def idle_slots(self, model: str) -> int:
        """How many idle requests for a model may have a slot now, with those that have one."""
        with self._lock:
            pool = self.pools.get(model)
            held = sum(lease.request.model == model for lease in self.idle_leases)
            return held if pool is None or len(pool.line) else held + idle.room(pool, self._clock())

    def _enter(self, request: SlotRequest, is_retry: bool) -> Lease | Ticket:
        now = self._clock()
        if not request.since:
            request = msgspec.structs.replace(request, since=now)
        elif now - request.since >= self._queue_timeout:
            raise self._too_late(request)
        pool = self.pools.get(request.model)
        if pool is None:
            raise NoBackend()
        conversation = pool.conversation(request)
        if (
            request.session
            and not request.background
            and pool.sessions.is_side_job(named(request), conversation, request.tools)
        ):
            request = msgspec.structs.replace(request, background=True)
            conversation.background = True
        decision: Grant | WaitForSlot | None = None
        reach = EVERYWHERE
        if pool.free and not pool.line.active:
            in_reach = request
            if pool.tiered:
                reach = Tiers(pool, now).reach(request, len(pool.line))
                in_reach = _within(request, reach)
            decide_now = decide_whole_backend if request.whole_backend else self._policy
            decision = decide_now(in_reach, pool, now)
            if type(decision) is Grant:
                return self._take(pool, request, decision, conversation, now, reach)
        if not (self._pool(request)[1] or self._wait_for_backend):
            raise NoBackend()
        if len(self.queue) >= self._max_queue and not is_retry:
            if type(decision) is WaitForSlot and not request.whole_backend:
                # A free slot without the prompt is better than no answer.
                decision = decide(in_reach, pool, now, may_wait=False)
                if type(decision) is Grant:
                    return self._take(pool, request, decision, conversation, now, reach)
            self._make_room(request)
        ticket = Ticket(self, request, conversation, request.since, is_retry)
        tokens = pool.tokens(request.chain, False) + (request.max_tokens or ANSWER)
        self.queue.push(ticket, request.fair_key, tokens / request.share, is_retry)
        conversation.waiting += 1
        ticket.first_place = self.queue.place(ticket)
        if isinstance(decision, WaitForSlot) and decision.key is not None:
            self._park(pool, ticket, decision, now)
        else:
            self._review((ticket,))
        return ticket

    def preview(self, request: SlotRequest) -> Preview:
        """What would become of a request now; nothing is changed. Raises NoBackend."""
        with self._lock:
            now = self._clock()
            pool, up = self._pool(request)
            if not (up or self._wait_for_backend):
                raise NoBackend()
            conversation, session = pool.conversation(request), named(request)
            if request.session and pool.sessions.is_side_job(session, conversation, request.tools):
                request = msgspec.structs.replace(request, background=True)
            request = in_reach = msgspec.structs.replace(request, since=now)
            reach, decision, place = EVERYWHERE, None, len(self.queue) + 1
            if pool.tiered:
                reach = Tiers(pool, now).reach(request, len(pool.line))
                in_reach = _within(request, reach)
            if pool.free and not pool.line.active:
                decision = self._policy(in_reach, pool, now)
            compared = places(in_reach, pool, now, decision)
            if isinstance(decision, Grant):
                placed = placement(pool, request, decision, conversation, now, forget=False)
                return Preview(placed, 0, 0.0, compared, reach.before(decision.backend))
            wait = decision.until - now if decision is not None else pool.expected_wait(place - 1)
            return Preview(None, place, max(0.0, wait), compared)

    @property
    def waiting(self) -> int:
        return len(self.queue)

    def in_flight(self, name: str) -> int:
        with self._lock:
            return self.backends[name].in_flight if name in self.backends else 0

    def slots(self, name: str) -> int:
        """The number of slots that the backend is assumed to have."""
        with self._lock:
            return len(self.backends[name].slots) if name in self.backends else 0

    def view(self, group: str | None, key: str) -> View:
        """The records that a caller with this key and group may see; None sees all groups."""
        with self._lock:
            return view(self.pools.values(), self.queue, group, key, self._clock())

    # for the replica

    def serve(self) -> None:
        """Decide again for all waiting requests, because backends have changed."""
        with self._lock:
            self._review(self.queue)

    def serve_due(self) -> None:
        with self._lock:
            now = self._clock()
            self._review(ticket for ticket in self.queue if ticket.until <= now)

    # for leases and tickets

    def look(self, ticket: Ticket, now: float) -> float:
        with self._lock:
            if ticket.lease is None and ticket.error is None and ticket.until <= now:
                self._review((ticket,))
            ticket.wakes = max(ticket.until, now + 0.001)
            return ticket.wakes

    def expected_wait(self, request: SlotRequest) -> float:
        with self._lock:
            pool = self.pools.get(request.model)
            return pool.expected_wait(len(self.queue)) if pool is not None else 1.0

    def leave(self, ticket: Ticket) -> None:
        with self._lock:
            if self.queue.place(ticket):
                self._dequeue(ticket)
                # The others may have relied on its deadline.
                self._serve(self.pools[ticket.request.model], self._clock())
            lease, ticket.lease = ticket.lease, None
            if lease is not None:
                lease.release()

    def place(self, ticket: Ticket) -> int:
        with self._lock:
            return self.queue.place(ticket)

    def _make_room(self, request: SlotRequest) -> None:
        """Make room in a full queue. Raises QueueFull if no other request is displaced."""
        ticket = displaced(self.queue.tickets, request.fair_key)
        if ticket is None:
            full = f"the queue is full: {len(self.queue)} requests are already waiting"
            raise QueueFull(full, retry_after=self.expected_wait(request))
        self._refuse(ticket, QueueFull(PLACE_LOST, retry_after=self.expected_wait(ticket.request)))
        self._serve(self.pools[ticket.request.model], self._clock())

    def _refuse(self, ticket: Ticket, error: GatewayError) -> None:
        ticket.error = error
        self._dequeue(ticket)
        self._settled(ticket)

    def _dequeue(self, ticket: Ticket) -> None:
        self.queue.remove(ticket)
        self.pools[ticket.request.model].line.remove(ticket)
        ticket.conversation.waiting -= 1

    def _settled(self, ticket: Ticket) -> None:
        """Wake the request: it has its lease or its error."""
        ticket.event.set()
        self.on_settled(ticket)

    def _review(self, tickets: Iterable[Ticket]) -> None:
        """Refuse the requests that no backend can serve, set aside those whose backends are down,
        and offer slots to the others."""
        now = self._clock()
        pools = {}
        for ticket in tickets:
            pools[self.pools[ticket.request.model]] = True
            try:
                pool, up = self._pool(ticket.request)
                if not up and self._waited_long_enough(ticket, now):
                    raise NoBackend()
            except NoBackend as error:
                self._refuse(ticket, error)
                continue
            if up:
                ticket.no_backend_since = None
                ticket.until = now + FOREVER
                pool.line.activate(ticket)
            else:
                pool.line.remove(ticket)
        for pool in pools:
            self._serve(pool, now)

    def _serve(self, pool: Pool, now: float) -> None:
        """Offer the free slots of a pool to the active requests in its line, in fair order."""
        line = pool.line
        if not line.active:
            return
        if not pool.free:
            for backend in pool.guessed:
                if outcomes.try_one_more_slot(pool, backend, now):
                    break
        if not (pool.free or line.whole):
            return
        reserved: list[BackendRecord] = []
        try:
            self._serve_in_order(pool, now, reserved)
        finally:
            for backend in reserved:
                backend.reserved = False

    def _serve_in_order(self, pool: Pool, now: float, reserved: list[BackendRecord]) -> None:
        line = pool.line
        settling = 0  # free slots that a request waits for until the server has released them
        barred: set[tuple[frozenset[str], int]] = set()  # may use none of the free slots
        tiers = Tiers(pool, now) if pool.tiered else None
        ahead = -1  # requests before this one that still wait
        for ticket in tuple(line.active):
            if len(pool.free) <= settling and not line.whole:
                return
            request, conversation, reach = ticket.request, ticket.conversation, EVERYWHERE
            if tiers is not None:
                ahead += 1
                reach = tiers.reach(request, ahead)
                self._ask_by(ticket, reach.due)
                request = _within(request, reach)
            whole = request.whole_backend
            bar = request.exclude, id(request.views)
            if not whole and (len(pool.free) <= settling or bar in barred):
                continue
            # The conversation must not count as waiting while its own request is placed, or what
            # its slot holds would be worth more to others than to itself.
            conversation.waiting -= 1
            decision = (decide_whole_backend if whole else self._policy)(request, pool, now)
            if type(decision) is Grant:
                line.remove(ticket)
                self.queue.served(ticket)
                ticket.lease = self._take(pool, ticket.request, decision, conversation, now, reach)
                self._settled(ticket)
                ahead -= 1
                continue
            conversation.waiting += 1
            if isinstance(decision, WaitForSlot) and decision.key is not None:
                self._park(pool, ticket, decision, now)
                continue
            if whole:
                if not reserved:
                    # At most one reserved backend, so that the others keep serving.
                    backend = emptiest(request, pool, now)
                    if backend is not None:
                        backend.reserved = True
                        reserved.append(backend)
            elif decision is None:
                barred.add(bar)
            else:
                settling += 1
            at = decision.until if isinstance(decision, WaitForSlot) else pool.next_ready(now)
            self._ask_again(ticket, min(at, reach.due), now)

    def _park(self, pool: Pool, ticket: Ticket, decision: WaitForSlot, now: float) -> None:
        assert decision.key is not None, "only a busy slot can be waited for"
        pool.line.park(ticket, decision.key)
        # The expected wait of the first is what the others wait for, too. Where it is too short,
        # as on a busy machine, all of them would decide again and again.
        behind = pool.line.is_behind(ticket)
        self._ask_again(ticket, math.inf if behind else decision.until, now)

    def _ask_again(self, ticket: Ticket, at: float, now: float) -> None:
        """Decide again at this time, at the latest in a second."""
        ticket.until = math.inf
        self._ask_by(ticket, min(at, now + 1.0))

    def _ask_by(self, ticket: Ticket, at: float) -> None:
        ticket.until = min(ticket.until, at)
        if ticket.until < ticket.wakes:
            ticket.event.set()  # it would sleep for too long

    def _waited_long_enough(self, ticket: Ticket, now: float) -> bool:
        """Whether a ticket without a backend that is up has waited for one long enough."""
        if ticket.no_backend_since is None:
            ticket.no_backend_since = now
            if self._wait_for_backend:
                self.on_stranded(ticket.request.model)
                ticket.event.set()  # so that the waiting request can report it
        ticket.until = ticket.no_backend_since + self._wait_for_backend
        return now >= ticket.until

    def _pool(self, request: SlotRequest) -> tuple[Pool, bool]:
        """The model's pool, and whether one of its backends is up or not probed yet. Raises
        NoBackend if no backend can ever serve this request."""
        pool = self.pools.get(request.model)
        if pool is None:
            raise NoBackend()
        comes_back = False
        for name, backend in pool.backends.items():
            if (
                backend.draining
                or name in request.exclude
                or backend.tier.name in request.barred
                or (request.views is not None and name not in request.views)
            ):
                continue
            seen = backend.up if request.views is None else request.views[name]
            if backend.up is not False and seen is not False:
                return pool, True
            comes_back = True
        if not comes_back:
            raise NoBackend()
        return pool, False

    def _take(
        self,
        pool: Pool,
        request: SlotRequest,
        grant: Grant,
        conversation: ConversationRecord,
        now: float,
        reach: TierChoice,
    ) -> Lease:
        if grant.slot.busy:
            raise RuntimeError("the policy granted a slot twice")
        if reach.passed:
            passed = reach.before(grant.backend)
            grant = msgspec.structs.replace(grant, passed=passed)
            if passed:
                counts, reason = grant.backend.instead, passed[0][1]
                counts[reason] = counts.get(reason, 0) + 1
        backend = grant.backend
        if self._groups or backend.adapters:
            backend.mixes = backend.mixes or ADAPTED in request.group
            if holds_foreign_cache(grant, request, self._groups):
                grant = msgspec.structs.replace(grant, fresh=True)
        lease = Lease(self, request, grant, grant.slot, conversation)
        lease.placement = placement(pool, request, grant, conversation, now)
        outcomes.take(pool, lease, now)
        self.outstanding += 1
        return lease

    def on_last_token(self, lease: Lease) -> None:
        lease.slot.finishing = True

    def on_first_token(self, lease: Lease, number: int) -> None:
        with self._lock:
            now = self._clock()
            outcomes.record_first_token(lease, number, now)
            pool = lease.grant.backend.pool
            if pool.line.active:
                self._serve(pool, now)

    def steps(self, lease: Lease) -> tuple[SlotStep, ...]:
        with self._lock:
            return saved_slots.steps(lease, self._disk, self._clock())

    def record_step(
        self, lease: Lease, step: SlotStep, tokens: int, size: int, seconds: float
    ) -> None:
        with self._lock:
            apart = self._groups or lease.grant.backend.adapters
            saved_slots.record_step(lease, step, tokens, size, seconds, apart)

    def leaks(self, lease: Lease, outcome: Outcome) -> bool:
        """Whether an answer found more cached than its group can have put there."""
        if not (self._groups and outcome.end == "whole" and outcomes.leaks(lease, outcome)):
            return False
        log.warning(
            "backend %s, slot %d: %d prompt tokens were cached, more than its cache group has sent",
            lease.backend,
            outcome.slot,
            outcome.cached,
        )
        return True

    def give_back(self, lease: Lease, outcome: Outcome) -> None:
        with self._lock:
            now = self._clock()
            self.outstanding -= 1
            if lease.request.idle:
                self.idle_leases.pop(lease, None)
            backend = lease.grant.backend
            pool = backend.pool
            outcomes.settle(pool, lease, outcome, now)
            if backend.target:
                outcomes.take_slots_away(pool, backend)
            if backend.draining and not backend.in_flight:
                self._remove(backend)
                self._review(self.queue)
            elif pool.line.active:
                self._serve(pool, now)

    def _forget_models(self) -> None:
        """Forget the oldest models without a backend, for which nothing waits."""
        waits = {ticket.request.model for ticket in self.queue}
        empty = [
            model for model, pool in self.pools.items() if not pool.backends and model not in waits
        ]
        for model in empty[:-MOST_EMPTY]:
            del self.pools[model]

    def _remove(self, backend: BackendRecord) -> None:
        pool, backend.pool = backend.pool, Pool()
        pool.forget(backend, loss=Loss(why="removed", at=self._clock(), backend=backend.name))
        for slot in backend.slots:
            pool.free.pop(slot, None)
        if pool.backends.get(backend.name) is backend:
            del pool.backends[backend.name], self.backends[backend.name]
        pool.on_changed()


def _within(request: SlotRequest, reach: TierChoice) -> SlotRequest:
    """The request, not to be placed beyond its reach."""
    if not reach.closed:
        return request
    return msgspec.structs.replace(request, exclude=request.exclude | reach.closed)
