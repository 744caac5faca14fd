"""The list of changes of accounts, which is our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from ...accounts.records import Entry
from ...errors import InvalidParameter
from ..fields import decimal
from . import values

MOST_LISTED = 1000


class AuditPage(Struct, frozen=True):
    """A page of changes, the newest first; `before` is the number of the last one before it."""

    subject: str
    before: int | None
    limit: int


def parse(query: Mapping[str, str]) -> AuditPage:
    """Raises InvalidParameter."""
    limit = decimal(query.get("limit") or "100", 1, MOST_LISTED)
    if limit is None:
        raise InvalidParameter("limit", f"must be a number from 1 to {MOST_LISTED}")
    before = query.get("before")
    number = decimal(before, 1, 999_999_999) if before else None
    if before and number is None:
        raise InvalidParameter("before", "must be the number of a change")
    return AuditPage(values.name(query, "subject") or "", number, limit)


def listed(entries: Sequence[Entry]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {
                "object": "audit.entry",
                "number": one.number,
                "at": values.shown_time(one.at),
                "actor": one.actor,
                "action": one.action,
                "kind": one.kind,
                "subject": one.subject,
                "details": one.details,
            }
            for one in entries
        ],
    }
