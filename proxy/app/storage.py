"""Persistent services, opened when they are first used.

One database holds knowledge, files, conversations, sessions and stored responses. Stored responses
are in memory if neither a database nor a data folder nor shared state is configured, and in a
database of their own with --response-store.

Importing SQLAlchemy and the document readers takes half a second, and they are an extra: a gateway
that is not asked for knowledge or conversations starts without them. If data exists from an earlier
run, they are opened soon after the start nevertheless, because documents may wait to be read.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..config import Settings, SettingsError
from ..config import keys as key_rules
from ..errors import StoreUnavailable
from ..gateway import Embedder
from ..runtime import private_files
from ..runtime.blocking import run_in_native_thread
from ..runtime.cancel import Cancel
from ..runtime.lasting import Lasting, no_pause
from ..store.responses import MemoryResponses, ResponseStore
from ..store.retry import retry_while_unavailable

if TYPE_CHECKING:
    from sqlalchemy import URL

    from ..knowledge.index import Index
    from ..knowledge.ingest import Ingester
    from ..knowledge.service import Knowledge
    from ..knowledge.stores import VectorStores
    from ..store.conversations import ConversationStore
    from ..store.database import Database
    from ..store.database_responses import DatabaseResponses
    from ..store.file_store import FileStore
    from ..store.knowledge import KnowledgeStore
    from ..store.quota import Quota
    from ..store.sessions import SessionStore

NEEDED = ("sqlalchemy", "alembic")  # from the extras `knowledge` and `redis`
NEEDED_FOR_KNOWLEDGE = (*NEEDED, "apsw")
# The files in the data folder.
DATABASE, INDEX, RESPONSES = FILES = ("slotproxy.db", "index.db", "responses.sqlite")
AFTER = 3.0  # seconds from the start until existing data is opened: first answers have priority
T = TypeVar("T")


class LazyProxy:
    """A proxy for an object that is created when it is first used."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __getattr__(self, name: str) -> Any:
        return getattr(self._make(), name)


