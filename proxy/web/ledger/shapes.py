"""Sums of the ledger as JSON. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from ...store.ledger_rows import COUNTED, LedgerGroup, LedgerSums
from .query import Range

TOKENS = ("prompt", "cached", "completion", "reasoning")


def counts(sums: LedgerSums) -> dict[str, Any]:
    """The sums of one group. `saved_seconds` is what the cached tokens would have taken."""
    return {
        f"{name}_tokens" if name in TOKENS else name: _rounded(getattr(sums, name))
        for name in COUNTED
    }


def by_day(
    time: Range, groups: Sequence[LedgerGroup], shown: Callable[[str], str]
) -> dict[str, Any]:
    """The totals, and a row for each day and group. `shown` gives a key's name for people."""
    return {
        "object": "usage",
        "start_time": time.begin,
        "end_time": time.end,
        "total": counts(added(groups)),
        "data": [
            {
                "date": datetime.fromtimestamp(group.begin / 1000, UTC).date().isoformat(),
                **group.names,
                **({"key_name": shown(group.names["key"])} if "key" in group.names else {}),
                **counts(group.sums),
            }
            for group in groups
        ],
    }


def added(groups: Iterable[LedgerGroup]) -> LedgerSums:
    """The sums of all groups together."""
    total = dict.fromkeys(COUNTED, 0)
    for group in groups:
        for name in COUNTED:
            total[name] += getattr(group.sums, name)
    return LedgerSums(**total)


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 6)
