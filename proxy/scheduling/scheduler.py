"""The admission queue: the one lock, around a policy that decides purely.

Strategy. Who comes is placed at once when the policy gives a slot and nobody waits before; else
it waits its turn as a ticket. Whatever may change an answer (a slot given back, a backend up or
down, a time reached) runs `_serve`, which asks the policy for every ticket in fair order. A grant
is counted when it is taken, under the same lock, and given back exactly once by its lease. What an
answer told of its slot goes into the pool's records then: where they disagree, the backend is
believed. A lease is settled where its backend is by then, as another model may be behind it.
Nothing under the lock waits (no input or output, no log line, no other lock but an event's), so it
is the interpreter's own; sections go into each other, as when who waits leaves and gives back what
it got.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from ..errors import GatewayError, NoBackend, QueueFull
from ..locks import brief_nested
from . import books, files
from .fair import FairQueue, displaced
from .knowledge import Pool
from .lease import Lease, Outcome
from .parties import ANSWER, Parties, Party, party
from .policy import Policy, decide, emptiest, foreign, take_whole
from .prefix import Chain, Chains
from .state import MOST_SLOTS, Backend, Conversation, Grant, Hold, Keeps, Step, Want
from .ticket import Ticket
from .view import View, view
from .waiting import PLACE_LOST, Waiting

log = logging.getLogger("slotproxy.scheduling")

GUESS = 4  # slots of a server that cannot tell
FOREVER = 60.0  # seconds between two looks of who waits at the clock

Records = tuple[dict[str, Pool], dict[str, tuple[Pool, Backend]], FairQueue[Ticket], Parties, int]


class Scheduler(Waiting):
    """Bounded by `max_queue` waiting requests, which keys share (see `fair.displaced`), each for at
    most `queue_timeout` seconds. While no backend of its model is up, a request waits for at most
    `wait_for_backend` seconds; then `on_stranded` is called with the model, under the lock: it must
    not block.

    `clock` gives monotonic seconds. `groups`: there are several groups of keys, whose caches are
    kept apart. `disk` is how many bytes of files with what slots held a backend may have.
    `notices` is what a client should know of how its requests are placed."""

    notices: tuple[str, ...] = ()

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
        self.on_stranded: Callable[[str], None] = lambda model: None
        self._groups = groups
        self._disk = disk
        self._policy = policy
        self._lock = brief_nested()
        self._pools: dict[str, Pool] = {}
        self._backends: dict[str, tuple[Pool, Backend]] = {}
        self._chains = Chains()
        self._queue: FairQueue[Ticket] = FairQueue()
        self._parties = Parties()
        self._outstanding = 0

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
        anew: bool = False,
        replaces: bool = False,
    ) -> None:
        """A backend as a probe found it: it may have started anew, so what it held is forgotten.
        `slots` 0: it cannot tell, so it is guessed and then learned. `anew`: it surely did start
        anew, though it looks as before, which others that share these records cannot see.
        `replaces`: it is another server than the one of this name before. What is under way there
        ends well, and takes no slot of this one."""
        with self._lock:
            if replaces and name in self._backends:
                self._remove(*self._backends[name])
            known = self._backends.get(name)
            backend = known[1] if known is not None else Backend(name, model)
            if known is not None:
                known[0].forget(backend)
                if backend.model != model:
                    self._remove(known[0], backend)
            pool = self._pools.setdefault(model, Pool())
            self._backends[name] = pool, backend
            pool.backends[name] = backend
            backend.model, backend.up, backend.weight = model, up, weight
            backend.pins, backend.keeps, backend.settles = pins, keeps, settles
            backend.draining, backend.failures, backend.ready = False, 0, 0.0
            slots = min(slots, MOST_SLOTS)
            if slots or not (backend.guessed and backend.slots):
                books.resize(pool, backend, slots or GUESS)
                backend.more = self._clock() + backend.patience
            backend.guessed = backend.counting = slots == 0
            backend.seen.clear()
            pool.refresh(backend)
            self._serve()

    def mark(self, name: str, up: bool, awaits: float = 0.0) -> None:
        """Health changed, and nothing else. `awaits`: seconds until its model is loaded."""
        with self._lock:
            if name in self._backends:
                pool, backend = self._backends[name]
                backend.up, backend.awaits = up, awaits
                pool.refresh(backend)
                self._serve()

    def drain(self, name: str) -> None:
        """Nothing new for this backend; what is under way ends well."""
        with self._lock:
            if name in self._backends:
                pool, backend = self._backends[name]
                backend.draining = True
                pool.refresh(backend)
                if not backend.in_flight:
                    self._remove(pool, backend)
                self._serve()

    # what the gateway asks

    def chain(
        self, prompt: str | tuple[int, ...], boundaries: tuple[int, ...] = (), group: str = ""
    ) -> Chain:
        """What a prompt begins with, for callers of this group."""
        return self._chains.chain(prompt, boundaries, group)

    def enter(self, want: Want, again: bool = False) -> Lease | Ticket:
        with self._lock:
            now = self._clock()
            began = self._began(want, now)
            pool, up = self._pool(want)
            if not up and not self._wait_for_backend:
                raise self._none_up()
            conversation = pool.conversation(want)
            who = party(want)
            self._parties.came(who, now)
            if pool.free and not len(self._queue) and self._may(want, who, pool, now):
                grant = self._decide(want, pool, now)
                if type(grant) is Grant:
                    return self._take(pool, want, who, grant, conversation, now)
            if len(self._queue) >= self._max_queue and not again:
                self._make_room(want)
            ticket = Ticket(self, want, conversation, began, again)
            tokens = pool.tokens(want.chain, False) + (want.task.max_tokens or ANSWER)
            self._queue.push(ticket, want.key, tokens / want.share, again)
            conversation.waiting += 1
            ticket.first_place = self._queue.place(ticket)
            self._serve()
            return ticket

    @property
    def outstanding(self) -> int:
        """Leases that were not given back: none when nothing is under way."""
        return self._outstanding

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def in_flight(self, name: str) -> int:
        with self._lock:
            return self._backends[name][1].in_flight if name in self._backends else 0

    def slots(self, name: str) -> int:
        """How many slots the backend is thought to have."""
        with self._lock:
            return len(self._backends[name][1].slots) if name in self._backends else 0

    def view(self, group: str, key: str) -> View:
        """The records, as far as a caller with this key, of this group, may know them."""
        with self._lock:
            return view(self._pools.values(), self._queue, group, key, self._clock())

    # under the lock

    @property
    def records(self) -> Records:
        """All that is known, to be copied to another scheduler."""
        return self._pools, self._backends, self._queue, self._parties, self._outstanding

    @records.setter
    def records(self, records: Records) -> None:
        self._pools, self._backends, self._queue, self._parties, self._outstanding = records

    def serve(self) -> None:
        """Think over who waits, as time has passed."""
        with self._lock:
            self._serve()

    def look(self, ticket: Ticket, now: float) -> float:
        with self._lock:
            if ticket.lease is None and ticket.error is None:
                self._serve()
            ticket.wakes = max(ticket.until, now + 0.001)
            return ticket.wakes

    def expected_wait(self, want: Want) -> float:
        with self._lock:
            pool = self._pools.get(want.model)
            return pool.expected_wait(len(self._queue)) if pool is not None else 1.0

    def leave(self, ticket: Ticket) -> None:
        with self._lock:
            if ticket in tuple(self._queue):
                self._queue.remove(ticket)
                ticket.conversation.waiting -= 1
            lease, ticket.lease = ticket.lease, None
            if lease is not None:
                lease.release()

    def place(self, ticket: Ticket) -> int:
        """For tickets alone."""
        with self._lock:
            return self._queue.place(ticket)

    def _make_room(self, want: Want) -> None:
        """The queue is full. Raises QueueFull where this request gets no place of another's."""
        ticket = displaced(tuple(self._queue), want.key)
        if ticket is None:
            count = len(self._queue)
            wait = self.expected_wait(want)
            raise QueueFull(f"{count} requests are waiting already", retry_after=wait)
        wait = self.expected_wait(ticket.want)
        self._refuse(ticket, QueueFull(PLACE_LOST, retry_after=wait))

    def _refuse(self, ticket: Ticket, error: GatewayError) -> None:
        """End the wait of a ticket."""
        ticket.error = error
        self._queue.remove(ticket)
        ticket.conversation.waiting -= 1
        ticket.event.set()

    def _serve(self) -> None:
        """Place whom the policy can place, in order; tell those whom nobody can serve any more."""
        if not len(self._queue):
            return
        reserved: dict[Pool, Backend] = {}
        try:
            self._serve_in_order(self._clock(), reserved)
        finally:
            for backend in reserved.values():
                backend.reserved = False

    def _serve_in_order(self, now: float, reserved: dict[Pool, Backend]) -> None:
        for ticket in self._queue:
            want = ticket.want
            try:
                pool, up = self._pool(want)
                if not up and self._strands(ticket, now):
                    raise self._none_up()
            except NoBackend as error:
                self._refuse(ticket, error)
                continue
            if not up:
                continue
            ticket.stranded = None
            ticket.until = now + FOREVER
            whole = want.whole_backend
            if not (pool.free or whole) and not any(
                books.stretch(pool, backend, now) for backend in pool.backends.values()
            ):
                continue
            who = party(want)
            if not self._may(want, who, pool, now):
                ticket.until = now + 1.0
                continue
            # What it goes on with must not seem dearer to others than to itself.
            ticket.conversation.waiting -= 1
            decision = self._decide(want, pool, now)
            if type(decision) is Grant:
                self._queue.served(ticket)
                ticket.lease = self._take(pool, want, who, decision, ticket.conversation, now)
                ticket.event.set()
                continue
            ticket.conversation.waiting += 1
            if whole and pool not in reserved:
                # One in each pool at a time: the others go on serving.
                backend = emptiest(want, pool, now)
                if backend is not None:
                    backend.reserved, reserved[pool] = True, backend
            at = decision.until if isinstance(decision, Hold) else pool.next_ready(now)
            ticket.until = min(at, now + 1.0)
            if ticket.until < ticket.wakes:
                ticket.event.set()  # it sleeps for longer than it need

    def _decide(self, want: Want, pool: Pool, now: float) -> Grant | Hold | None:
        if want.whole_backend:
            return take_whole(want, pool, now)
        return self._policy(want, pool, now)

    def _may(self, want: Want, who: Party, pool: Pool, now: float) -> bool:
        """The last free slot is kept for who has none, as long as there is one. What has no
        prompt (embeddings) is no conversation's rival."""
        if len(pool.free) > 1 or not want.chain.links:
            return True
        if sum(len(b.slots) for b in pool.backends.values()) < 2:
            return True
        return not self._parties.greedy(who, now)

    def _strands(self, ticket: Ticket, now: float) -> bool:
        """No backend is up for a ticket: whether it has waited for one long enough."""
        news = ticket.stranded is None
        lost = self._is_lost(ticket, now)
        if news and not lost:
            self.on_stranded(ticket.want.model)
            ticket.event.set()  # who waits may want to say so
        return lost

    def _pool(self, want: Want) -> tuple[Pool, bool]:
        """The model's pool, and whether a backend there is up, or not known to be down. Raises
        NoBackend where none can ever serve this request."""
        pool = self._pools.get(want.model)
        comes_back = False
        if pool is not None:
            for name, backend in pool.backends.items():
                if not (backend.draining or name in want.exclude):
                    if backend.up is not False and want.view(backend) is not False:
                        return pool, True
                    comes_back = True
            if comes_back:
                return pool, False
        raise self._none_up()

    def _none_up(self) -> NoBackend:
        return NoBackend("no backend of this model is up", retry_after=1.0)

    def _take(
        self,
        pool: Pool,
        want: Want,
        who: Party,
        grant: Grant,
        conversation: Conversation,
        now: float,
    ) -> Lease:
        assert not grant.slot.busy, "a policy gave a slot twice"
        if self._groups:
            grant = msgspec.structs.replace(grant, fresh=foreign(grant, want))
        lease = Lease(self, want, grant, conversation)
        books.take(pool, lease, now)
        self._parties.took(who)
        self._outstanding += 1
        return lease

    def _home(self, lease: Lease) -> Pool:
        """Where its backend is now: perhaps not in the pool of the model it was asked for. One
        that was retired is nowhere, so an empty pool stands for it."""
        backend = lease.grant.backend
        pool, known = self._backends.get(backend.name, (None, None))
        return pool if pool is not None and known is backend else Pool()

    def flows(self, lease: Lease, number: int) -> None:
        """For leases alone."""
        with self._lock:
            books.flows(self._home(lease), lease, number, self._clock())
            self._serve()

    def steps(self, lease: Lease) -> tuple[Step, ...]:
        """For leases alone."""
        with self._lock:
            pool = self._home(lease)
            return files.steps(pool, lease, self._disk, self._clock())

    def stepped(self, lease: Lease, step: Step, tokens: int, size: int, seconds: float) -> None:
        """For leases alone."""
        with self._lock:
            files.stepped(self._home(lease), lease, step, tokens, size, seconds)

    def leaks(self, lease: Lease, outcome: Outcome) -> bool:
        """The canary: whether an answer found more cached than its group can have put there."""
        if not (self._groups and outcome.end == "whole" and books.leaks(lease, outcome)):
            return False
        log.warning(
            "backend %s, slot %d: %d prompt tokens were cached, more than its group put there",
            lease.backend,
            outcome.slot,
            outcome.cached,
        )
        return True

    def give_back(self, lease: Lease, outcome: Outcome) -> None:
        """For leases alone."""
        with self._lock:
            now = self._clock()
            self._outstanding -= 1
            self._parties.gave(party(lease.want), now)
            backend = lease.grant.backend
            pool = self._home(lease)
            books.settle(pool, lease, outcome, now)
            if backend.draining and not backend.in_flight:
                self._remove(pool, backend)
            self._serve()

    def _remove(self, pool: Pool, backend: Backend) -> None:
        pool.forget(backend)
        for slot in backend.slots:
            pool.free.pop(slot, None)
        pool.backends.pop(backend.name, None)
        if self._backends.get(backend.name, (None, None))[1] is backend:
            del self._backends[backend.name]
