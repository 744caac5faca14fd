"""Parses the queries of the usage routes. Pure."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
from werkzeug.datastructures import MultiDict

from ...accounts.limiting import budgets
from ...errors import InvalidParameter
from ...store.ledger_rows import COUNTED, DIMENSIONS, LedgerGroup, LedgerRow, LedgerSums

Query = MultiDict[str, str]

DAY = 86400  # seconds
_SECONDS = re.compile(r"[0-9]{1,10}")  # since 1970
MOST_VALUES = 100  # of one filter
LONGEST_VALUE = 256  # characters
DAYS = 30  # of a range that is not given


def group_by(query: Query) -> tuple[str, ...]:
    """The dimensions to group by. Raises InvalidParameter."""
    by = _values(query, "group_by") or ("model",)
    if not set(by) <= {*DIMENSIONS, TAG}:
        raise InvalidParameter("group_by", f"must be some of {', '.join((*DIMENSIONS, TAG))}")
    return by


TAG = "tag"  # a dimension of the query, and a filter


def with_tag(rows: Iterable[LedgerRow], tag: str) -> Iterator[LedgerRow]:
    """The rows with this tag, all of them for ""."""
    return (row for row in rows if not tag or tag in row.tags.split(","))


def by_tag(groups: Sequence[LedgerGroup], by: Sequence[str], tag: str) -> list[LedgerGroup]:
    """The sums of groups by `tags` and others, grouped by `by`: a request counts for each of its
    tags, "" for none. Only those with this `tag` count, if it is not ""."""
    parts: dict[tuple[Any, ...], list[LedgerGroup]] = {}
    for group in groups:
        tags = group.names["tags"].split(",")
        if not tag or tag in tags:
            for name in tags if TAG in by else tags[:1]:
                names = {**group.names, TAG: name}
                parts.setdefault((group.begin, *map(names.get, by)), []).append(group)
    return [
        LedgerGroup(
            begin=begin,
            last=max(part.last for part in same),
            names=dict(zip(by, values, strict=True)),
            sums=added(same),
        )
        for (begin, *values), same in sorted(parts.items())
    ]


def everyone(query: Query) -> bool:
    """Whether all keys' requests are meant, not only the caller's. Raises InvalidParameter."""
    scope = query.get("scope") or "own"
    if scope not in ("own", "all"):
        raise InvalidParameter("scope", "must be own or all")
    return scope == "all"


def time_range(query: Query, now: float) -> tuple[int, int]:
    """The time from and before which; by default the last DAYS. Raises InvalidParameter."""
    for name in ("start_time", "end_time"):
        if query.get(name) and not _SECONDS.fullmatch(query[name]):
            raise InvalidParameter(name, "must be a time in whole Unix seconds")
    end = int(query.get("end_time") or int(now) + 1)
    return int(query.get("start_time") or max(0, end - DAYS * DAY)), end


def _values(query: Query, name: str) -> tuple[str, ...]:
    """The values of a list, which clients send as `name` or `name[]`, repeated."""
    values = (*query.getlist(name), *query.getlist(f"{name}[]"))
    if len(values) > MOST_VALUES:
        raise InvalidParameter(name, f"must have at most {MOST_VALUES} values")
    if any(len(value) > LONGEST_VALUE for value in values):
        raise InvalidParameter(name, f"must have values of at most {LONGEST_VALUE} characters")
    return tuple(dict.fromkeys(value for value in values if value))


# Sums of the ledger as JSON. Pure.
TOKENS = ("prompt", "cached", "completion", "reasoning")


def counts(sums: LedgerSums) -> dict[str, Any]:
    """The sums of one group. `saved_seconds` is what the cached tokens would have taken."""
    # Integers stay integers.
    return {
        f"{name}_tokens" if name in TOKENS else name: round(getattr(sums, name), 6)
        for name in COUNTED
    }


def by_day(
    begin: int,
    end: int,
    groups: Sequence[LedgerGroup],
    shown: Callable[[str], str],
    whole: Sequence[LedgerGroup],
) -> dict[str, Any]:
    """The totals, those of `whole`, and a row for each day and group. `shown` gives a key's name
    for people."""
    return {
        "object": "usage",
        "start_time": begin,
        "end_time": end,
        "total": counts(added(whole)),
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


def added(groups: Sequence[LedgerGroup]) -> LedgerSums:
    return LedgerSums(
        **{name: sum(getattr(group.sums, name) for group in groups) for name in COUNTED}
    )


Pricing = Callable[[str, LedgerSums | LedgerRow], float]


def pricing(prices: Sequence[budgets.Price]) -> Pricing:
    def cost(model: str, counts: LedgerSums | LedgerRow) -> float:
        used = budgets.Used(counts.prompt, counts.cached, counts.completion, counts.slot_seconds)
        return budgets.cost("money", used, budgets.price_of(prices, model))

    return cost


# Rows of the ledger as CSV and as JSON lines. Pure.
GATHERED = 500  # rows sent together
# By the name of the column.
COLUMNS = {"time": "ended"} | {
    f"{name}_tokens" if name in TOKENS else name: name
    for name in LedgerRow.__struct_fields__
    if name != "ended"
}
FORMULA = tuple("=+-@\t\r")  # what a spreadsheet takes for a formula if a cell begins with it

_encode = msgspec.json.Encoder().encode
Rows = Iterable[LedgerRow]
Named = Callable[[str], str]


def as_csv(rows: Rows, backend_name: Named) -> Iterator[bytes]:
    """CSV with a head, in pieces. `backend_name` gives a backend's name as shown to the caller."""
    head = [[*COLUMNS]]
    for part in _gathered(rows):
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\r\n")
        lines.writerows(head)
        head = []
        for row in part:
            cells = _cells(row, backend_name).values()
            # A text that a spreadsheet would take for a formula gets a mark.
            lines.writerow(
                f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
                for cell in cells
            )
        yield text.getvalue().encode()


def as_json_lines(rows: Rows, backend_name: Named) -> Iterator[bytes]:
    for part in _gathered(rows):
        yield b"".join(_encode(_cells(row, backend_name)) + b"\n" for row in part)


def _cells(row: LedgerRow, backend_name: Named) -> dict[str, Any]:
    cells = {column: getattr(row, name) for column, name in COLUMNS.items()}
    ended = datetime.fromtimestamp(row.ended / 1000, UTC)
    cells["time"] = ended.isoformat(timespec="milliseconds")
    cells["backend"] = backend_name(row.backend) if row.backend else ""
    return cells


def _gathered(rows: Rows) -> Iterator[list[LedgerRow]]:
    """The rows in lists; at least one, which may be empty."""
    left = iter(rows)
    yield list(islice(left, GATHERED))
    while part := list(islice(left, GATHERED)):
        yield part
