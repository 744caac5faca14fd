"""Snapshots: a replica encoded as bytes, for workers that join later.

The scheduler's records refer to one another. In a snapshot each kind of them has a table, and a
reference is an index there, as the types of the fields say. The encoding is msgpack of plain
values, so decoding untrusted bytes creates nothing but these records. The first value is the
format's number. Derived data is not written: the prefix index, the waiting lines, and owners.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr

from ..fair import FairQueue
from ..lease import Lease, Ticket
from ..pool import Pool
from ..prefix import Chain
from ..state import (
    BackendFacts,
    BackendRecord,
    CachedPrompt,
    ConversationRecord,
    Grant,
    Slot,
    SlotRequest,
)
from .ops import FORMAT
from .replica import Replica, ReplicaMember, SharedRules

# These are written once each; every other struct is written where it is.
RECORDS = (Ticket, Lease, CachedPrompt, Slot, BackendRecord, ConversationRecord, Chain)
DERIVED: dict[type, set[str]] = {
    Lease: {"owner", "give_way", "over", "placement"},
    Ticket: {"owner", "event", "lease", "error"},
    Pool: {"line", "index", "guessed", "tiered", "losses"},
    BackendRecord: {"pool", "reserved"},  # the latter is set only while the queue is served
    SlotRequest: {"views"},
    Grant: {"cost"},
}


class State(Struct):
    """What the replicas of all workers have in common after the same entry."""

    now: float
    entries: int
    facts: dict[str, BackendFacts]
    members: dict[str, ReplicaMember]
    pools: dict[str, Pool]
    queue: FairQueue
    outstanding: int
    idle_leases: dict[Lease, None]


OF_REPLICA = ("now", "entries", "facts", "members")  # the other fields are the scheduler's


def dump(replica: Replica) -> bytes:
    """Encode a replica. Call it between two entries."""
    tables = _Tables()
    fields = {
        name: getattr(replica if name in OF_REPLICA else replica.scheduler, name)
        for name in State.__struct_fields__
    }
    plain = tables.plain(State, State(**fields))
    return _encode([FORMAT, plain, *tables.rows()])


def load(data: bytes, rules: SharedRules) -> Replica:
    """Decode a replica. Raises ValueError for invalid bytes or another format."""
    try:
        version, plain, *rows = _decode(data)
        if version != FORMAT:
            raise ValueError("it has another version")
        state: State = _read(State, plain, _records(rows))
        return _replica(state, rules)
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"not a valid snapshot: {error}") from None


def _replica(state: State, rules: SharedRules) -> Replica:
    """A replica of this state, with everything that is derived from it."""
    replica = Replica(rules)
    scheduler = replica.scheduler
    for name in State.__struct_fields__:
        setattr(replica if name in OF_REPLICA else scheduler, name, getattr(state, name))
    for pool in state.pools.values():
        pool.restore()
        scheduler.backends.update(pool.backends)
        for backend in pool.backends.values():
            backend.pool = pool
    for name, member in state.members.items():
        entries: list[Lease | Ticket] = [*member.leases.values(), *member.tickets.values()]
        for entry in entries:
            entry.owner = scheduler
            if isinstance(entry, Lease) and entry.grant.backend.pool is None:
                entry.grant.backend.pool = Pool()  # it was removed
            force_setattr(entry.request, "views", member.backends)
        for number, ticket in member.tickets.items():
            replica.add_ticket(name, number, ticket)
    for ticket in state.queue:
        key, ticket.parked_for = ticket.parked_for, None
        line = state.pools[ticket.request.model].line
        if key is not None:
            line.park(ticket, key)
        elif ticket.no_backend_since is None:
            line.activate(ticket)
    return replica


class _Tables:
    """Records by identity, in the order of their first reference."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._records: dict[type, list[Any]] = {kind: [] for kind in RECORDS}

    def plain(self, kind: Any, value: Any) -> Any:
        """A value of this type, with indexes in place of records."""
        if value is None or not _refers(kind):
            return value
        kind = _some(kind)
        if kind in RECORDS:
            return self._place(kind, value)
        if isinstance(value, Struct):
            return self._row(kind, value)
        arguments = get_args(kind)
        if isinstance(value, dict):
            of_key, of_value = arguments
            return [(self.plain(of_key, k), self.plain(of_value, v)) for k, v in value.items()]
        return [self.plain(arguments[0], item) for item in value]

    def _place(self, kind: type, record: Any) -> int:
        place = self._places.get(id(record))
        if place is None:
            table = self._records[kind]
            place = self._places[id(record)] = len(table)
            table.append(record)
        return place

    def _row(self, kind: type, record: Any) -> list[Any]:
        return [
            self.plain(of_field, getattr(record, name)) if refers else getattr(record, name)
            for name, of_field, refers in _fields(kind)
        ]

    def rows(self) -> list[list[Any]]:
        """The tables. Writing a record may add others, also some that left their pool."""
        rows: dict[type, list[Any]] = {kind: [] for kind in RECORDS}
        while any(len(rows[kind]) < len(self._records[kind]) for kind in RECORDS):
            for kind, written in rows.items():
                for record in self._records[kind][len(written) :]:
                    written.append(self._row(kind, record) if _has_references(kind) else record)
        return list(rows.values())


