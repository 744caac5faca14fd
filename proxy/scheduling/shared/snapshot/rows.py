"""The rows of a snapshot: plain values, with the same field names as the scheduler's records."""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec import Struct

from ....core.task import Tier
from ...returns import ToolCalls
from ...shared_prefixes import SharedPrefix
from ...state import BackendFacts, CacheKind, ConversationRecord

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
