"""Files as they were uploaded, in rows of at most PIECE bytes: neither we nor a database ever hold
one whole, one database has all there is, and pieces go with the row that they belong to.

A table of pieces has three columns: whose they are, `number` (from 0) and `data`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from sqlalchemy import Connection, Engine, Table, insert, literal, select

PIECE = 256 << 10  # bytes


def put(db: Connection, table: Table, key: str, data: IO[bytes]) -> None:
    """Keep all that is left to read of `data`."""
    (whose,) = table.foreign_keys
    number = 0
    while piece := data.read(PIECE):
        row = {whose.parent.name: key, "number": number, "data": piece}
        db.execute(insert(table).values(row))
        number += 1


def copy(db: Connection, table: Table, key: str, source: Table, source_key: str) -> None:
    """The same bytes for another, without reading them here."""
    (whose,), (theirs,) = table.foreign_keys, source.foreign_keys
    same = select(literal(key), source.c.number, source.c.data).where(theirs.parent == source_key)
    db.execute(insert(table).from_select([whose.parent.name, "number", "data"], same))


def read(engine: Engine, table: Table, key: str) -> Iterator[bytes]:
    """The pieces in their order, each in a transaction of its own: whoever takes them may be slow.
    They end early where the file is deleted meanwhile. The first is read at once, before anything
    is answered: this raises StoreUnavailable."""
    first = _piece(engine, table, key, 0)

    def rest() -> Iterator[bytes]:
        piece, number = first, 0
        while piece is not None:
            yield piece
            number += 1
            piece = _piece(engine, table, key, number)

    return rest()


def _piece(engine: Engine, table: Table, key: str, number: int) -> bytes | None:
    (whose,) = table.foreign_keys
    wanted = select(table.c.data).where(whose.parent == key, table.c.number == number)
    with engine.connect() as db:
        found: bytes | None = db.execute(wanted).scalar()
    return found
