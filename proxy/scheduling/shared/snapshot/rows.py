"""The rows of a snapshot: plain values, with the same field names as the scheduler's records."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct

from ....core.task import Task, Tier
from ...fair import FairQueue
from ...history import RecentClients, Returns, SharedPrefix, ToolCalls
from ...lease import Lease, Ticket
from ...line import WaitingLine
from ...pool import Pool
from ...prefix import Chain
from ...scheduler import LocalScheduler
from ...state import (
    BackendFacts,
    BackendRecord,
    CachedPrompt,
    CacheKind,
    ConversationRecord,
    Grant,
    Slot,
    SlotRequest,
    client_class,
)
from ..ops import FORMAT, split_links
from ..replica import Replica, ReplicaMember, SharedRules

NONE = -1  # the index of no record
S = TypeVar("S", bound=Struct)


class Row(Struct, array_like=True):
    """A record with the same field names; references are indexes into tables."""


class ChainRow(Row):
    links: bytes
    ends: tuple[int, ...]
    turn: int


class HeldRow(Row, kw_only=True):
    backend: int
    chain: int
    conversation: int
    prefix: bytes
    prompt: int
    tokens: int
    used: float
    slot: int
    file: str
    size: int
    order: int


class SlotRow(Row, kw_only=True):
    id: int
    busy: bool
    used: float
    ready: float
    streaming: bool
    finishing: bool
    first: float
    work: int
    limit: int
    after: list[int]
    held: int
    before: int


class BackendRow(Row, kw_only=True):
    """`reserved` is missing: it is set only while the queue is served, never during a snapshot."""

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
    cache_kind: CacheKind
    release_delay: float
    load_delay: float
    ready: float
    freed: float
    failures: int
    more: float
    patience: float
    tried: float
    passed: bool
    most: int
    quick: float
    late: int
    target: int
    in_flight: int
    rate: float
    measured: int
    pace: float
    paced: int
    evaluating: int
    evaluating_since: float
    restore_rate: float
    hits: int
    asked: int
    evaluated: int
    cached: int
    saved: int
    restored: int
    moved: int
    vain: int
    keeps_files: bool
    leaving: bool
    tier: Tier
    instead: dict[str, int]


class WantRow(Row, kw_only=True):
    """`views` is missing: it is the member's."""

    model: str
    ids: bool
    max_tokens: int | None
    exclude: list[str]
    chain: int
    key: str
    group: str
    session: str
    share: float
    background: bool
    since: float
    whole_backend: bool
    tools: bool
    idle: bool
    barred: list[str]


class GrantRow(Row, kw_only=True):
    backend: int
    slot: int
    reuse: int
    cached: int
    pin: bool
    restore: int
    save: bool
    fresh: bool
    whole: bool
    passed: tuple[tuple[str, str], ...]


class LeaseRow(Row, kw_only=True):
    id: int
    want: WantRow
    grant: GrantRow
    conversation: int
    written: int
    replaced: int
    streaming: bool
    waited: float
    place: int
    wanted: bool


class TicketRow(Row, kw_only=True):
    id: int
    want: WantRow
    conversation: int
    began: float
    until: float
    wakes: float
    tag: float
    first_place: int
    stranded: float | None
    again: bool
    parked_for: bytes | None


class MemberRow(Row):
    name: str
    last: float
    backends: dict[str, bool | None]
    leases: list[LeaseRow]
    tickets: list[TicketRow]


class PoolRow(Row, kw_only=True):
    model: str
    backends: list[int]
    free: list[tuple[int, int]]
    reached: list[float]
    continued: list[float]
    gap: float
    gaps: int
    chars_a_token: float
    rate: float
    measured: int
    pace: float
    paced: int
    answer: float
    duration: float
    added: int
    tool_calls: list[tuple[bytes, ToolCalls]]
    conversations: list[tuple[bytes, int]]
    sessions: list[tuple[bytes, int]]
    shared_prefixes: list[tuple[bytes, SharedPrefix]]
    recent_links: bytes
    kept_outside_slots: list[tuple[str, list[int]]]


class Snapshot(Row, kw_only=True):
    format: int
    now: float
    entries: int
    facts: dict[str, BackendFacts]
    outstanding: int
    virtual: float
    ends: dict[str, float]
    queue: list[tuple[str, int]]  # member name and request number
    seen: list[tuple[str, bool, float]]
    under_way: list[tuple[str, bool, int]]
    chains: list[ChainRow]
    conversations: list[ConversationRecord]
    slots: list[SlotRow]
    backends: list[BackendRow]
    held: list[HeldRow]
    pools: list[PoolRow]
    members: list[MemberRow]


