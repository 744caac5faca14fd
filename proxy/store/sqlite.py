"""SQLite for SQLAlchemy, beside gevent's loop: each call that may touch the file is `aside`, with
the rows it gives, and SQLAlchemy itself, whose locks are gevent's, stays where it is.

As many threads as there are connections: whoever has begun to write is never without a thread to
go on with, though all the others wait for it in theirs.

A file that was moved away or replaced is not written through a connection to the old one, and no
empty one is made in its place.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from sqlalchemy.exc import DisconnectionError

from ..aside import Threads, aside
from .outage import address, identity

T = TypeVar("T")

CONNECTIONS = 8
_threads = Threads(CONNECTIONS)


def _aside(work: Callable[[], T]) -> T:
    return aside(work, _threads)


def check(connection: Any, record: object, proxy: object) -> None:
    """Before a connection is used again, as SQLAlchemy's event `checkout`. Raises
    DisconnectionError: it opens another one then."""
    if not _aside(connection.is_current):
        raise DisconnectionError("the file is another one now")


class Connection(sqlite3.Connection):
    """To be connected with as `factory`."""

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
    """Its rows are here when `execute` returns."""

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
