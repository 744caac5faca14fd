"""Rows of the ledger, and their sums by hour. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

from msgspec import Struct

HOUR = 3_600_000  # milliseconds
DAY = 24 * HOUR
SPAN = HOUR // 6
OK = "ok"
CANCELLED = "cancelled"


class LedgerRow(Struct, frozen=True, kw_only=True, gc=False):
    """One request that asked a model, after its last byte was sent. `ended` is in milliseconds
    since 1970. `api` names the dialect, `client` the product of the User-Agent. `backend` and
    `slot` are those of the last run; -1 is unknown.

    Token counts are those of the answer's own `usage`, of all its choices and rounds with tools.
    `prompt` includes `cached`, and `completion` includes `reasoning`. Times are seconds; those of
    backends are added up over choices. `saved_seconds` is an estimate of the time that the cached
    tokens would have needed. `outcome` is "ok", "cancelled", or the code of an error. `tags` are
    those of the client, with commas."""

    ended: int
    request: str
    key: str
    user: str
    team: str
    model: str
    backend: str
    slot: int
    api: str
    prompt: int
    cached: int
    completion: int
    reasoning: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    slot_seconds: float
    saved_seconds: float
    seconds: float
    outcome: str
    client: str
    tags: str = ""


DIMENSIONS = ("key", "user", "team", "model", "api")


class LedgerSums(Struct, frozen=True, kw_only=True):
    """The sums of rows: `requests`, how many of them `failed`, and the fields of LedgerRow."""

    requests: int = 0
    failed: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    slot_seconds: float = 0.0
    saved_seconds: float = 0.0


class LedgerGroup(Struct, frozen=True, kw_only=True):
    """The sums of a time bucket, which began at `begin`, and of a value of each of `names`. `last`
    is the time of the last row, or the hour of it where sums by hour answer."""

    begin: int
    last: int
    names: Mapping[str, str]
    sums: LedgerSums


COUNTED = LedgerSums.__struct_fields__
SUMMED = COUNTED[2:]
HOUR_COLUMNS = ("hour", *DIMENSIONS, *COUNTED)


_dimensions, _summed = attrgetter(*DIMENSIONS), attrgetter(*SUMMED)


def hour_sums(rows: Iterable[LedgerRow]) -> list[tuple[Any, ...]]:
    """The sums of rows by hour and dimensions, with the HOUR_COLUMNS, sorted: all writers lock rows
    in the same order."""
    groups: dict[tuple[Any, ...], list[LedgerRow]] = {}
    for row in rows:
        group = row.ended - row.ended % HOUR, *_dimensions(row)
        groups.setdefault(group, []).append(row)
    sums = []
    for group in sorted(groups):
        rows = groups[group]
        failed = sum([row.outcome not in (OK, CANCELLED) for row in rows])
        sums.append((*group, len(rows), failed, *map(sum, zip(*map(_summed, rows), strict=True))))
    return sums
