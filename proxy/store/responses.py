"""Stored responses: a bounded number for each key, in SQLite.

Values are opaque bytes here. The oldest of a key make room for its newest, and a key sees its own
alone. A file is read and written beside the event loop, in WAL mode, so that another process which
writes holds up nobody but the request that waits for it.

A response that is still being made has a writer, which gives a sign of life again and again. Where
the writer is gone, the response is `lost`: it will never be finished.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .. import private
from ..aside import Threads, aside
from . import writers
from .outage import address, identity, reason_of, unavailable

T = TypeVar("T")

SCHEMA = """
create table if not exists response (
  owner text not null,
  id text not null,
  created real not null,
  response blob not null,
  items blob not null,
  writer text not null default '',
  touched real not null default 0,
  primary key (owner, id)
) without rowid;
create index if not exists response_created on response (owner, created);
create table if not exists cleared (owner text primary key, at real not null) without rowid;
"""
# What files of earlier versions lack.
ADDED = {"writer": "text not null default ''", "touched": "real not null default 0"}
VERSION = 1  # of a file: 1 since keys without a name are named by a digest
MAX_BYTES = 64 << 20  # of a key
BUSY = 5.0  # seconds to wait for another process that writes
LEASE = 30.0  # seconds without a sign of life after which a writer on another host is gone
_threads = Threads(4)


class Stored(NamedTuple):
    """A response, and all items it was made of. `lost`: it was being made by a process that is
    gone."""

    response: bytes
    items: bytes
    lost: bool = False


class ResponseStore:
    """`path` names a file, "" keeps all in memory; `most` responses and `most_bytes` a key. Every
    call raises StoreUnavailable where the file cannot be used just now. `renamed` are the names of
    keys that are others now: a file of an earlier version is changed to them, once."""

    def __init__(
        self,
        path: str,
        most: int,
        most_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        self._path = path
        self._most = most
        self._most_bytes = most_bytes
        self._clock = clock
        self._name = writers.new_name()
        self._open: set[tuple[str, str]] = set()  # being made by this process
        self._lock = threading.Lock()  # of the one connection to memory
        self._idle: deque[tuple[sqlite3.Connection, tuple[int, int]]] = deque()
        if path:
            private.database(Path(path))
        self._do(_prepare)
        self._do(lambda db: _rename(db, renamed or {}))

    def put(
        self, owner: str, key: str, created: float, value: Stored, begun: float | None = None
    ) -> None:
        """Keep it, or replace what is kept under this id. One too large for all is not kept, nor
        one whose making had `begun` when the owner's data were cleared."""
        self._do(lambda db: self._put(db, owner, key, created, value, begun, "", 0.0))

    def open(
        self, owner: str, key: str, created: float, value: Stored, begun: float | None = None
    ) -> None:
        """As `put`, of one that this process goes on making until `close_open`."""
        now = self._clock()
        self._open.add((owner, key))
        try:
            self._do(lambda db: self._put(db, owner, key, created, value, begun, self._name, now))
        except BaseException:
            self._open.discard((owner, key))
            raise

    def change_open(self, owner: str, key: str, response: bytes, *, over: bool) -> bool:
        """Replace one that is being made, whoever makes it; `over`: it is finished by that. False,
        and nothing done, where it is finished already, or was deleted."""
        values = "response = ?, writer = ''" if over else "response = ?"
        sql = f"update response set {values} where owner = ? and id = ? and writer != ''"
        return self._do(lambda db: db.execute(sql, (response, owner, key)).rowcount > 0)

    def close_open(self, owner: str, key: str) -> None:
        """This process makes it no longer."""
        self._open.discard((owner, key))

    def beat(self) -> list[tuple[str, str]]:
        """Give a sign of life for all that this process makes. Those (owner, id) that nobody wants
        any more: cancelled or deleted through another process."""
        mine = list(self._open)
        now = self._clock()
        sql = "update response set touched = ? where owner = ? and id = ? and writer = ?"

        def work(db: sqlite3.Connection) -> list[tuple[str, str]]:
            return [one for one in mine if not db.execute(sql, (now, *one, self._name)).rowcount]

        return [one for one in self._do(work) if one in self._open]

    def get(self, owner: str, key: str) -> Stored | None:
        sql = "select response, items, writer, touched, id from response where owner = ? and id = ?"
        row = self._do(lambda db: db.execute(sql, (owner, key)).fetchone(), write=False)
        return None if row is None else self._stored(owner, row)

    def ids(self, owner: str) -> list[str]:
        """Of all responses of this owner, oldest first."""
        sql = "select id from response where owner = ? order by created"
        rows = self._do(lambda db: db.execute(sql, (owner,)).fetchall(), write=False)
        return [row[0] for row in rows]

    def clear(self, owner: str) -> int:
        """Delete all of an owner's, also what is being made and would be kept later. How many there
        were."""
        now = self._clock()

        def work(db: sqlite3.Connection) -> int:
            db.execute("insert or replace into cleared values (?, ?)", (owner, now))
            return db.execute("delete from response where owner = ?", (owner,)).rowcount

        gone = self._do(work)
        self._do(_truncate, write=False)
        return gone

    def delete(self, owner: str, key: str) -> bool:
        """Whether there was one."""
        sql = "delete from response where owner = ? and id = ?"
        return self._do(lambda db: db.execute(sql, (owner, key)).rowcount > 0)

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[0].close()

    @property
    def shared(self) -> bool:
        """Whether other processes may use it too."""
        return bool(self._path)

    def _put(
        self,
        db: sqlite3.Connection,
        owner: str,
        key: str,
        created: float,
        value: Stored,
        begun: float | None,
        writer: str,
        touched: float,
    ) -> None:
        if len(value.response) + len(value.items) > self._most_bytes:
            return
        if begun is not None:
            # A time in the future is of a clock that was set back since.
            sql = "select 1 from cleared where owner = ? and at between ? and ?"
            if db.execute(sql, (owner, begun, self._clock())).fetchone():
                return
        db.execute(
            "insert or replace into response"
            " (owner, id, created, response, items, writer, touched) values (?, ?, ?, ?, ?, ?, ?)",
            (owner, key, created, value.response, value.items, writer, touched),
        )
        rows = db.execute(
            "select id, length(response) + length(items) from response"
            " where owner = ? order by created desc, id = ? desc",
            (owner, key),
        )
        size = 0
        for number, (one, length) in enumerate(rows.fetchall(), start=1):
            size += length
            if number > self._most or size > self._most_bytes:
                db.execute("delete from response where owner = ? and id = ?", (owner, one))

    def _stored(self, owner: str, row: tuple[Any, ...]) -> Stored:
        response, items, writer, touched, key = row
        return Stored(response, items, bool(writer) and self._is_lost(owner, key, writer, touched))

    def _is_lost(self, owner: str, key: str, writer: str, touched: float) -> bool:
        if writer == self._name:
            return (owner, key) not in self._open
        # A process of an earlier life of this container may have had the same pid.
        ours = writer.rpartition(":")[0] == self._name.rpartition(":")[0]
        return ours or writers.is_gone(writer) or touched < self._clock() - LEASE

    def _do(self, work: Callable[[sqlite3.Connection], T], *, write: bool = True) -> T:
        """In a transaction, where it is to `write`."""

        def run() -> T:
            with self._connection() as db:
                if not write:
                    return work(db)
                db.execute("begin immediate")
                try:
                    done = work(db)
                    db.execute("commit")
                except BaseException:
                    if db.in_transaction:  # SQLite ends one itself where the disk is full
                        db.execute("rollback")
                    raise
                return done

        try:
            if self._path:
                return aside(run, _threads)
            with self._lock:
                return run()
        except sqlite3.Error as error:
            raise unavailable(reason_of(error)) from error

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        now = identity(self._path) if self._path else (0, 0)
        try:
            db, file = self._idle.pop()
            if file != now:  # it was moved away, or replaced
                db.close()
                raise IndexError
        except IndexError:
            db = self._connect()
        try:
            yield db
        finally:
            self._idle.append((db, now))

    def _connect(self) -> sqlite3.Connection:
        where = address(self._path) if self._path else ":memory:"
        db = sqlite3.connect(
            where, timeout=BUSY, isolation_level=None, check_same_thread=False, uri=bool(self._path)
        )
        try:
            for pragma in ("journal_mode = wal", "synchronous = normal", "secure_delete = on"):
                db.execute(f"pragma {pragma}").fetchall()
        except BaseException:
            db.close()
            raise
        return db


def _rename(db: sqlite3.Connection, renamed: Mapping[str, str]) -> None:
    """Within a transaction: other workers may be at the same."""
    if db.execute("pragma user_version").fetchone()[0] >= VERSION:
        return
    for old, new in renamed.items():
        db.execute("update response set owner = ? where owner = ?", (new, old))
    db.execute(f"pragma user_version = {VERSION}")


def _prepare(db: sqlite3.Connection) -> None:
    """The tables. (`executescript` would commit.)"""
    for statement in filter(str.strip, SCHEMA.split(";")):
        db.execute(statement)
    there = {row[1] for row in db.execute("pragma table_info(response)")}
    for name, kind in ADDED.items():
        if name not in there:
            db.execute(f"alter table response add column {name} {kind}")


def _truncate(db: sqlite3.Connection) -> None:
    """What was deleted leaves the file of the log too."""
    db.execute("pragma wal_checkpoint(truncate)").fetchall()
