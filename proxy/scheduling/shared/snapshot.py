"""A replica as bytes, for workers that join later: every record, in every order that decides.

The records of the scheduler refer to one another. Here they stand in tables, one for each kind, and
refer to one another by their places in these; -1 is none. It is msgpack of plain values, so reading
it makes nothing but these records, whoever wrote it. The first value is the format's number.

What can be derived is not written: the index of prefixes and the queue's places come from the order
of the tables, and how a worker finds its backends is looked up at the worker.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from ...core.task import Task
from ..fair import FairQueue
from ..knowledge import Pool, Returns
from ..lease import Lease
from ..parties import Parties
from ..prefix import SIZE, Chain
from ..scheduler import Scheduler
from ..state import Backend, Conversation, Grant, Held, Keeps, Slot, Want
from ..ticket import Ticket
from .ops import FORMAT, Facts
from .replica import Member, Replica, Rules

NONE = -1
T = TypeVar("T")


class _Record(Struct, array_like=True):
    """Fields of a record by the same names; references are places in tables."""


class _Chain(_Record):
    links: bytes
    ends: tuple[int, ...]
    turn: int


class _Held(_Record):
    backend: int
    chain: int
    conversation: int
    prompt: int
    tokens: int
    used: float
    slot: int
    file: str
    size: int
    order: int


class _Slot(_Record):
    id: int
    busy: bool
    used: float
    ready: float
    flowing: bool
    ending: bool
    work: int
    after: list[int]
    held: int


class _Backend(_Record):
    """`reserved` is only set while the queue is served, and no snapshot is taken then."""

    name: str
    model: str
    slots: list[int]
    up: bool | None
    draining: bool
    exclusive: bool
    guessed: bool
    counting: bool
    seen: list[int]
    weight: float
    pins: bool
    keeps: Keeps
    settles: float
    awaits: float
    ready: float
    freed: float
    failures: int
    more: float
    patience: float
    in_flight: int
    rate: float
    measured: int
    moving: float
    hits: int
    asked: int
    evaluated: int
    cached: int
    saved: int
    restored: int
    moved: int


class _Want(_Record):
    """`views` are its worker's."""

    model: str
    ids: bool
    max_tokens: int | None
    exclude: list[str]
    chain: int
    key: str
    group: str
    session: str
    share: float
    aside: bool
    since: float
    whole_backend: bool


class _Grant(_Record):
    backend: int
    slot: int
    reuse: int
    cached: int
    pin: bool
    restore: int
    save: bool
    fresh: bool
    whole: bool


class _Lease(_Record):
    id: int
    want: _Want
    grant: _Grant
    conversation: int
    held: int
    before: int
    flowing: bool
    waited: float
    place: int


class _Ticket(_Record):
    id: int
    want: _Want
    conversation: int
    began: float
    until: float
    wakes: float
    tag: float
    first_place: int
    stranded: float | None
    again: bool


class _Member(_Record):
    name: str
    last: float
    backends: dict[str, bool | None]
    leases: list[_Lease]
    tickets: list[_Ticket]


class _Pool(_Record):
    model: str
    backends: list[int]
    free: list[tuple[int, int]]
    reached: list[float]
    went_on: list[float]
    gap: float
    gaps: int
    chars_a_token: float
    rate: float
    measured: int
    duration: float
    puts: int
    conversations: list[tuple[bytes, int]]
    aside: list[tuple[str, list[int]]]


class _Snapshot(_Record):
    format: int
    now: float
    entries: int
    facts: dict[str, Facts]
    outstanding: int
    virtual: float
    ends: dict[str, float]
    queue: list[tuple[str, int]]  # by member and number
    seen: list[tuple[str, bool, float]]
    under_way: list[tuple[str, bool, int]]
    chains: list[_Chain]
    conversations: list[Conversation]
    slots: list[_Slot]
    backends: list[_Backend]
    held: list[_Held]
    pools: list[_Pool]
    members: list[_Member]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Snapshot).decode
_decode_format = msgspec.msgpack.Decoder(list[Any]).decode


