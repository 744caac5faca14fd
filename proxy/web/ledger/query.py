"""Parses the queries of the usage routes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct
from werkzeug.datastructures import MultiDict

from ...apis.fields import decimal
from ...errors import InvalidParameter
from ...store.ledger_rows import DIMENSIONS

Query = MultiDict[str, str]

DAY = 86400  # seconds
_SECONDS = re.compile(r"[0-9]{1,10}")  # since 1970
MOST_VALUES = 100  # of one filter
LONGEST_VALUE = 256  # characters
WIDTHS = {"1m": 60, "1h": 3600, "1d": DAY}
# How many buckets a page has by default, and at most; as OpenAI says.
PAGES = {"1m": (60, 1440), "1h": (24, 168), "1d": (7, 31)}
# OpenAI's names of dimensions. Those that the gateway does not have are null in each result.
GROUPS = {"project_id": "team", "user_id": "user", "api_key_id": "key", "model": "model"}
UNKNOWN_GROUPS = frozenset({"batch", "service_tier", "api_source"})
FILTERS = {"project_ids": "team", "user_ids": "user", "api_key_ids": "key", "models": "model"}
DAYS = 30  # of a range that is not given


class Range(Struct, frozen=True):
    """From `begin` to before `end`, in seconds since 1970."""

    begin: int
    end: int


class OrganizationQuery(Struct, frozen=True, kw_only=True):
    """A page of time buckets. `begin` is the start of the first one, `groups` are OpenAI's names of
    dimensions, `only` the allowed values of ours. `is_nothing`: a filter excludes everything."""

    begin: int
    end: int
    width: int
    limit: int
    groups: tuple[str, ...]
    only: Mapping[str, Sequence[str]]
    is_nothing: bool = False


class UsageQuery(Struct, frozen=True, kw_only=True):
    """`everyone`: not only the caller's own requests. `by`: the dimensions to group by."""

    time: Range
    everyone: bool
    by: tuple[str, ...]


def organization(query: Query, now: float) -> OrganizationQuery:
    """Parse a query in OpenAI's form. Buckets begin at whole minutes, hours or days of UTC: the
    first one contains `start_time`. Raises InvalidParameter."""
    start = _time(query, "start_time")
    if start is None:
        raise InvalidParameter("start_time", "is missing: give Unix seconds")
    name = query.get("bucket_width") or "1d"
    if name not in WIDTHS:
        raise InvalidParameter("bucket_width", f"must be one of {', '.join(WIDTHS)}")
    width, (default, most) = WIDTHS[name], PAGES[name]
    limit = decimal(query.get("limit") or str(default), 1, most)
    if limit is None:
        raise InvalidParameter("limit", f"must be from 1 to {most}")
    page = _time(query, "page")
    begin = start if page is None else page
    end = _time(query, "end_time")
    groups = _values(query, "group_by")
    for group in groups:
        if group not in GROUPS and group not in UNKNOWN_GROUPS:
            known = ", ".join((*GROUPS, *sorted(UNKNOWN_GROUPS)))
            raise InvalidParameter("group_by", f"must be some of {known}")
    only = {ours: _values(query, theirs) for theirs, ours in FILTERS.items()}
    return OrganizationQuery(
        begin=begin - begin % width,
        end=int(now) + 1 if end is None else end,
        width=width,
        limit=limit,
        groups=groups,
        only={name: values for name, values in only.items() if values},
        is_nothing=(query.get("batch") or "").lower() == "true",  # there are no batch jobs
    )


def usage(query: Query, now: float) -> UsageQuery:
    """Parse a query for sums by day. The first hour counts as a whole. Raises InvalidParameter."""
    by = _values(query, "group_by") or ("model",)
    if not set(by) <= set(DIMENSIONS):
        raise InvalidParameter("group_by", f"must be some of {', '.join(DIMENSIONS)}")
    time = time_range(query, now)
    hours = Range(time.begin - time.begin % 3600, time.end)
    return UsageQuery(time=hours, everyone=everyone(query), by=by)


def everyone(query: Query) -> bool:
    scope = query.get("scope") or "own"
    if scope not in ("own", "all"):
        raise InvalidParameter("scope", "must be own or all")
    return scope == "all"


def time_range(query: Query, now: float) -> Range:
    """The range of time; by default the last DAYS days. Raises InvalidParameter."""
    end = _time(query, "end_time")
    end = int(now) + 1 if end is None else end
    begin = _time(query, "start_time")
    return Range(max(0, end - DAYS * DAY) if begin is None else begin, end)


def _time(query: Query, name: str) -> int | None:
    value = query.get(name)
    if not value:
        return None
    if not _SECONDS.fullmatch(value):
        raise InvalidParameter(name, "must be a time in whole Unix seconds")
    return int(value)


def _values(query: Query, name: str) -> tuple[str, ...]:
    """The values of a list, which clients send as `name` or `name[]`, repeated."""
    values = (*query.getlist(name), *query.getlist(f"{name}[]"))
    if len(values) > MOST_VALUES:
        raise InvalidParameter(name, f"must have at most {MOST_VALUES} values")
    if any(len(value) > LONGEST_VALUE for value in values):
        raise InvalidParameter(name, f"must have values of at most {LONGEST_VALUE} characters")
    return tuple(dict.fromkeys(value for value in values if value))
