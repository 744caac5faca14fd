"""Uploaded files, stored in rows of at most PIECE bytes, so that no file is in memory whole.

They are in the database, so that there is one place for all data, and are deleted together with the
row that owns them. A table of pieces has three columns: the owning row's id, `number` (from 0) and
`data`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from sqlalchemy import Connection, Table, insert, literal, select

from .database import Database

PIECE = 256 << 10  # bytes


def put(db: Connection, table: Table, key: str, data: IO[bytes]) -> None:
    """Store the rest of `data`."""
    (whose,) = table.foreign_keys
    number = 0
    while piece := data.read(PIECE):
        row = {whose.parent.name: key, "number": number, "data": piece}
        db.execute(insert(table).values(row))
        number += 1


def copy(db: Connection, table: Table, key: str, source: Table, source_key: str) -> None:
    """Copy the bytes to another owner within the database."""
    (whose,), (theirs,) = table.foreign_keys, source.foreign_keys
    same = select(literal(key), source.c.number, source.c.data).where(theirs.parent == source_key)
    db.execute(insert(table).from_select([whose.parent.name, "number", "data"], same))


def read(database: Database, table: Table, key: str) -> Iterator[bytes]:
    """Yield the pieces in order, each in a transaction of its own, since the consumer may be slow.
    Ends early if the file is deleted meanwhile. The first piece is read immediately, before an
    answer starts, and may raise StoreUnavailable."""
    first = _piece(database, table, key, 0)

    def rest() -> Iterator[bytes]:
        piece, number = first, 0
        while piece is not None:
            yield piece
            number += 1
            piece = _piece(database, table, key, number)

    return rest()


def _piece(database: Database, table: Table, key: str, number: int) -> bytes | None:
    (whose,) = table.foreign_keys
    wanted = select(table.c.data).where(whose.parent == key, table.c.number == number)
    row = database.first(wanted)
    return None if row is None else row.data