def copied(record: Any, kind: type[S], **others: Any) -> S:
    """Copy a record to another kind of struct: the fields of the same name, and `others`."""
    names = (name for name in kind.__struct_fields__ if name not in others)
    return kind(**{name: getattr(record, name) for name in names}, **others)


# A snapshot as a replica: rows become records again, and every index is checked.
T = TypeVar("T")


def _at(table: list[T], place: int) -> T:
    """The record at an index. Raises LookupError if there is none."""
    if not 0 <= place < len(table):
        raise LookupError(f"no such record: {place}")
    return table[place]


def _filled(target: Any, record: Any, **references: Any) -> None:
    for name in record.__struct_fields__:
        if name not in references:
            setattr(target, name, getattr(record, name))
    for name, value in references.items():
        setattr(target, name, value)


class SnapshotReader:
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._conversations = snapshot.conversations
        self._chains = [_chain(record) for record in snapshot.chains]
        # These refer to one another, so they are created empty and filled afterwards.
        self._backends = [BackendRecord(name="", model="") for _ in snapshot.backends]
        self._slots = [Slot(id=0) for _ in snapshot.slots]
        nowhere, nobody, nothing = BackendRecord(name="", model=""), ConversationRecord(), Chain()
        self._held = [
            CachedPrompt(backend=nowhere, chain=nothing, conversation=nobody) for _ in snapshot.held
        ]

    def _held_at(self, place: int) -> CachedPrompt | None:
        return None if place == NONE else _at(self._held, place)

    def replica(self, rules: SharedRules) -> Replica:
        snapshot = self._snapshot
        self._fill()
        replica = Replica(rules)
        replica.now, replica.entries, replica.facts = snapshot.now, snapshot.entries, snapshot.facts
        scheduler = replica.scheduler
        pools = {one.model: self._pool(one) for one in snapshot.pools}
        by_name = {
            name: (pool, backend)
            for pool in pools.values()
            for name, backend in pool.backends.items()
        }
        for one in snapshot.members:
            member = replica.members[one.name] = self._member(one, scheduler)
            for number, ticket in member.tickets.items():
                replica.add_ticket(one.name, number, ticket)
        queue: FairQueue[Ticket] = FairQueue()
        queue.restore(
            [replica.members[name].tickets[number] for name, number in snapshot.queue],
            snapshot.virtual,
            snapshot.ends,
        )
        clients = RecentClients()
        clients.seen = OrderedDict(((key, small), at) for key, small, at in snapshot.seen)
        clients.under_way = {(key, small): n for key, small, n in snapshot.under_way}
        for ticket in queue:
            if ticket.stranded is None:
                _line_up(pools[ticket.want.model].line, ticket)
        scheduler.records = pools, by_name, queue, clients, snapshot.outstanding
        leases = (lease for member in replica.members.values() for lease in member.leases.values())
        scheduler.idle_leases = {lease: None for lease in leases if lease.want.idle}
        return replica

    def _fill(self) -> None:
        snapshot = self._snapshot
        for backend, of_backend in zip(self._backends, snapshot.backends, strict=True):
            slots = [_at(self._slots, place) for place in of_backend.slots]
            _filled(backend, of_backend, slots=slots, seen=set(of_backend.seen))
        for slot, of_slot in zip(self._slots, snapshot.slots, strict=True):
            after = frozenset(_at(self._slots, place) for place in of_slot.after)
            held, before = self._held_at(of_slot.held), self._held_at(of_slot.before)
            _filled(slot, of_slot, after=after, held=held, before=before)
        for held, of_held in zip(self._held, snapshot.held, strict=True):
            _filled(
                held,
                of_held,
                backend=_at(self._backends, of_held.backend),
                chain=_at(self._chains, of_held.chain),
                conversation=_at(self._conversations, of_held.conversation),
                slot=None if of_held.slot == NONE else _at(self._slots, of_held.slot),
            )

    def _pool(self, record: PoolRow) -> Pool:
        pool, returns = Pool(), Returns()
        returns.restore(record.reached, record.continued, record.gap, record.gaps)
        returns.tools.update(record.tool_calls)
        pool.returns = returns
        for place in record.backends:
            backend = _at(self._backends, place)
            pool.backends[backend.name] = backend
        for slot, place in record.free:
            pool.free[_at(self._slots, slot)] = _at(self._backends, place)
        pool.chars_a_token, pool.duration = record.chars_a_token, record.duration
        pool.mean_rate, pool.measured = record.rate, record.measured
        pool.mean_pace, pool.paced, pool.answer = record.pace, record.paced, record.answer
        pool.shared_prefixes.known.update(record.shared_prefixes)
        pool.shared_prefixes.recent.update(dict.fromkeys(split_links(record.recent_links)))
        for key, place in record.conversations:
            pool.conversations[key] = _at(self._conversations, place)
        for key, place in record.sessions:
            pool.sessions.main[key] = _at(self._conversations, place)
        outside = [
            (name, [_at(self._held, one) for one in kept])
            for name, kept in record.kept_outside_slots
        ]
        pool.kept_outside_slots = {name: OrderedDict.fromkeys(kept) for name, kept in outside}
        kept = [slot.held for one in pool.backends.values() for slot in one.slots if slot.held]
        kept += [held for _, some in outside for held in some]
        pool.index_all(kept, record.added)
        pool.on_changed()
        return pool

    def _member(self, record: MemberRow, scheduler: LocalScheduler) -> ReplicaMember:
        member = ReplicaMember(record.last)
        member.backends = record.backends
        for lease in record.leases:
            member.leases[lease.id] = self._lease(lease, member, scheduler)
        for ticket in record.tickets:
            member.tickets[ticket.id] = self._ticket(ticket, member, scheduler)
        return member

    def _want(self, record: WantRow, member: ReplicaMember) -> SlotRequest:
        return copied(
            record,
            SlotRequest,
            task=Task(prompt=() if record.ids else "", max_tokens=record.max_tokens),
            exclude=frozenset(record.exclude),
            barred=frozenset(record.barred),
            chain=_at(self._chains, record.chain),
            views=member.backends,
        )

    def _lease(self, record: LeaseRow, member: ReplicaMember, scheduler: LocalScheduler) -> Lease:
        stored = record.grant
        grant = copied(
            stored,
            Grant,
            backend=_at(self._backends, stored.backend),
            slot=_at(self._slots, stored.slot),
            reuse=self._held_at(stored.reuse),
            restore=self._held_at(stored.restore),
        )
        conversation = _at(self._conversations, record.conversation)
        want = self._want(record.want, member)
        lease = Lease(scheduler, want, grant, conversation, client_class(want))
        lease.written = self._held_at(record.written)
        lease.replaced = self._held_at(record.replaced)
        lease.streaming, lease.waited, lease.place = record.streaming, record.waited, record.place
        lease.wanted = record.wanted
        return lease

    def _ticket(
        self, record: TicketRow, member: ReplicaMember, scheduler: LocalScheduler
    ) -> Ticket:
        conversation = _at(self._conversations, record.conversation)
        want = self._want(record.want, member)
        ticket = Ticket(scheduler, want, conversation, record.began, record.again)
        ticket.until, ticket.wakes, ticket.tag = record.until, record.wakes, record.tag
        ticket.first_place, ticket.stranded = record.first_place, record.stranded
        ticket.parked_for = record.parked_for
        return ticket


