"""SQLite for SQLAlchemy under gevent: each call that may touch the file runs in a native thread,
with the fetching of its rows. SQLAlchemy stays in its greenlet, since its locks are gevent's. There
are as many threads as connections, so that a writer can always continue.

Connections to a file that was moved or replaced are not used any more, and no empty file is created
in its place.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from sqlalchemy.exc import DisconnectionError

from ..runtime.blocking import NativeThreads, run_in_native_thread
from .outage import address, identity

T = TypeVar("T")

CONNECTIONS = 4
"""Of a process to one file. Writers take turns anyway, reads are short, and each connection keeps
up to 1.7 MB: its pages, the schema and prepared statements."""
PAGE_CACHE = 512 << 10
"""Bytes of pages that each connection keeps; SQLite's default is 2 MB. An upload fills it, and the
system caches the file anyway."""

_threads = NativeThreads(CONNECTIONS)


def _aside(work: Callable[[], T]) -> T:
    return run_in_native_thread(work, _threads)


def check(connection: Any, record: object, proxy: object) -> None:
    """Check a pooled connection; for the event `checkout`. Raises DisconnectionError."""
    if not _aside(connection.is_current):
        raise DisconnectionError("the file has been replaced")


class SqliteConnection(sqlite3.Connection):
    """A connection for native threads; pass it to connect() as `factory`."""

    def __init__(self, file: str, *args: Any, **options: Any) -> None:
        options["uri"] = True
        super().__init__(address(file), *args, **options)
        self._file = file
        self._identity = identity(file)

    def is_current(self) -> bool:
        return self._identity == identity(self._file)

    def cursor(self, *_: Any) -> Cursor:  # type: ignore[override]
        return super().cursor(Cursor)

    def commit(self) -> None:
        if self.in_transaction:
            _aside(super().commit)

    def rollback(self) -> None:
        if self.in_transaction:
            _aside(super().rollback)


class Cursor(sqlite3.Cursor):
    """A cursor that fetches all rows in `execute`."""

    _rows: deque[Any]

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        return self._do(lambda: sqlite3.Cursor.execute(self, sql, parameters))

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Cursor:
        return self._do(lambda: sqlite3.Cursor.executemany(self, sql, parameters))

    def fetchone(self) -> Any:
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        return [self._rows.popleft() for _ in range(min(size or 1, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, deque()
        return list(rows)

    def _do(self, work: Callable[[], object]) -> Cursor:
        def run() -> deque[Any]:
            work()
            return deque(sqlite3.Cursor.fetchall(self) if self.description else ())

        self._rows = _aside(run)
        return self