class LazyServices:
    """The services. `embedder` and `ranker` are None if no backend is configured for them. Each
    service but `responses` is None without the extra."""

    def __init__(
        self, settings: Settings, embedder: Embedder | None, ranker: Embedder | None
    ) -> None:
        self._settings = settings
        self._embedder = embedder
        self._ranker = ranker
        self._lock = threading.RLock()
        self._failed: tuple[float, StoreUnavailable | None] = 0.0, None  # when opening last failed
        self._there = _are_installed(NEEDED_FOR_KNOWLEDGE)
        self._closed = threading.Event()
        self._opened = ExitStack()  # closes what was opened, in reverse order

    @property
    def knowledge(self) -> Knowledge | None:
        return self._lazy(lambda: self._knowledge) if self._there else None

    @property
    def conversations(self) -> ConversationStore | None:
        return self._lazy(lambda: self._conversations) if self._there else None

    @property
    def vector_stores(self) -> VectorStores | None:
        return self._lazy(lambda: self._vector_stores) if self._there else None

    @property
    def sessions(self) -> SessionStore | None:
        return self._lazy(lambda: self._sessions) if self._there else None

    def responses(self) -> ResponseStore:
        """Raises SettingsError if the settings need a database that cannot be opened."""
        settings, there = self._settings, _are_installed(NEEDED)
        if settings.response_store:
            if not there:
                raise SettingsError("--response-store requires pip install slotproxy[knowledge]")
            return self._responses_in(Path(settings.response_store))
        if settings.state and not there:  # any worker may be asked for any response
            raise SettingsError("--state requires pip install slotproxy[redis]")
        if there and (settings.database or settings.data or settings.state):
            return self._lazy(lambda: self._responses)
        return MemoryResponses(settings.stored_responses)

    def resume(self) -> None:
        """Open existing data, in the background."""
        for name in FILES:
            private_files.narrow(self._folder / name)
        if self._there and (self._settings.database or self._file.exists()):
            once = partial(Lasting("opening the data store", no_pause).turn, self._open)
            opening = threading.Timer(AFTER, once)
            opening.daemon = True
            self._opened.callback(opening.cancel)
            opening.start()

    def close(self) -> None:
        self._closed.set()
        self._opened.close()

    def _open(self) -> None:
        """Retries while a database is unavailable."""

        def open_and_mend() -> None:
            if self._closed.is_set():
                return
            with self._lock:
                _ = self._database, self._knowledge
            from ..knowledge.reindex import (
                reindex_missing,  # imported with the database
            )

            reindex_missing(self._rows, self._index)

        retry_while_unavailable(
            open_and_mend, patience=math.inf, pause=AFTER, sleep=self._closed.wait
        )

    def _lazy(self, make: Callable[[], T]) -> T:
        def locked() -> T:
            called = time.monotonic()
            with self._lock:
                failed, fault = self._failed
                if fault is not None and failed >= called:
                    raise fault  # opening failed while this call waited for the lock
                try:
                    _ = self._database  # first, because it imports modules for the others
                    return make()
                except StoreUnavailable as error:
                    self._failed = time.monotonic(), error
                    raise

        return cast(T, LazyProxy(locked))

    # each of these is created once, under the lock

    @property
    def _folder(self) -> Path:
        """Where files of ours are kept."""
        return Path(self._settings.data) if self._settings.data else data_folder()

    @property
    def _file(self) -> Path:
        return self._folder / DATABASE

    @cached_property
    def _database(self) -> Database:
        def opened() -> Database:
            if self._there:
                import apsw  # noqa: F401

                from ..knowledge import ingest, stores  # noqa: F401
                from ..knowledge.index import sqlite  # noqa: F401
                from ..store import conversations  # noqa: F401
            from ..store import former_responses  # noqa: F401
            from ..store.outage import outage

            try:
                private_files.folder(self._folder, FILES)
                return self._upgraded(self._settings.database or f"sqlite:///{self._file}")
            except OSError as error:
                raise (outage(error) or error) from error

        return self._opening(opened)

    def _opening(self, opened: Callable[[], Database]) -> Database:
        database = run_in_native_thread(opened)  # its imports take half a second
        self._opened.callback(database.close)
        return database

    def _upgraded(self, url: str | URL) -> Database:
        from ..store.database import Database

        database = Database(url, self._renamed)
        try:
            database.upgrade()
        except BaseException:
            database.close()
            raise
        return database

    @property
    def _renamed(self) -> Mapping[str, str]:
        return key_rules.renamed(self._settings.keys)

    @cached_property
    def _responses(self) -> DatabaseResponses:
        from ..store.database_responses import DatabaseResponses
        from ..store.former_responses import move_from_file

        move_from_file(self._folder / RESPONSES, self._database, self._renamed)
        return DatabaseResponses(self._database, self._settings.stored_responses)

    def _responses_in(self, file: Path) -> DatabaseResponses:
        """Opened at once: a file that cannot be used is a wrong setting. Raises SettingsError."""

        def opened() -> Database:
            from sqlalchemy import URL

            from ..store import database_responses, former_responses  # noqa: F401

            return self._upgraded(URL.create("sqlite", database=str(file)))

        if not file.parent.is_dir():
            raise SettingsError(f"--response-store: no such directory: {file.parent}")
        try:
            database = self._opening(opened)
            from ..store.database_responses import DatabaseResponses
            from ..store.former_responses import move_within

            move_within(file, database, self._renamed)
        except StoreUnavailable as fault:
            raise SettingsError(f"--response-store: {file}: {fault.detail}") from None
        return DatabaseResponses(database, self._settings.stored_responses)

    @cached_property
    def _rows(self) -> KnowledgeStore:
        from ..store.knowledge import KnowledgeStore

        return KnowledgeStore(self._database, self._quota)

    @cached_property
    def _index(self) -> Index:
        from ..knowledge.index import Index, open_shelf

        file = self._folder / INDEX
        if not self._settings.database.startswith("postgresql"):
            private_files.folder(self._folder, FILES)
            private_files.database(file)
        shelf = open_shelf(self._database.engine, file)
        index = Index(shelf, self._embed if self._embedder else None)
        self._opened.callback(index.close)
        return index

    @cached_property
    def _ingester(self) -> Ingester:
        from ..knowledge.ingest import Ingester
        from ..knowledge.reading import ReadingLimits

        limits = ReadingLimits(self._settings.reading_timeout, self._settings.reading_memory)
        ingester = Ingester(self._rows, self._index, limits)
        ingester.start()
        self._opened.callback(ingester.close)
        return ingester

    @cached_property
    def _knowledge(self) -> Knowledge:
        from ..knowledge.service import Knowledge

        rank = self._rank if self._ranker else None
        most = self._settings.max_document
        return Knowledge(self._rows, self._index, self._ingester, most, rank)

    @cached_property
    def _conversations(self) -> ConversationStore:
        from ..store.conversations import ConversationStore

        store = ConversationStore(self._database, quota=self._quota)
        if self._settings.workers == 1 and not self._settings.database:
            store.interrupted()  # no other worker can be writing them
        return store

    @cached_property
    def _sessions(self) -> SessionStore:
        from ..store.sessions import SessionStore

        return SessionStore(self._database)

    @cached_property
    def _vector_stores(self) -> VectorStores:
        from ..knowledge.stores import VectorStores

        return VectorStores(self._knowledge, self._files)

    @cached_property
    def _files(self) -> FileStore:
        from ..store.file_store import FileStore

        return FileStore(self._database, self._quota)

    @property
    def _quota(self) -> Quota:
        from ..store.quota import Quota

        settings = self._settings
        return Quota(settings.quota_files, settings.quota_documents, settings.quota_bytes)

    def _embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        assert self._embedder is not None, "it is asked for only where there is one"
        _, embedded = self._embedder.embed(model, list(texts), Cancel())
        return [list(vector) for vector in embedded.vectors]

    def _rank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        assert self._ranker is not None, "it is asked for only where there is one"
        _, ranked = self._ranker.rerank("", query, texts, Cancel())
        return ranked.scores


def _are_installed(modules: Sequence[str]) -> bool:
    return all(importlib.util.find_spec(name) for name in modules)


def data_folder() -> Path:
    """The user's data folder, by the convention of the system."""
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Application Support"
    else:
        home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "slotproxy"