def _line_up(line: WaitingLine[Ticket], ticket: Ticket) -> None:
    key, ticket.parked_for = ticket.parked_for, None
    if key is None:
        line.activate(ticket)
    else:
        line.park(ticket, key)


def _chain(record: ChainRow) -> Chain:
    links = split_links(record.links)
    if len(links) != len(record.ends) or not 0 <= record.turn <= max(1, len(links)):
        raise ValueError("a chain is invalid")
    return Chain(links, record.ends, record.turn)


# A replica as a snapshot: each record becomes a row, each reference an index.
class _Table:
    """Records by identity, in the order of their first reference."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self.records: list[Any] = []  # keeps the records alive, so that ids stay unique

    def place(self, record: object) -> int:
        if record is None:
            return NONE
        place = self._places.get(id(record))
        if place is None:
            place = self._places[id(record)] = len(self.records)
            self.records.append(record)
        return place

    def write(self, written: list[T], how: Callable[[Any], T]) -> bool:
        """Write the records not written yet. Returns whether there were any."""
        before = len(written)
        while len(written) < len(self.records):
            written.append(how(self.records[len(written)]))
        return len(written) > before


class SnapshotWriter:
    def __init__(self) -> None:
        self._chains, self._conversations = _Table(), _Table()
        self._slots, self._backends, self._held = _Table(), _Table(), _Table()

    def snapshot(self, replica: Replica) -> Snapshot:
        pools, _, queue, clients, outstanding = replica.scheduler.records
        numbers = {
            id(ticket): (name, number)
            for name, member in replica.members.items()
            for number, ticket in member.tickets.items()
        }
        snapshot = Snapshot(
            format=FORMAT,
            now=replica.now,
            entries=replica.entries,
            facts=replica.facts,
            outstanding=outstanding,
            virtual=queue.virtual,
            ends=queue.ends,
            queue=[numbers[id(ticket)] for ticket in queue],
            seen=[(key, small, at) for (key, small), at in clients.seen.items()],
            under_way=[(key, small, n) for (key, small), n in clients.under_way.items()],
            chains=[],
            conversations=[],
            slots=[],
            backends=[],
            held=[],
            pools=[self._pool(model, pool) for model, pool in pools.items()],
            members=[self._member(name, member) for name, member in replica.members.items()],
        )
        # Writing one table may add records to the others, also records that left their pool.
        while (
            self._backends.write(snapshot.backends, self._backend)
            or self._slots.write(snapshot.slots, self._slot)
            or self._held.write(snapshot.held, self._one_held)
        ):
            pass
        snapshot.conversations = self._conversations.records
        snapshot.chains = [
            ChainRow(b"".join(c.links), c.ends, c.turn) for c in self._chains.records
        ]
        return snapshot

    def _backend(self, backend: BackendRecord) -> BackendRow:
        slots = [self._slots.place(slot) for slot in backend.slots]
        return copied(backend, BackendRow, slots=slots, seen=sorted(backend.seen))

    def _slot(self, slot: Slot) -> SlotRow:
        after = [self._slots.place(other) for other in slot.after]
        held, before = self._held.place(slot.held), self._held.place(slot.before)
        return copied(slot, SlotRow, after=after, held=held, before=before)

    def _one_held(self, held: CachedPrompt) -> HeldRow:
        return copied(
            held,
            HeldRow,
            backend=self._backends.place(held.backend),
            chain=self._chains.place(held.chain),
            conversation=self._conversations.place(held.conversation),
            slot=self._slots.place(held.slot),
        )

    def _pool(self, model: str, pool: Pool) -> PoolRow:
        returns = pool.returns
        return PoolRow(
            model=model,
            backends=[self._backends.place(record) for record in pool.backends.values()],
            free=[(self._slots.place(s), self._backends.place(b)) for s, b in pool.free.items()],
            reached=returns.reached,
            continued=returns.continued,
            gap=returns.gap,
            gaps=returns.gaps,
            chars_a_token=pool.chars_a_token,
            rate=pool.mean_rate,
            measured=pool.measured,
            pace=pool.mean_pace,
            paced=pool.paced,
            answer=pool.answer,
            duration=pool.duration,
            added=pool.added,
            conversations=[
                (key, self._conversations.place(record))
                for key, record in pool.conversations.items()
            ],
            tool_calls=list(returns.tools.items()),
            sessions=[
                (key, self._conversations.place(record))
                for key, record in pool.sessions.main.items()
            ],
            shared_prefixes=list(pool.shared_prefixes.known.items()),
            recent_links=b"".join(pool.shared_prefixes.recent),
            kept_outside_slots=[
                (name, [self._held.place(held) for held in kept])
                for name, kept in pool.kept_outside_slots.items()
            ],
        )

    def _member(self, name: str, member: ReplicaMember) -> MemberRow:
        return MemberRow(
            name,
            member.last,
            dict(member.backends),
            [self._lease(number, lease) for number, lease in member.leases.items()],
            [self._ticket(number, ticket) for number, ticket in member.tickets.items()],
        )

    def _want(self, want: SlotRequest) -> WantRow:
        return copied(
            want,
            WantRow,
            ids=not isinstance(want.task.prompt, str),
            max_tokens=want.task.max_tokens,
            exclude=sorted(want.exclude),
            barred=sorted(want.barred),
            chain=self._chains.place(want.chain),
        )

    def _lease(self, number: int, lease: Lease) -> LeaseRow:
        grant = copied(
            lease.grant,
            GrantRow,
            backend=self._backends.place(lease.grant.backend),
            slot=self._slots.place(lease.grant.slot),
            reuse=self._held.place(lease.grant.reuse),
            restore=self._held.place(lease.grant.restore),
        )
        return copied(
            lease,
            LeaseRow,
            id=number,
            want=self._want(lease.want),
            grant=grant,
            conversation=self._conversations.place(lease.conversation),
            written=self._held.place(lease.written),
            replaced=self._held.place(lease.replaced),
        )

    def _ticket(self, number: int, ticket: Ticket) -> TicketRow:
        return copied(
            ticket,
            TicketRow,
            id=number,
            want=self._want(ticket.want),
            conversation=self._conversations.place(ticket.conversation),
        )
