"""A ring of captures in a private file of SQLite: the oldest make room for new ones. A crash leaves
whole captures only, and all workers use the same file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import StoreUnavailable
from ..runtime import private_files

if TYPE_CHECKING:
    import sqlite3

WAIT = 5.0  # seconds for another process that writes
OLD = 500  # captures whose age is looked at after a write
SHARE = 16  # the part of the ring that makes room at once
_SCHEMA = """PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS capture (
    number INTEGER PRIMARY KEY, request TEXT, key TEXT, at REAL, data BLOB);
CREATE INDEX IF NOT EXISTS capture_request ON capture (request);
CREATE INDEX IF NOT EXISTS capture_key ON capture (key);"""
_FIRST = "number < (SELECT min(number) FROM capture) +"


class Row(NamedTuple):
    """A capture: the id of its request, the name of its key, when it ended, and its packed JSON."""

    request: str
    key: str
    at: float
    data: bytes


class Ring:
    """At most `size` bytes, of the last `seconds`. All methods may raise StoreUnavailable."""

    def __init__(self, file: Path, size: int, seconds: float) -> None:
        self._file, self._size, self._seconds = file, size, seconds

    def write(self, rows: Iterable[Row]) -> None:
        """Add the rows, and delete what is too old or too much."""
        before, gone = time.time() - self._seconds, 1
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_files.database(self._file)
        with self._open() as db, db:
            db.execute("BEGIN IMMEDIATE")
            add = "INSERT INTO capture (request, key, at, data) VALUES (?, ?, ?, ?)"
            db.executemany(add, rows)
            db.execute(f"DELETE FROM capture WHERE {_FIRST} {OLD} AND at < ?", (before,))
            while gone and _used(db) > self._size:
                some = f"1 + (SELECT max(number) - min(number) FROM capture) / {SHARE}"
                gone = db.execute(f"DELETE FROM capture WHERE {_FIRST} {some}").rowcount

    def find(self, most: int, /, **chosen: str) -> list[Row]:
        """At most so many captures with this `request` or `key`, the newest first."""
        query = f"SELECT request, key, at, data FROM capture {_where(chosen)}"
        with self._open() as db:
            rows = db.execute(f"{query} ORDER BY number DESC LIMIT {most:d}", [*chosen.values()])
            return [Row(*row) for row in rows]

    def delete(self, **chosen: str) -> int:
        """Delete the captures with this `request` or `key`, also from the pages of the file.
        Returns how many there were."""
        with self._open() as db:
            db.execute("PRAGMA secure_delete = ON")
            gone = db.execute(f"DELETE FROM capture {_where(chosen)}", [*chosen.values()]).rowcount
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        import sqlite3  # most gateways capture nothing

        # Without a file, nothing was captured yet.
        where = self._file if self._file.exists() else ":memory:"
        try:
            with closing(sqlite3.connect(where, WAIT, isolation_level=None)) as db:
                db.executescript(_SCHEMA)
                yield db
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the captures cannot be used: {error}") from error


def _where(chosen: Iterable[str]) -> str:
    return "WHERE " + " AND ".join(f"{name} = ?" for name in chosen)


def _used(db: sqlite3.Connection) -> int:
    """The bytes of the file that are not free."""
    names = "page_count", "freelist_count", "page_size"
    pages, free, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return int((pages - free) * size)
