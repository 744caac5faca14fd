"""What was used, in LiteLLM's shapes: /spend/logs and /global/spend/report.

Queries have days as `start_date` and `end_date` (YYYY-MM-DD, in UTC); the last one counts too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from msgspec import Struct

from ...errors import InvalidParameter
from . import values

DAY = 86_400_000  # milliseconds
GROUPS = ("team", "api_key")
NO_TEAM = "Unassigned Team"


class Used(Struct, frozen=True, kw_only=True):
    """What requests used that had the same names; `at` is when they began, in milliseconds."""

    at: int = 0
    key: str = ""
    user: str = ""
    team: str = ""
    model: str = ""
    prompt: int = 0
    completion: int = 0
    money: float = 0.0


class Logs(Struct, frozen=True, kw_only=True):
    """A query of /spend/logs, from `begin` to before `end` in milliseconds. `summed`: by day, not
    single requests. `only` has values of Used's names."""

    begin: int
    end: int
    summed: bool
    request: str
    only: Mapping[str, str]


class Report(Struct, frozen=True, kw_only=True):
    """A query of /global/spend/report."""

    begin: int
    end: int
    by: str
    only: Mapping[str, str]


def parse_logs(query: Mapping[str, str], now: float) -> Logs:
    """Without days, the requests of the last day. Raises InvalidParameter."""
    given = bool(query.get("start_date") or query.get("end_date"))
    if given:
        begin, end = _days(query)
    else:
        end = int(1000 * now) + 1
        begin = end - DAY
    summarize = (query.get("summarize") or "true").lower()
    if summarize not in ("true", "false"):
        raise InvalidParameter("summarize", "must be true or false")
    only = {"key": "api_key", "user": "user_id"}
    return Logs(
        begin=begin,
        end=end,
        summed=given and summarize == "true",
        request=values.name(query, "request_id") or "",
        only=_filters(query, only),
    )


def parse_report(query: Mapping[str, str]) -> Report:
    """Raises InvalidParameter."""
    begin, end = _days(query)
    by = query.get("group_by") or "team"
    if by not in GROUPS:
        raise InvalidParameter("group_by", f"must be one of {', '.join(GROUPS)}")
    only = _filters(query, {"key": "api_key", "user": "internal_user_id", "team": "team_id"})
    if "key" in only or "user" in only:
        by = "api_key"  # as LiteLLM does
    return Report(begin=begin, end=end, by=by, only=only)


def _filters(query: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    found = {ours: values.name(query, theirs) for ours, theirs in names.items()}
    return {name: value for name, value in found.items() if value}


def _days(query: Mapping[str, str]) -> tuple[int, int]:
    """The range of days, in milliseconds."""
    days = []
    for name, later in (("start_date", 0), ("end_date", 1)):
        try:
            day = date.fromisoformat((query.get(name) or "")[:10]) + timedelta(days=later)
        except (ValueError, OverflowError):  # there is no day after 9999-12-31
            raise InvalidParameter(name, "must be a day such as 2026-11-23") from None
        days.append(datetime.combine(day, datetime.min.time(), UTC))
    begin, end = days
    if end <= begin:
        raise InvalidParameter("end_date", "must not be before start_date")
    return _milliseconds(begin), _milliseconds(end)


def _milliseconds(at: datetime) -> int:
    return int(1000 * at.timestamp())


def by_day(used: Iterable[Used]) -> list[dict[str, Any]]:
    """The summed answer of /spend/logs."""
    days: dict[int, list[Used]] = defaultdict(list)
    for one in used:
        days[one.at - one.at % DAY].append(one)
    return [
        {
            "startTime": _day(at),
            "spend": _money(some),
            "users": {name: _money(part) for name, part in _grouped(some, lambda one: one.user)},
            "models": {name: _money(part) for name, part in _grouped(some, lambda one: one.model)},
        }
        for at, some in sorted(days.items())
    ]


def log(used: Used, request: str, ended: int, call_type: str, outcome: str) -> dict[str, Any]:
    """A request in /spend/logs."""
    return {
        "request_id": request,
        "call_type": call_type,
        "api_key": used.key,
        "user": used.user,
        "team_id": used.team or None,
        "model": used.model,
        "spend": used.money,
        "total_tokens": used.prompt + used.completion,
        "prompt_tokens": used.prompt,
        "completion_tokens": used.completion,
        "startTime": values.shown_time(used.at / 1000),
        "endTime": values.shown_time(ended / 1000),
        "status": "success" if outcome == "ok" else "failure",
        "metadata": {},
        "request_tags": [],
    }


def by_team(used: Iterable[Used], alias: Callable[[str], str]) -> list[dict[str, Any]]:
    """The report by day and team; `alias` is the name of a team for people."""
    days: dict[int, list[Used]] = defaultdict(list)
    for one in used:
        days[one.at - one.at % DAY].append(one)
    return [
        {
            "group_by_day": datetime.fromtimestamp(at / 1000, UTC).isoformat(),
            "teams": [
                {
                    "team_name": alias(team) if team else NO_TEAM,
                    "total_spend": _money(part),
                    "metadata": [
                        {
                            "model": one.model,
                            "api_key": one.key,
                            "spend": one.money,
                            "total_tokens": one.prompt + one.completion,
                        }
                        for one in part
                    ],
                }
                for team, part in _grouped(some, lambda one: one.team)
            ],
        }
        for at, some in sorted(days.items())
    ]


def by_key(used: Iterable[Used]) -> list[dict[str, Any]]:
    """The report by key, the dearest first."""
    found = [
        {
            "api_key": key,
            **_totals(some),
            "model_details": [
                {"model": model, **_totals(part)}
                for model, part in _grouped(some, lambda one: one.model)
            ],
        }
        for key, some in _grouped(used, lambda one: one.key)
    ]
    tokens = ("total_cost", "total_input_tokens", "total_output_tokens")
    return sorted(found, key=lambda one: [one[name] for name in tokens], reverse=True)


def _totals(used: Iterable[Used]) -> dict[str, Any]:
    some = list(used)
    return {
        "total_cost": _money(some),
        "total_input_tokens": sum(one.prompt for one in some),
        "total_output_tokens": sum(one.completion for one in some),
    }


def _money(used: Iterable[Used]) -> float:
    return round(sum(one.money for one in used), 9)


def _grouped(used: Iterable[Used], name: Callable[[Used], str]) -> list[tuple[str, list[Used]]]:
    groups: dict[str, list[Used]] = defaultdict(list)
    for one in used:
        groups[name(one)].append(one)
    return sorted(groups.items())


def _day(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).date().isoformat()
