"""The database: SQLite by default, PostgreSQL for several machines. A new one gets the current
tables at start; migrations change older ones. Both run under a lock.

Under gevent, each call of SQLite that may touch the file runs in a native thread, with the fetching
of its rows. SQLAlchemy stays in its greenlet, since its locks are gevent's. There are as many
threads as connections, so that a writer can always continue. Connections to a file that was moved
or replaced are not used any more, and no empty file is created in its place.
"""

from __future__ import annotations

import hashlib
import logging
import math
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    Executable,
    Row,
    Select,
    Table,
    create_engine,
    event,
    inspect,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.pool import PoolProxiedConnection, QueuePool, StaticPool

from ..errors import NotFound
from ..runtime import private_files
from ..runtime.blocking import NativeThreads, run_in_native_thread
from .outage import address, identity, outage, unavailable
from .records import is_gone
from .revisions import BASE, NEWEST, STEPS, UPGRADE_FIRST
from .tables import REVISION, create_all

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


S = TypeVar("S", bound=Struct)

BUSY = 10.0  # seconds to wait for another SQLite writer, or for a free connection
STARTING = 30.0  # seconds to wait for another process that creates the tables
_LOCK = 0x510F  # PostgreSQL advisory lock; an arbitrary number
CONNECTING = 5  # seconds
# Parameters of a connection to PostgreSQL unless its address sets them. A stopped machine or a cut
# network does not close connections: the last four let the system find out within ten seconds.
DEFAULTS = {
    "connect_timeout": CONNECTING,
    "keepalives_idle": 5,  # seconds
    "keepalives_interval": 2,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}


class Database:
    """`url` is SQLAlchemy's. A statement raises StoreUnavailable while the database cannot be used,
    and NotFound if it adds to a row that another request has deleted."""

    def __init__(self, url: str | URL) -> None:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._file = _file(parsed)
        if self._file is not None:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            private_files.database(self._file)
        # Values must not appear in error messages, nor therefore in logs.
        options: dict[str, Any] = {"hide_parameters": True}
        pooled = {"poolclass": _Pool, "pool_timeout": BUSY}
        if parsed.get_backend_name() != "sqlite":
            arguments: dict[str, Any] = {k: v for k, v in DEFAULTS.items() if k not in parsed.query}
            options |= {**pooled, "pool_pre_ping": True, "connect_args": arguments}
        else:
            arguments = {"timeout": BUSY, "check_same_thread": False}
            options |= {"poolclass": StaticPool, "connect_args": arguments}
            if self._file is not None:
                arguments["factory"] = SqliteConnection
                # The newest connection first, so that no more are opened than work at a time.
                bounds = {"pool_size": CONNECTIONS, "max_overflow": 0, "pool_use_lifo": True}
                options |= {**pooled, **bounds}
        self.engine: Engine = create_engine(parsed, **options)
        # When a statement last failed because the database was unavailable.
        self._failed = -math.inf
        event.listen(self.engine, "handle_error", self._translate)
        if parsed.get_backend_name() == "sqlite":
            event.listen(self.engine, "connect", _prepare)
            if self._file is not None:
                event.listen(self.engine, "checkout", check)
        else:
            event.listen(self.engine, "connect", _adapt)

    def begin(self) -> AbstractContextManager[Connection]:
        """Begin a transaction, which is committed at the end, or rolled back after an exception."""
        return self.engine.begin()

    @contextmanager
    def begin_for(self, owner: str) -> Iterator[Connection]:
        """Begin a transaction that no other of this owner runs beside: what it reads stays true."""
        with self.begin() as connection:
            if connection.dialect.name == "postgresql":
                digest = hashlib.sha256(owner.encode()).digest()
                keys = {"lock": _LOCK, "owner": int.from_bytes(digest[:4], signed=True)}
                connection.execute(text("select pg_advisory_xact_lock(:lock, :owner)"), keys)
            elif self._file is not None:
                # SQLite's transaction would begin at the first change, behind what was read.
                connection.exec_driver_sql("begin immediate")
            yield connection

    def rows(self, query: Executable) -> Sequence[Row[Any]]:
        with self.begin() as db:
            return db.execute(query).all()

    def in_parts(
        self, query: Select[Any], number: ColumnElement[int], at_once: int
    ) -> Iterator[Row[Any]]:
        """The rows by the column `number`, from 0 on; so many are read at a time."""
        last, query = -1, query.order_by(number).limit(at_once)
        while rows := self.rows(query.where(number > last)):
            yield from rows
            last = rows[-1]._mapping[number]

    def first(self, query: Executable) -> Row[Any] | None:
        with self.begin() as db:
            return db.execute(query).first()

    def records(self, kind: type[S], query: Executable) -> list[S]:
        return [record(kind, row) for row in self.rows(query)]

    def one(self, kind: type[S], query: Executable) -> S | None:
        row = self.first(query)
        return None if row is None else record(kind, row)

    def change(self, statement: Executable) -> int:
        """Execute a statement in a transaction of its own; return how many rows it changed."""
        with self.begin() as db:
            return db.execute(statement).rowcount

    def upgrade(self) -> None:
        """Create the tables, or upgrade those of an older revision, which one process does."""
        if self.revision() == NEWEST:
            return
        with self._lock(), self.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"select pg_advisory_xact_lock({_LOCK})"))
            revision = _revision(connection)  # another process may have done it meanwhile
            if not revision:
                create_all(connection, NEWEST)
                return
            if revision > NEWEST:
                raise unavailable(
                    f"its tables are of revision {revision}, and this slotproxy knows those up"
                    f" to {NEWEST}: install the slotproxy that made them, or restore a backup"
                )
            if revision < BASE:
                raise unavailable(f"its tables are of revision {revision}: {UPGRADE_FIRST}")
            for step in sorted(STEPS):
                for statement in STEPS[step] if step > revision else ():
                    if not _is_done(connection, statement):
                        connection.execute(text(statement))
            connection.execute(update(REVISION).values(version_num=NEWEST))

    def revision(self) -> str:
        """Return the revision of the tables; "" if there are none."""
        with self.engine.connect() as connection:
            return _revision(connection)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold SQLite's lock for work at start, which is a file of its own."""
        if self._file is None:
            yield
            return
        beside = self._file.with_name(self._file.name + ".lock")
        private_files.database(beside)
        with closing(sqlite3.connect(beside, timeout=STARTING, isolation_level=None)) as lock:
            try:
                lock.execute("begin exclusive")
            except sqlite3.Error as error:
                raise (outage(error) or error) from error
            yield

    def is_silent(self, row: Row[Any], now: float, lease: float) -> bool:
        """Whether it was not `touched` for `lease` seconds in which the database could be used."""
        return row.touched < now - lease and time.monotonic() - self._failed > lease

    def has_lost_writer(self, row: Row[Any], name: str, now: float, lease: float) -> bool:
        """Whether the writer of this row, not `name`, has ended here, or `is_silent`."""
        # A process of an earlier life of this container may have had the same pid.
        ours = row.writer.rpartition(":")[0] == name.rpartition(":")[0]
        return ours or is_gone(row.writer) or self.is_silent(row, now, lease)

    def _translate(self, context: ExceptionContext) -> None:
        """Raise the gateway's own error instead of SQLAlchemy's, if one fits."""
        error = context.original_exception
        names = (getattr(error, "sqlite_errorname", None), getattr(error, "sqlstate", None))
        if names[0] == "SQLITE_CONSTRAINT_FOREIGNKEY" or names[1] == "23503":
            # The parent row existed when the request was checked.
            raise NotFound("the parent object was deleted in the meantime")
        fault = None if context.is_pre_ping else outage(error)
        if fault is not None:
            self._failed = time.monotonic()
            raise fault

    def purge(self) -> None:
        """Remove deleted data from SQLite's files; postponed while there are readers."""
        if self._file is not None:
            with self.engine.connect() as connection:
                connection.execute(text("pragma wal_checkpoint(truncate)")).all()

    def close(self) -> None:
        self.engine.dispose()