def _records(rows: list[list[Any]]) -> dict[type, list[Any]]:
    """The records of the tables. They refer to one another, so they are created empty first."""
    records: dict[type, list[Any]] = {}
    for kind, table in zip(RECORDS, rows, strict=True):
        if _has_references(kind):
            records[kind] = [_empty(kind) for _ in table]
        else:
            records[kind] = msgspec.convert(table, list[kind])  # type: ignore[valid-type]
    for chain in records[Chain]:
        chain.check()
    for kind, table in zip(RECORDS, rows, strict=True):
        if _has_references(kind):
            for record, row in zip(records[kind], table, strict=True):
                for (name, of_field, _), value in zip(_fields(kind), row, strict=True):
                    setattr(record, name, _read(of_field, value, records))
    return records


def _empty(kind: Any) -> Any:
    required = [field.name for field in msgspec.structs.fields(kind) if field.required]
    return kind(**dict.fromkeys(required))


def _read(kind: Any, value: Any, records: dict[type, list[Any]]) -> Any:
    """A value of this type from a plain one. Raises ValueError for one of another type, LookupError
    if there is no such record."""
    if not _refers(kind):
        return msgspec.convert(value, kind)
    if value is None and isinstance(kind, UnionType):
        return None
    kind = _some(kind)
    if kind in RECORDS:
        if value < 0:
            raise LookupError(f"no such record: {value}")
        return records[kind][value]
    if not get_args(kind):
        fields = zip(_fields(kind), value, strict=True)
        return kind(
            **{name: _read(of_field, item, records) for (name, of_field, _), item in fields}
        )
    make: Callable[[Iterator[Any]], Any] = get_origin(kind)
    if not issubclass(get_origin(kind), dict):
        return make(_read(get_args(kind)[0], item, records) for item in value)
    of_key, of_value = get_args(kind)
    return make((_read(of_key, k, records), _read(of_value, v, records)) for k, v in value)


# What the types say. A type `refers` if its values are, or contain, records.


@cache
def _fields(kind: type) -> tuple[tuple[str, Any, bool], ...]:
    """The fields of a struct that are written, their types, and whether these refer."""
    left_out, types = DERIVED.get(kind, set()), get_type_hints(kind)
    names = [name for name in kind.__struct_fields__ if name not in left_out]  # type: ignore[attr-defined]
    return tuple((name, types[name], _refers(types[name])) for name in names)


def _has_references(record: type) -> bool:
    return any(refers for _, _, refers in _fields(record))


@cache
def _refers(kind: Any) -> bool:
    if kind in RECORDS:
        return True
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _has_references(kind)
    return any(map(_refers, get_args(kind)))


def _some(kind: Any) -> Any:
    """The type without None."""
    return get_args(kind)[0] if isinstance(kind, UnionType) else kind


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode
