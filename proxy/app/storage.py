"""Persistent services, opened when they are first used: importing their libraries takes half a
second, and they are an extra. Existing data are opened soon after the start, because documents may
wait to be read.
"""

from __future__ import annotations

import gc
import importlib.util
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, cast

from ..accounts.records import Team, User
from ..config import Settings, SettingsError, fixed
from ..config.data_folder import DATABASE, FILES, folder_of, is_writable
from ..errors import StoreUnavailable
from ..gateway import Embedder
from ..runtime import private_files
from ..runtime.blocking import run_in_native_thread
from ..runtime.installation import install
from ..store.outage import retry_while_unavailable
from ..store.responses import MemoryResponses

if TYPE_CHECKING:  # these import SQLAlchemy
    from ..knowledge.service import Knowledge
    from ..knowledge.stores import VectorStores
    from ..store.api_keys import ApiKeys, Groups
    from ..store.conversations import ConversationStore
    from ..store.database_responses import ResponseStore
    from ..store.ledger import Ledger
    from ..store.measured_memory import MeasuredMemory
    from ..store.request_batches import RequestBatches
    from ..store.sessions import SessionStore
    from .stores import Stores

NEEDED = ("sqlalchemy",)  # from the extras `knowledge` and `redis`
NEEDED_FOR_KNOWLEDGE = (*NEEDED, "apsw")
AFTER = 3.0  # seconds from the start until existing data are opened


class LazyProxy:
    """A proxy for an object that is created when it is first used."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __getattr__(self, name: str) -> Any:
        return getattr(self._make(), name)


class LazyServices:
    """The parts of `Stores`, each None without the extra that it needs."""

    def __init__(
        self, settings: Settings, embedder: Embedder | None, ranker: Embedder | None
    ) -> None:
        self._settings, self._embedder, self._ranker = settings, embedder, ranker
        self._folder = folder_of(settings)
        self._lock = threading.RLock()
        self._failed: tuple[float, StoreUnavailable | None] = 0.0, None  # when opening last failed
        self._closed = threading.Event()
        self._opened = ExitStack()  # closes what was opened, in reverse order
        self._has_knowledge = are_installed(NEEDED_FOR_KNOWLEDGE)
        has_database = are_installed(NEEDED)

        def part(name: str, there: object = self._has_knowledge) -> Any:
            return LazyProxy(partial(self._part, name)) if there else None

        self.knowledge: Knowledge | None = part("knowledge")
        self.conversations: ConversationStore | None = part("conversations")
        self.vector_stores: VectorStores | None = part("vector_stores")
        self.batches: RequestBatches | None = part("batches")
        self.sessions: SessionStore | None = part("sessions")
        self.measured_memory: MeasuredMemory | None = part("measured_memory")
        self.api_keys: ApiKeys | None = part("api_keys", has_database)
        self.users: Groups[User] | None = part("users", has_database)
        self.teams: Groups[Team] | None = part("teams", has_database)
        keeps = settings.ledger_days and (settings.database or is_writable(self._folder))
        self.ledger: Ledger | None = part("ledger", has_database and keeps)

    def responses(self) -> ResponseStore:
        """Raises SettingsError if the settings need a database that cannot be opened."""
        settings, there = self._settings, are_installed(NEEDED)
        if settings.state and not there:  # any worker may be asked for any response
            raise SettingsError(f"--state requires the extra redis: {install('redis')}")
        if there and (settings.database or settings.data or settings.state):
            return cast("ResponseStore", LazyProxy(partial(self._part, "responses")))
        return MemoryResponses(fixed.STORED_RESPONSES)

    def resume(self, then: Callable[[], None]) -> None:
        """Open existing data, in the background, and call `then`."""
        for name in FILES:
            private_files.narrow(self._folder / name)
        if self._has_knowledge and (self._settings.database or (self._folder / DATABASE).exists()):
            opening = threading.Timer(AFTER, self._open, [then])
            opening.daemon = True
            self._opened.callback(opening.cancel)
            opening.start()

    def close(self) -> None:
        self._closed.set()
        self._opened.close()

    def _open(self, then: Callable[[], None]) -> None:
        """Retries while a database is unavailable."""

        def open_and_mend() -> None:
            if not self._closed.is_set():
                with self._lock:
                    stores = self._stores
                    _ = stores.knowledge
                stores.reindex_missing()
                then()

        sleep = self._closed.wait
        retry_while_unavailable(open_and_mend, patience=math.inf, pause=AFTER, sleep=sleep)

    def _part(self, name: str) -> Any:
        called = time.monotonic()
        with self._lock:
            failed, fault = self._failed
            if fault is not None and failed >= called:
                raise fault  # opening failed while this call waited for the lock
            try:
                return getattr(self._stores, name)
            except StoreUnavailable as error:
                self._failed = time.monotonic(), error
                raise

    @cached_property
    def _stores(self) -> Stores:
        """Opened once, under the lock."""

        def opened() -> Stores:
            make = _imported()
            return make(self._settings, self._folder, self._embedder, self._ranker, self._opened)

        return run_in_native_thread(opened)


@cache
def _imported() -> type[Stores]:
    """Takes half a second. The modules are half of what the garbage collector would look at: they
    are frozen, as those of the start are."""
    from .stores import Stores

    gc.freeze()
    return Stores


def are_installed(modules: Sequence[str]) -> bool:
    return all(importlib.util.find_spec(name) for name in modules)