def owned(table: Table, owner: str, key: str) -> ColumnElement[bool]:
    """The condition of the row with this id, if it belongs to the owner."""
    return (table.c.owner == owner) & (table.c.id == key)


def containing(text: str, *columns: ColumnElement[Any]) -> list[ColumnElement[bool]]:
    """The condition that one of the columns contains the text in any case; none if it is ""."""
    conditions = (column.icontains(text, autoescape=True) for column in columns)
    return [or_(*conditions)] if text else []


def record(kind: type[S], row: Row[Any], **values: Any) -> S:
    """Make a record of a row. Its fields have the names of columns, unless they are in `values`."""
    names = [name for name in kind.__struct_fields__ if name not in values]
    return kind(**{name: row._mapping[name] for name in names}, **values)


def insert_into(table: Table, db: Connection | Engine) -> Any:
    """An insert that knows `on_conflict_do_update`, which each dialect has for itself."""
    # Imported by name: the other dialect costs as much as all the rest.
    return import_module(f"sqlalchemy.dialects.{db.dialect.name}").insert(table)


def _is_done(connection: Connection, statement: str) -> bool:
    """Whether it adds a column that exists, or drops none: SQLite has no "if exists" for that."""
    words = statement.split()
    if words[4:5] != ["column"]:
        return False
    names = {column["name"] for column in inspect(connection).get_columns(words[2])}
    return (words[5] in names) == (words[3] == "add")


def _revision(connection: Connection) -> str:
    """Return the revision; "" if there are no tables, or if their creation was interrupted."""
    if not inspect(connection).has_table(REVISION.name):
        return ""
    return connection.execute(select(REVISION)).scalar() or ""


def _file(url: URL) -> Path | None:
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


class _Pool(QueuePool):
    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except NoConnection as error:
            raise unavailable(
                f"no database connection became free within {BUSY:g} seconds"
            ) from error


logging.getLogger(f"{__name__}._Pool").setLevel(logging.WARNING)  # it logs that it was closed


def _prepare(connection: Any, record: Any) -> None:
    """Configure a SQLite connection: readers do not wait, and deleted data is overwritten."""
    pragmas = ("journal_mode = wal", "synchronous = normal", "foreign_keys = on")
    cache = f"cache_size = -{PAGE_CACHE >> 10}"  # in KiB, if negative
    for pragma in (*pragmas, "secure_delete = on", cache):
        connection.execute(f"pragma {pragma}").close()


def _adapt(connection: Any, record: Any) -> None:
    """Configure a psycopg connection: PostgreSQL's texts have no NUL, which becomes U+FFFD."""
    for dumper in _dumpers():
        connection.adapters.register_dumper(str, dumper)


@cache
def _dumpers() -> tuple[type[Any], ...]:
    """The dumpers for str; the last is the default, as in psycopg."""
    from psycopg.types import string  # deferred: needed only with PostgreSQL

    class WithoutNul:
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd"))  # type: ignore[misc]

    bases = string.StrBinaryDumper, string.StrDumperUnknown
    return tuple(type(base.__name__, (WithoutNul, base), {}) for base in bases)
