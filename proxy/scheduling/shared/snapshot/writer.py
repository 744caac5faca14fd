"""A replica as a snapshot: each record becomes a row, each reference an index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ...lease import Lease, Ticket
from ...pool import Pool
from ...state import BackendRecord, CachedPrompt, Slot, SlotRequest
from ..ops import FORMAT
from ..replica import Replica, ReplicaMember
from .rows import (
    NONE,
    BackendRow,
    ChainRow,
    GrantRow,
    HeldRow,
    LeaseRow,
    MemberRow,
    PoolRow,
    SlotRow,
    Snapshot,
    TicketRow,
    WantRow,
    copied,
)

T = TypeVar("T")


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
