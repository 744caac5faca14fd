"""Sums of the ledger as JSON: in OpenAI's shape, and in our own. Pure.

OpenAI's is that of GET /v1/organization/usage/completions
(https://platform.openai.com/docs/api-reference/usage/completions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from ...store.ledger_rows import COUNTED, LedgerGroup, LedgerSums
from .query import GROUPS, OrganizationQuery, Range

TOKENS = ("prompt", "cached", "completion", "reasoning")


def page_end(query: OrganizationQuery) -> int:
    """The end of the last bucket of the page, in seconds."""
    first_behind = query.end + -query.end % query.width
    return min(first_behind, query.begin + query.limit * query.width)


def page(query: OrganizationQuery, groups: Iterable[LedgerGroup], kind: str) -> dict[str, Any]:
    """A page of buckets. `groups` are in order of time; `kind` is "completions" or
    "embeddings"."""
    results: dict[int, list[dict[str, Any]]] = {}
    for group in groups:
        results.setdefault(group.begin // 1000, []).append(_result(query, group, kind))
    end = page_end(query)
    buckets = [
        {
            "object": "bucket",
            "start_time": begin,
            "end_time": begin + query.width,
            "results": results.get(begin, []),
        }
        for begin in range(query.begin, end, query.width)
    ]
    more = end < query.end
    return {
        "object": "page",
        "data": buckets,
        "has_more": more,
        "next_page": str(end) if more else None,
    }


def _result(query: OrganizationQuery, group: LedgerGroup, kind: str) -> dict[str, Any]:
    sums = group.sums
    counts: dict[str, Any] = {"input_tokens": sums.prompt, "num_model_requests": sums.requests}
    if kind == "completions":
        counts |= {
            "output_tokens": sums.completion,
            "input_cached_tokens": sums.cached,
            "input_audio_tokens": 0,
            "output_audio_tokens": 0,
            "batch": False if "batch" in query.groups else None,
            "service_tier": "default" if "service_tier" in query.groups else None,
        }
    named = {name: group.names.get(ours) or None for name, ours in GROUPS.items()}
    return {"object": f"organization.usage.{kind}.result", **counts, **named}


def counts(sums: LedgerSums) -> dict[str, Any]:
    """Sums in our own shape. `saved_seconds` is what the cached tokens would have taken."""
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
