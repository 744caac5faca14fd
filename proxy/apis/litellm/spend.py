"""What was used, in LiteLLM's shapes: /spend/logs and /global/spend/report.

Queries have days as `start_date` and `end_date` (YYYY-MM-DD, in UTC); the last one counts too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from ...errors import InvalidParameter

DAY = 86_400_000  # milliseconds


class Used(NamedTuple):
    """What requests used on a day that had the same names; `day` is its begin, in milliseconds."""

    day: int
    names: Mapping[str, str]
    prompt: int
    completion: int
    money: float


def days(query: Mapping[str, str]) -> tuple[int, int]:
    """The range of days, from the first to before the second in milliseconds. Raises
    InvalidParameter."""
    bounds = []
    for name, later in (("start_date", 0), ("end_date", 1)):
        try:
            day = date.fromisoformat((query.get(name) or "")[:10]) + timedelta(days=later)
        except (ValueError, OverflowError):  # there is no day after 9999-12-31
            raise InvalidParameter(name, "must be a day such as 2026-11-23") from None
        bounds.append(int(1000 * datetime.combine(day, datetime.min.time(), UTC).timestamp()))
    begin, end = bounds
    if end <= begin:
        raise InvalidParameter("end_date", "must not be before start_date")
    return begin, end


def choice(query: Mapping[str, str], name: str, *choices: str) -> str:
    """The first choice unless another is given. Raises InvalidParameter."""
    value = query.get(name) or choices[0]
    if value not in choices:
        raise InvalidParameter(name, f"must be one of {', '.join(choices)}")
    return value


def by_day(used: Iterable[Used]) -> list[dict[str, Any]]:
    """The summed answer of /spend/logs."""
    return [
        {
            "startTime": datetime.fromtimestamp(day / 1000, UTC).date().isoformat(),
            "spend": _money(some),
            "users": {name: _money(part) for name, part in _by_name(some, "user")},
            "models": {name: _money(part) for name, part in _by_name(some, "model")},
        }
        for day, some in _grouped(used, lambda group: group.day)
    ]


def by_team(used: Iterable[Used], alias: Callable[[str], str]) -> list[dict[str, Any]]:
    """The report by day and team; `alias` is the name of a team for people."""
    return [
        {
            "group_by_day": datetime.fromtimestamp(day / 1000, UTC).isoformat(),
            "teams": [
                {
                    "team_name": alias(team) if team else "Unassigned Team",
                    "total_spend": _money(part),
                    "metadata": [
                        {
                            "model": group.names["model"],
                            "api_key": group.names["key"],
                            "spend": group.money,
                            "total_tokens": group.prompt + group.completion,
                        }
                        for group in part
                    ],
                }
                for team, part in _by_name(some, "team")
            ],
        }
        for day, some in _grouped(used, lambda group: group.day)
    ]


def by_key(used: Iterable[Used]) -> list[dict[str, Any]]:
    """The report by key, the dearest first."""
    report = [
        {
            "api_key": key,
            **_totals(some),
            "model_details": [
                {"model": model, **_totals(part)} for model, part in _by_name(some, "model")
            ],
        }
        for key, some in _by_name(used, "key")
    ]
    return sorted(report, key=lambda row: [row[name] for name in _totals([])], reverse=True)


def _totals(used: Sequence[Used]) -> dict[str, Any]:
    return {
        "total_cost": _money(used),
        "total_input_tokens": sum(group.prompt for group in used),
        "total_output_tokens": sum(group.completion for group in used),
    }


def _money(used: Iterable[Used]) -> float:
    return round(sum(group.money for group in used), 9)


def _by_name(used: Iterable[Used], name: str) -> list[tuple[Any, list[Used]]]:
    return _grouped(used, lambda group: group.names[name])


def _grouped(used: Iterable[Used], of: Callable[[Used], Any]) -> list[tuple[Any, list[Used]]]:
    groups: dict[Any, list[Used]] = defaultdict(list)
    for group in used:
        groups[of(group)].append(group)
    return sorted(groups.items())
