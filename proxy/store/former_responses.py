"""Moves stored responses from the SQLite files of earlier versions into the database.

Before migration 0008 they had a file of their own: `responses.sqlite` in the data folder. Its
tables were

    response (owner, id, created, response, items, writer, touched), primary key (owner, id)
    cleared (owner, at)

where the first files had neither `writer` nor `touched`, and `pragma user_version` was 0 as long as
keys without a name were named by their place.

One worker at a time looks at the file: SQLite does not allow that one deletes it while another
opens it. The database has the rows before the file goes, so nothing is lost if the process ends in
between: the next start moves the rest.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import cast

from sqlalchemy import Connection

from .database import STARTING, Database, insert_into
from .outage import reason_of, unavailable
from .sqlite import SqliteConnection
from .tables import RESPONSE

NAMED = 1  # user_version of a file in which keys without a name have names
BEGIN = "begin immediate"
log = logging.getLogger("slotproxy.store")


def move_from_file(file: Path, database: Database, renamed: Mapping[str, str]) -> None:
    """Into the database what is in a file beside it, which goes then. `renamed` are the names of
    keys that are others now. Raises StoreUnavailable; nothing is lost by that."""
    if not file.exists():
        return
    with database.alone() as db, _opened(file) as old:
        count = _move(old, db, renamed) if old is not None else 0
    with database.alone(), _opened(file) as old:
        if old is None:
            return
        _drop(old)
        old.close()
        with suppress(OSError):  # Windows keeps a file that somebody else has open: it is empty
            file.unlink()
    log.info("moved %d stored responses from %s into the database", count, file)


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection | None]:
    """Open the file if it still has responses."""
    if not file.exists():
        yield None
        return
    with _errors_of(file), closing(_connected(file)) as old:
        yield old if _are_there(old) else None


@contextmanager
def _errors_of(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise unavailable(f"{file}: {reason_of(error)}") from error


def _connected(file: Path) -> sqlite3.Connection:
    options = {"timeout": STARTING, "isolation_level": None, "check_same_thread": False}
    old = SqliteConnection(str(file), **options)
    old.execute("pragma secure_delete = on")
    return old


def _driver(db: Connection) -> sqlite3.Connection:
    return cast(sqlite3.Connection, db.connection.driver_connection)


def _are_there(old: sqlite3.Connection) -> bool:
    sql = "select 1 from sqlite_master where type = 'table' and name = 'response'"
    return old.execute(sql).fetchone() is not None


def _move(old: sqlite3.Connection, db: Connection, renamed: Mapping[str, str]) -> int:
    """Each row by itself, as a key may have many megabytes. How many there were."""
    (version,) = old.execute("pragma user_version").fetchone()
    names = renamed if version < NAMED else {}
    there = {row[1] for row in old.execute("pragma table_info(response)").fetchall()}
    signs = "writer, touched" if "writer" in there else "'', 0.0"
    row_of = f"select created, response, items, {signs} from response where owner = ? and id = ?"
    moved = insert_into(RESPONSE, db).on_conflict_do_nothing()
    keys = old.execute("select owner, id from response").fetchall()
    for owner, key in keys:
        created, response, items, writer, touched = old.execute(row_of, (owner, key)).fetchone()
        row = {"id": key, "owner": names.get(owner, owner), "created": created}
        row["size"] = len(response) + len(items)
        row |= {"response": response, "input_items": items, "writer": writer, "touched": touched}
        db.execute(moved.values(row))
    return len(keys)


def _drop(old: sqlite3.Connection) -> None:
    old.execute("drop table response")
    old.execute("drop table if exists cleared")
