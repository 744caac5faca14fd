"""Rows of the ledger as CSV, as JSON lines, and as a trace of requests. Pure.

A trace has the form of Mooncake's (https://github.com/kvcache-ai/Mooncake, FAST25 traces), which
simulators of schedulers and caches read: for each request its arrival, the lengths of prompt and
answer in tokens, and ids of the prompt's blocks. Requests of one model and one group of keys whose
prompts begin alike have the same first ids. A block is 2048 characters, about 512 tokens of
English: the gateway sees the tokens of a prompt only as a count. The ids are digests under a key
that is made for each export and thrown away, so no text can be guessed from them, and ids of two
exports cannot be compared.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import msgspec

from ...store.ledger_rows import BLOCK, LedgerRow
from .query import Range
from .shapes import TOKENS

GATHERED = 500  # rows sent together
COLUMNS = (
    "time",
    *(name for name in LedgerRow.__struct_fields__ if name not in ("ended", "blocks")),
)
NAMES = [f"{name}_tokens" if name in TOKENS else name for name in COLUMNS]
FORMULA = tuple("=+-@\t\r")  # what a spreadsheet takes for a formula if a cell begins with it
ID = 6  # bytes of a block's id in a trace: JavaScript's numbers hold 53 bits

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


def as_trace(rows: Rows, time: Range, key: bytes) -> Iterator[bytes]:
    """A trace in Mooncake's form, in the order in which requests ended; `timestamp` is milliseconds
    from the beginning of the range to the arrival. `key` is secret."""
    for part in _gathered(rows):
        yield b"".join(
            _encode(_traced(row, time, key)) + b"\n"
            for row in part
            if row.prompt and row.api not in ("embeddings", "rankings")
        )


def _traced(row: LedgerRow, time: Range, key: bytes) -> dict[str, Any]:
    arrived = row.ended - round(1000 * row.seconds) - 1000 * time.begin
    blocks = (row.blocks[at : at + BLOCK] for at in range(0, len(row.blocks), BLOCK))
    return {
        "timestamp": max(0, arrived),
        "input_length": row.prompt,
        "output_length": row.completion,
        "hash_ids": [_id(block, key) for block in blocks],
    }


def _id(block: bytes, key: bytes) -> int:
    return int.from_bytes(blake2b(block, key=key, digest_size=ID).digest())


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
