"""A ring of captures in a private file of SQLite: the oldest make room for new ones. A crash leaves
whole captures only, and all workers use the same file.

Captures of a key are packed together, which takes a fraction of the time and the space. The number
of a capture is that of its batch with its place there."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ..errors import StoreUnavailable
from ..runtime import private_files

if TYPE_CHECKING:
    import sqlite3

WAIT = 5.0  # seconds for another process that writes
OLD = 100  # batches whose age is looked at after a write
SHARE = 16  # the part of the ring that makes room at once
LEVEL = 1  # of the compression
PLACES = 4096  # of a batch, at most
NEWEST = 1 << 62  # above all numbers
_SCHEMA = f"""PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS batch (number INTEGER PRIMARY KEY, at REAL, data BLOB);
CREATE TABLE IF NOT EXISTS packed (number INTEGER PRIMARY KEY, request TEXT, key TEXT);
CREATE INDEX IF NOT EXISTS packed_request ON packed (request);
CREATE INDEX IF NOT EXISTS packed_key ON packed (key);
CREATE TRIGGER IF NOT EXISTS gone AFTER DELETE ON batch BEGIN
    DELETE FROM packed WHERE number BETWEEN {PLACES} * old.number
        AND {PLACES} * old.number + {PLACES - 1};
END;"""
_FIRST = "number < (SELECT min(number) FROM batch) +"
Json = dict[str, Any]


class Batch(NamedTuple):
    """Captures of one key, packed: the ids of their requests, and when the last one ended."""

    key: str
    requests: Sequence[str]
    at: float
    data: bytes


def packed(captures: Sequence[Json]) -> Batch:
    """At most PLACES captures of one key in a batch."""
    last, requests = captures[-1], [capture["id"] for capture in captures]
    return Batch(last["key"], requests, last["ended"], _pack(captures))


def _pack(captures: Sequence[Json | None]) -> bytes:
    return zlib.compress(msgspec.json.encode(captures), LEVEL)


class Ring:
    """At most `size` bytes, of the last `seconds`. All methods may raise StoreUnavailable."""

    def __init__(self, file: Path, size: int, seconds: float) -> None:
        self._file, self._size, self._seconds = file, size, seconds

    def write(self, batches: Iterable[Batch]) -> None:
        """Add these, and delete what is too old or too much."""
        before, gone = time.time() - self._seconds, 1
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_files.database(self._file)
        add = "INSERT INTO packed (number, request, key) VALUES (?, ?, ?)"
        with self._open() as db, db:
            db.execute("BEGIN IMMEDIATE")
            for batch in batches:
                values = batch.at, batch.data
                row = db.execute("INSERT INTO batch (at, data) VALUES (?, ?)", values).lastrowid
                first = PLACES * (row or 0)
                requests = enumerate(batch.requests, first)
                db.executemany(add, ((number, name, batch.key) for number, name in requests))
            db.execute(f"DELETE FROM batch WHERE {_FIRST} {OLD} AND at < ?", (before,))
            while gone and _used(db) > self._size:
                oldest = f"1 + (SELECT max(number) - min(number) FROM batch) / {SHARE}"
                gone = db.execute(f"DELETE FROM batch WHERE {_FIRST} {oldest}").rowcount

    def find(self, most: int, below: int = NEWEST, /, **chosen: str) -> list[tuple[int, Json]]:
        """At most so many captures with this `request` or `key` and a number below this one, the
        newest first, with their numbers."""
        where = f"{_where(chosen)} AND number < {below:d} ORDER BY number DESC LIMIT {most:d}"
        with self._open() as db, db:
            db.execute("BEGIN")  # sees one state of both tables
            return [
                (PLACES * number + place, captures[place])
                for number, captures, places in _batches(db, where, chosen)
                for place in places
            ]

    def delete(self, **chosen: str) -> int:
        """Delete the captures with this `request` or `key`, also from the pages of the file.
        Returns how many there were."""
        where, gone = _where(chosen), 0
        with self._open() as db:
            db.execute("PRAGMA secure_delete = ON")
            with db:
                db.execute("BEGIN IMMEDIATE")
                for number, captures, places in _batches(db, f"{where} ORDER BY number", chosen):
                    gone += len(places)
                    left = [None if n in places else capture for n, capture in enumerate(captures)]
                    data = (_pack(left), number)
                    db.execute("UPDATE batch SET data = ? WHERE number = ?", data)
                    if not any(left):
                        db.execute("DELETE FROM batch WHERE number = ?", (number,))
                db.execute(f"DELETE FROM packed {where}", [*chosen.values()])
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
        except (sqlite3.Error, zlib.error) as error:
            raise StoreUnavailable(f"the captures cannot be used: {error}") from error


def _where(chosen: Iterable[str]) -> str:
    return "WHERE " + " AND ".join(f"{name} = ?" for name in chosen)


def _batches(
    db: sqlite3.Connection, where: str, chosen: dict[str, str]
) -> Iterator[tuple[int, list[Json], list[int]]]:
    """The batches with the chosen captures, and the places of these, in the order of the query."""
    rows = db.execute(f"SELECT number FROM packed {where}", [*chosen.values()]).fetchall()
    numbers = (divmod(number, PLACES) for (number,) in rows)
    for number, group in groupby(numbers, lambda pair: pair[0]):
        row = db.execute("SELECT data FROM batch WHERE number = ?", (number,)).fetchone()
        yield number, msgspec.json.decode(zlib.decompress(row[0])), [place for _, place in group]


def _used(db: sqlite3.Connection) -> int:
    names = "page_count", "freelist_count", "page_size"
    pages, free, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return int((pages - free) * size)