def dump(replica: Replica) -> bytes:
    """Between two entries."""
    return _encode(_Writer().snapshot(replica))


def load(data: bytes, rules: Rules) -> Replica:
    """Raises ValueError for what is none, or of another format."""
    try:
        try:
            found = _decode(data)
        except msgspec.MsgspecError:
            if _decode_format(data)[:1] not in ([], [FORMAT]):
                raise ValueError("it is of another version") from None
            raise
        if found.format != FORMAT:
            raise ValueError("it is of another version")
        return _Reader(found).replica(rules)
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"no snapshot: {error}") from None


def _copied(record: Any, kind: Any, **references: Any) -> Any:
    """A record of another kind, with the same fields but for the references."""
    fields = {
        name: getattr(record, name) for name in kind.__struct_fields__ if name not in references
    }
    return kind(**fields, **references)


# -- writing ---------------------------------------------------------------------------------------


class _Table:
    """Records by their identity, in the order in which they were referred to first."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self.records: list[Any] = []  # alive meanwhile, so no identity comes twice

    def place(self, record: object) -> int:
        if record is None:
            return NONE
        found = self._places.get(id(record))
        if found is None:
            found = self._places[id(record)] = len(self.records)
            self.records.append(record)
        return found

    def write(self, written: list[T], how: Callable[[Any], T]) -> bool:
        """Write those that were not yet; whether there were any."""
        before = len(written)
        while len(written) < len(self.records):
            written.append(how(self.records[len(written)]))
        return len(written) > before


class _Writer:
    def __init__(self) -> None:
        self._chains, self._conversations = _Table(), _Table()
        self._slots, self._backends, self._held = _Table(), _Table(), _Table()

    def snapshot(self, replica: Replica) -> _Snapshot:
        pools, _, queue, parties, outstanding = replica.scheduler.records
        numbers = {
            id(ticket): (name, number)
            for name, member in replica.members.items()
            for number, ticket in member.tickets.items()
        }
        found = _Snapshot(
            format=FORMAT,
            now=replica.now,
            entries=replica.entries,
            facts=replica.facts,
            outstanding=outstanding,
            virtual=queue.virtual,
            ends=queue.ends,
            queue=[numbers[id(ticket)] for ticket in queue],
            seen=[(key, small, at) for (key, small), at in parties.seen.items()],
            under_way=[(key, small, n) for (key, small), n in parties.under_way.items()],
            chains=[],
            conversations=[],
            slots=[],
            backends=[],
            held=[],
            pools=[self._pool(model, pool) for model, pool in pools.items()],
            members=[self._member(name, member) for name, member in replica.members.items()],
        )
        # Each may lead to more of the others, some of which are in no pool any more.
        while (
            self._backends.write(found.backends, self._backend)
            or self._slots.write(found.slots, self._slot)
            or self._held.write(found.held, self._one_held)
        ):
            pass
        found.conversations = self._conversations.records
        found.chains = [_Chain(b"".join(c.links), c.ends, c.turn) for c in self._chains.records]
        return found

    def _backend(self, backend: Backend) -> _Backend:
        slots = [self._slots.place(slot) for slot in backend.slots]
        record: _Backend = _copied(backend, _Backend, slots=slots, seen=sorted(backend.seen))
        return record

    def _slot(self, slot: Slot) -> _Slot:
        after = [self._slots.place(other) for other in slot.after]
        record: _Slot = _copied(slot, _Slot, after=after, held=self._held.place(slot.held))
        return record

    def _one_held(self, held: Held) -> _Held:
        record: _Held = _copied(
            held,
            _Held,
            backend=self._backends.place(held.backend),
            chain=self._chains.place(held.chain),
            conversation=self._conversations.place(held.conversation),
            slot=self._slots.place(held.slot),
        )
        return record

    def _pool(self, model: str, pool: Pool) -> _Pool:
        returns = pool.returns
        return _Pool(
            model,
            [self._backends.place(one) for one in pool.backends.values()],
            [(self._slots.place(s), self._backends.place(b)) for s, b in pool.free.items()],
            returns.reached,
            returns.went_on,
            returns.gap,
            returns.gaps,
            pool.chars_a_token,
            pool.mean_rate,
            pool.measured,
            pool.duration,
            pool.puts,
            [(key, self._conversations.place(one)) for key, one in pool.conversations.items()],
            [
                (name, [self._held.place(held) for held in kept])
                for name, kept in pool.aside.items()
            ],
        )

    def _member(self, name: str, member: Member) -> _Member:
        return _Member(
            name,
            member.last,
            dict(member.backends),
            [self._lease(number, lease) for number, lease in member.leases.items()],
            [self._ticket(number, ticket) for number, ticket in member.tickets.items()],
        )

    def _want(self, want: Want) -> _Want:
        record: _Want = _copied(
            want,
            _Want,
            ids=not isinstance(want.task.prompt, str),
            max_tokens=want.task.max_tokens,
            exclude=sorted(want.exclude),
            chain=self._chains.place(want.chain),
        )
        return record

    def _lease(self, number: int, lease: Lease) -> _Lease:
        grant: _Grant = _copied(
            lease.grant,
            _Grant,
            backend=self._backends.place(lease.grant.backend),
            slot=self._slots.place(lease.grant.slot),
            reuse=self._held.place(lease.grant.reuse),
            restore=self._held.place(lease.grant.restore),
        )
        record: _Lease = _copied(
            lease,
            _Lease,
            id=number,
            want=self._want(lease.want),
            grant=grant,
            conversation=self._conversations.place(lease.conversation),
            held=self._held.place(lease.held),
            before=self._held.place(lease.before),
        )
        return record

    def _ticket(self, number: int, ticket: Ticket) -> _Ticket:
        record: _Ticket = _copied(
            ticket,
            _Ticket,
            id=number,
            want=self._want(ticket.want),
            conversation=self._conversations.place(ticket.conversation),
        )
        return record


# -- reading ---------------------------------------------------------------------------------------


def _at(table: list[T], place: int) -> T:
    """Raises LookupError for a place that is none: a negative one too."""
    if not 0 <= place < len(table):
        raise LookupError(f"there is no record {place}")
    return table[place]


def _filled(target: Any, record: Any, **references: Any) -> None:
    for name in record.__struct_fields__:
        if name not in references:
            setattr(target, name, getattr(record, name))
    for name, value in references.items():
        setattr(target, name, value)


class _Reader:
    def __init__(self, found: _Snapshot) -> None:
        self._found = found
        self._conversations = found.conversations
        self._chains = [_chain(one) for one in found.chains]
        # These lead to one another, so they are made empty first and filled then.
        self._backends = [Backend("", "") for _ in found.backends]
        self._slots = [Slot(0) for _ in found.slots]
        nowhere, nobody, nothing = Backend("", ""), Conversation(), Chain()
        self._held = [Held(nowhere, nothing, nobody) for _ in found.held]

    def _held_at(self, place: int) -> Held | None:
        return None if place == NONE else _at(self._held, place)

    def replica(self, rules: Rules) -> Replica:
        found = self._found
        self._fill()
        made = Replica(rules)
        made.now, made.entries, made.facts = found.now, found.entries, found.facts
        scheduler = made.scheduler
        pools = {one.model: self._pool(one) for one in found.pools}
        by_name = {
            name: (pool, backend)
            for pool in pools.values()
            for name, backend in pool.backends.items()
        }
        for one in found.members:
            made.members[one.name] = self._member(one, scheduler)
        queue: FairQueue[Ticket] = FairQueue()
        queue.restore(
            [made.members[name].tickets[number] for name, number in found.queue],
            found.virtual,
            found.ends,
        )
        parties = Parties()
        parties.seen = OrderedDict(((key, small), at) for key, small, at in found.seen)
        parties.under_way = {(key, small): n for key, small, n in found.under_way}
        scheduler.records = pools, by_name, queue, parties, found.outstanding
        return made

    def _fill(self) -> None:
        found = self._found
        for backend, of_backend in zip(self._backends, found.backends, strict=True):
            slots = [_at(self._slots, place) for place in of_backend.slots]
            _filled(backend, of_backend, slots=slots, seen=set(of_backend.seen))
        for slot, of_slot in zip(self._slots, found.slots, strict=True):
            after = {_at(self._slots, place) for place in of_slot.after}
            _filled(slot, of_slot, after=after, held=self._held_at(of_slot.held))
        for held, of_held in zip(self._held, found.held, strict=True):
            _filled(
                held,
                of_held,
                backend=_at(self._backends, of_held.backend),
                chain=_at(self._chains, of_held.chain),
                conversation=_at(self._conversations, of_held.conversation),
                slot=None if of_held.slot == NONE else _at(self._slots, of_held.slot),
            )

    def _pool(self, record: _Pool) -> Pool:
        pool, returns = Pool(), Returns()
        returns.restore(record.reached, record.went_on, record.gap, record.gaps)
        pool.returns = returns
        for place in record.backends:
            backend = _at(self._backends, place)
            pool.backends[backend.name] = backend
        for slot, place in record.free:
            pool.free[_at(self._slots, slot)] = _at(self._backends, place)
        pool.chars_a_token, pool.duration = record.chars_a_token, record.duration
        pool.mean_rate, pool.measured = record.rate, record.measured
        for key, place in record.conversations:
            pool.conversations[key] = _at(self._conversations, place)
        aside = [(name, [_at(self._held, one) for one in kept]) for name, kept in record.aside]
        pool.aside = {name: OrderedDict.fromkeys(kept) for name, kept in aside}
        kept = [slot.held for one in pool.backends.values() for slot in one.slots if slot.held]
        kept += [held for _, some in aside for held in some]
        pool.index_all(kept, record.puts)
        return pool

    def _member(self, record: _Member, scheduler: Scheduler) -> Member:
        member = Member(record.last)
        member.backends = record.backends
        for lease in record.leases:
            member.leases[lease.id] = self._lease(lease, member, scheduler)
        for ticket in record.tickets:
            member.tickets[ticket.id] = self._ticket(ticket, member, scheduler)
        return member

    def _want(self, record: _Want, member: Member) -> Want:
        return Want(
            record.model,
            Task(prompt=() if record.ids else "", max_tokens=record.max_tokens),
            frozenset(record.exclude),
            _at(self._chains, record.chain),
            record.key,
            record.group,
            record.session,
            record.share,
            record.aside,
            record.since,
            record.whole_backend,
            member.backends,
        )

    def _lease(self, record: _Lease, member: Member, scheduler: Scheduler) -> Lease:
        given = record.grant
        grant = Grant(
            _at(self._backends, given.backend),
            _at(self._slots, given.slot),
            self._held_at(given.reuse),
            given.cached,
            given.pin,
            self._held_at(given.restore),
            given.save,
            given.fresh,
            given.whole,
        )
        conversation = _at(self._conversations, record.conversation)
        lease = Lease(scheduler, self._want(record.want, member), grant, conversation)
        lease.held, lease.before = self._held_at(record.held), self._held_at(record.before)
        lease.flowing, lease.waited, lease.place = record.flowing, record.waited, record.place
        return lease

    def _ticket(self, record: _Ticket, member: Member, scheduler: Scheduler) -> Ticket:
        conversation = _at(self._conversations, record.conversation)
        want = self._want(record.want, member)
        ticket = Ticket(scheduler, want, conversation, record.began, record.again)
        ticket.until, ticket.wakes, ticket.tag = record.until, record.wakes, record.tag
        ticket.first_place, ticket.stranded = record.first_place, record.stranded
        return ticket


def _chain(record: _Chain) -> Chain:
    links = tuple(record.links[i : i + SIZE] for i in range(0, len(record.links), SIZE))
    if len(links) != len(record.ends) or not 0 <= record.turn <= max(1, len(links)):
        raise ValueError("a chain is broken")
    return Chain(links, record.ends, record.turn)
