"""The database of what is kept: SQLite by default, PostgreSQL for more than one machine.

Tables are made and changed by the migrations beside this file, at boot, under a lock: several
workers may start at once.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.pool import PoolProxiedConnection, QueuePool, StaticPool

from .. import private
from ..errors import NotFound
from . import postgres, sqlite
from .outage import outage, unavailable

MIGRATIONS = Path(__file__).with_name("migrations")
BUSY = 10.0  # seconds to wait for another writer of SQLite's, or for a connection that is free
STARTING = 30.0  # seconds to wait for another process that makes the tables
_LOCK = 0x510F  # of PostgreSQL's advisory locks: any number of our own


class Database:
    """`url` is SQLAlchemy's: sqlite:///FILE, sqlite:// (in memory), postgresql://… `renamed` are
    the names of keys that are others now: what such a key owns is renamed by the one migration
    that takes this up, at the first start of a version that has it.

    Every statement raises StoreUnavailable where the database cannot be used at the moment; when it
    is back, statements work again. It raises NotFound where it adds something to what another
    request has deleted meanwhile."""

    def __init__(self, url: str, renamed: Mapping[str, str] | None = None) -> None:
        self._renamed = renamed or {}
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._file = _file(parsed)
        if self._file is not None:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            private.database(self._file)
        # Values never stand in an error's message, and so in no log.
        options: dict[str, Any] = {"hide_parameters": True}
        if parsed.get_backend_name() == "sqlite":
            options |= {"connect_args": {"timeout": BUSY, "check_same_thread": False}}
            if self._file is None:
                options["poolclass"] = StaticPool
            else:
                options["connect_args"]["factory"] = sqlite.Connection
                options |= {"pool_size": sqlite.CONNECTIONS, "max_overflow": 0}
        else:
            options["pool_pre_ping"] = True
        if "poolclass" not in options:
            options |= {"poolclass": _Pool, "pool_timeout": BUSY}
        self.engine: Engine = create_engine(parsed, **options)
        event.listen(self.engine, "handle_error", _translate)
        if parsed.get_backend_name() == "sqlite":
            event.listen(self.engine, "connect", _prepare)
            if self._file is not None:
                event.listen(self.engine, "checkout", sqlite.check)
        else:
            event.listen(self.engine, "do_connect", postgres.connect)
            event.listen(self.engine, "connect", postgres.prepare)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction: committed at the end, rolled back by an exception."""
        with self.engine.begin() as connection:
            yield connection

    def upgrade(self, revision: str = "head") -> None:
        """Bring the tables to what this version knows. Alembic, which is slow to import, is asked
        only where they are not there yet. Raises StoreUnavailable."""
        if revision == "head" and self._revision() == _newest():
            return
        logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of each of its plugins

        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self._alone(), self.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"select pg_advisory_xact_lock({_LOCK})"))
            config.attributes["connection"] = connection
            config.attributes["renamed"] = self._renamed
            command.upgrade(config, revision)

    def _revision(self) -> str:
        """What the tables are at, "" where there are none."""
        with self.engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return ""
            return str(connection.execute(text("select version_num from alembic_version")).scalar())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """SQLite's changes of tables are not under one lock: another database beside it is."""
        if self._file is None:
            yield
            return
        beside = self._file.with_name(self._file.name + ".lock")
        private.database(beside)
        with closing(sqlite3.connect(beside, timeout=STARTING, isolation_level=None)) as lock:
            try:
                lock.execute("begin exclusive")
            except sqlite3.Error as error:
                raise (outage(error) or error) from error
            yield

    def purge(self) -> None:
        """What was deleted leaves SQLite's files; whoever reads just now puts that off."""
        if self._file is not None:
            with self.engine.connect() as connection:
                connection.execute(text("pragma wal_checkpoint(truncate)")).all()

    def close(self) -> None:
        self.engine.dispose()


def _newest() -> str:
    """The last of our migrations: their files' names begin with numbers that count up."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _file(url: URL) -> Path | None:
    """SQLite's file; None where there is none."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


class _Pool(QueuePool):
    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except NoConnection as error:
            raise unavailable(f"no connection was free for {BUSY:g} seconds") from error


def _translate(context: ExceptionContext) -> None:
    """Raises the gateway's own error in place of SQLAlchemy's, if one fits."""
    error = context.original_exception
    names = (getattr(error, "sqlite_errorname", None), getattr(error, "sqlstate", None))
    if names[0] == "SQLITE_CONSTRAINT_FOREIGNKEY" or names[1] == "23503":
        # The row that this belongs to was there when the request was checked.
        raise NotFound("what this belongs to was deleted meanwhile")
    fault = None if context.is_pre_ping else outage(error)
    if fault is not None:
        raise fault


def _prepare(connection: Any, record: Any) -> None:
    """A new connection of SQLite's: readers do not wait for the writer, and rows go with what they
    belong to, without a trace."""
    pragmas = ("journal_mode = wal", "synchronous = normal", "foreign_keys = on")
    for pragma in (*pragmas, "secure_delete = on"):
        connection.execute(f"pragma {pragma}").close()
