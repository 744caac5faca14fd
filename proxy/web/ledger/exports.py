"""Rows of the ledger as CSV and as JSON lines. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from ...store.ledger_rows import LedgerRow
from .query import TOKENS

GATHERED = 500  # rows sent together
COLUMNS = (
    "time",
    *(name for name in LedgerRow.__struct_fields__ if name not in ("ended", "blocks")),
)
NAMES = [f"{name}_tokens" if name in TOKENS else name for name in COLUMNS]
FORMULA = tuple("=+-@\t\r")  # what a spreadsheet takes for a formula if a cell begins with it

_encode = msgspec.json.Encoder().encode
Rows = Iterable[LedgerRow]
Named = Callable[[str], str]


def as_csv(rows: Rows, backend_name: Named) -> Iterator[bytes]:
    """CSV with a head, in pieces. `backend_name` gives a backend's name as shown to the caller."""
    head: list[Any] = NAMES
    for part in _gathered(rows):
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\r\n")
        if head:
            lines.writerow(head)
            head = []
        lines.writerows(
            [_harmless(value) for value in _values(row, backend_name).values()] for row in part
        )
        yield text.getvalue().encode()


def as_json_lines(rows: Rows, backend_name: Named) -> Iterator[bytes]:
    for part in _gathered(rows):
        yield b"".join(
            _encode(dict(zip(NAMES, _values(row, backend_name).values(), strict=True))) + b"\n"
            for row in part
        )


def _values(row: LedgerRow, backend_name: Named) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in COLUMNS[1:]}
    values["backend"] = backend_name(row.backend) if row.backend else ""
    time = datetime.fromtimestamp(row.ended / 1000, UTC).isoformat(timespec="milliseconds")
    return {"time": time, **values}


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _gathered(rows: Rows) -> Iterator[list[LedgerRow]]:
    """The rows in lists; at least one, which may be empty."""
    some: list[LedgerRow] = []
    sent = False
    for row in rows:
        some.append(row)
        if len(some) >= GATHERED:
            yield some
            some, sent = [], True
    if some or not sent:
        yield some
