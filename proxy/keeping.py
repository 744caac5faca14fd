"""What is kept beyond a request, opened when it is first used.

SQLAlchemy and what reads documents cost half a second to import, and they are an extra: a gateway
that nobody asks for knowledge or conversations starts without them. Where something was kept
before, it is opened soon after the start all the same, since documents may wait to be read.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from . import api_keys, private
from .aside import aside
from .cancel import Cancel
from .config import Settings
from .errors import StoreUnavailable
from .lasting import Lasting, no_pause

if TYPE_CHECKING:
    from .gateway import Embedder
    from .knowledge.index import Index
    from .knowledge.ingest import Ingester
    from .knowledge.service import Knowledge
    from .knowledge.stores import VectorStores
    from .store.conversations import ConversationStore
    from .store.database import Database
    from .store.files import FileStore
    from .store.knowledge import KnowledgeStore
    from .store.quota import Quota
    from .store.sessions import SessionStore

NEEDED = ("sqlalchemy", "alembic", "apsw")  # of the extra `knowledge`
# What may be in the folder.
DATABASE, INDEX, RESPONSES = FILES = ("slotproxy.db", "index.db", "responses.sqlite")
AFTER = 3.0  # seconds from the start until what was kept is opened: first answers go first
T = TypeVar("T")


class Late:
    """Stands for a thing that is made when it is first used."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __getattr__(self, name: str) -> Any:
        return getattr(self._make(), name)


class Keeping:
    """`embedder` and `ranker` None where no backend is named for them. Each of its parts is None
    without the extra."""

    def __init__(
        self, settings: Settings, embedder: Embedder | None, ranker: Embedder | None
    ) -> None:
        self._settings = settings
        self._embedder = embedder
        self._ranker = ranker
        self._lock = threading.RLock()
        self._failed: tuple[float, StoreUnavailable | None] = 0.0, None  # when it last could not
        self._there = all(importlib.util.find_spec(name) for name in NEEDED)

    @property
    def knowledge(self) -> Knowledge | None:
        return self._late(lambda: self._knowledge)

    @property
    def conversations(self) -> ConversationStore | None:
        return self._late(lambda: self._conversations)

    @property
    def vector_stores(self) -> VectorStores | None:
        return self._late(lambda: self._vector_stores)

    @property
    def sessions(self) -> SessionStore | None:
        return self._late(lambda: self._sessions)

    def resume(self) -> None:
        """Open what was kept before, in the background."""
        for name in FILES:
            private.narrow(self._folder / name)
        if self._there and (self._settings.database or self._file.exists()):
            once = partial(Lasting("opening what was kept", no_pause).turn, self._open)
            opening = threading.Timer(AFTER, once)
            opening.daemon = True
            opening.start()

    def _open(self) -> None:
        """Where the database is away, its return is waited for."""
        while True:
            try:
                with self._lock:
                    _ = self._database, self._knowledge
                from .knowledge.mending import mend  # what it imports came with the database

                mend(self._rows, self._index)
                return
            except StoreUnavailable:
                time.sleep(AFTER)

    def _late(self, make: Callable[[], T]) -> T | None:
        if not self._there:
            return None

        def locked() -> T:
            came = time.monotonic()
            with self._lock:
                failed, fault = self._failed
                if fault is not None and failed >= came:
                    raise fault  # it was tried while this one waited for its turn
                try:
                    _ = self._database  # first: what is imported for the others comes with it
                    return make()
                except StoreUnavailable as error:
                    self._failed = time.monotonic(), error
                    raise

        return cast(T, Late(locked))

    # each of these is made once, under the lock

    @property
    def _folder(self) -> Path:
        return folder_of(self._settings)

    @property
    def _file(self) -> Path:
        return self._folder / DATABASE

    @cached_property
    def _database(self) -> Database:
        def opened() -> Database:
            import apsw  # noqa: F401

            from .knowledge import ingest, stores  # noqa: F401
            from .knowledge.index import sqlite  # noqa: F401
            from .store import conversations  # noqa: F401
            from .store.database import Database
            from .store.outage import outage

            try:
                private.folder(self._folder, FILES)
                database = Database(
                    self._settings.database or f"sqlite:///{self._file}",
                    api_keys.renamed(self._settings.keys),
                )
            except OSError as error:
                raise (outage(error) or error) from error
            try:
                database.upgrade()
            except BaseException:
                database.close()
                raise
            return database

        database = aside(opened)  # to import all of it takes half a second
        atexit.register(database.close)
        return database

    @cached_property
    def _rows(self) -> KnowledgeStore:
        from .store.knowledge import KnowledgeStore

        return KnowledgeStore(self._database, self._quota)

    @cached_property
    def _index(self) -> Index:
        from .knowledge.index import Index, open_shelf

        file = self._folder / INDEX
        if not self._settings.database.startswith("postgresql"):
            private.folder(self._folder, FILES)
            private.database(file)
        shelf = open_shelf(self._database.engine, file)
        index = Index(shelf, self._embed if self._embedder else None)
        atexit.register(index.close)
        return index

    @cached_property
    def _ingester(self) -> Ingester:
        from .knowledge.ingest import Ingester
        from .knowledge.reading import Limits

        limits = Limits(self._settings.reading_timeout, self._settings.reading_memory)
        ingester = Ingester(self._rows, self._index, limits)
        ingester.start()
        atexit.register(ingester.close)
        return ingester

    @cached_property
    def _knowledge(self) -> Knowledge:
        from .knowledge.service import Knowledge

        rank = self._rank if self._ranker else None
        most = self._settings.max_document
        return Knowledge(self._rows, self._index, self._ingester, most, rank)

    @cached_property
    def _conversations(self) -> ConversationStore:
        from .store.conversations import ConversationStore

        store = ConversationStore(self._database, quota=self._quota)
        if self._settings.workers == 1 and not self._settings.database:
            store.interrupted()  # nobody else can be writing them
        return store

    @cached_property
    def _sessions(self) -> SessionStore:
        from .store.sessions import SessionStore

        return SessionStore(self._database.engine)

    @cached_property
    def _vector_stores(self) -> VectorStores:
        from .knowledge.stores import VectorStores

        return VectorStores(self._knowledge, self._files)

    @cached_property
    def _files(self) -> FileStore:
        from .store.files import FileStore

        return FileStore(self._database.engine, self._quota)

    @property
    def _quota(self) -> Quota:
        from .store.quota import Quota

        settings = self._settings
        return Quota(settings.quota_files, settings.quota_documents, settings.quota_bytes)

    def _embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        assert self._embedder is not None, "it is asked for only where there is one"
        _, found = self._embedder.embed(model, list(texts), Cancel())
        return [list(vector) for vector in found.vectors]

    def _rank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        assert self._ranker is not None, "it is asked for only where there is one"
        _, found = self._ranker.rerank("", query, texts, Cancel())
        return found.scores


def folder_of(settings: Settings) -> Path:
    """Where files of ours are kept."""
    return Path(settings.data) if settings.data else data_folder()


def data_folder() -> Path:
    """The user's own, by the custom of the system."""
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Application Support"
    else:
        home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "slotproxy"
