"""The database, and all that is stored in it. Importing this takes half a second."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path

from ..config import Settings, fixed
from ..config.data_folder import DATABASE, FILES, INDEX, SLOTS
from ..gateway import Embedder
from ..knowledge.index import Index, open_shelf
from ..knowledge.ingest import Ingester, reindex_missing
from ..knowledge.reading import ReadingLimits
from ..knowledge.service import Knowledge
from ..knowledge.stores import VectorStores
from ..runtime import private_files
from ..runtime.cancel import Cancel
from ..store import api_keys
from ..store.conversations import ConversationStore
from ..store.database import Database
from ..store.database_responses import DatabaseResponses
from ..store.file_store import FileStore
from ..store.knowledge import KnowledgeStore
from ..store.ledger import Ledger
from ..store.measured_memory import MeasuredMemory
from ..store.outage import outage
from ..store.quota import Quota
from ..store.request_batches import RequestBatches
from ..store.sessions import SessionStore


class Stores:
    """Opens the database; `closing` ends it. Raises StoreUnavailable. Parts that start threads are
    created when they are first used; callers hold a lock."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        embedder: Embedder | None,
        ranker: Embedder | None,
        closing: ExitStack,
    ) -> None:
        self._settings, self._folder, self._closing = settings, folder, closing
        self._embedder, self._ranker = embedder, ranker
        self._quota = Quota(fixed.QUOTA_FILES, fixed.QUOTA_DOCUMENTS, settings.quota_bytes)
        try:
            private_files.folder(folder, (*FILES, SLOTS))
            url = settings.database or f"sqlite:///{folder / DATABASE}"
            database = self._database = Database(url)
            with ExitStack() as opening:
                opening.callback(database.close)
                database.upgrade()
                closing.push(opening.pop_all())
        except OSError as error:
            raise (outage(error) or error) from error
        self.responses = DatabaseResponses(database, fixed.STORED_RESPONSES)
        self.batches = RequestBatches(database, self._quota)
        self.sessions = SessionStore(database)
        self.api_keys = api_keys.ApiKeys(database)
        self.users = api_keys.users(database)
        self.teams = api_keys.teams(database)
        self.measured_memory = MeasuredMemory(database)
        self.ledger = Ledger(database)
        self._rows = KnowledgeStore(database, self._quota)

    @cached_property
    def conversations(self) -> ConversationStore:
        store = ConversationStore(self._database, quota=self._quota)
        if self._settings.workers == 1 and not self._settings.database:
            store.interrupted()  # no other worker can be writing them
        return store

    @cached_property
    def vector_stores(self) -> VectorStores:
        return VectorStores(self.knowledge, FileStore(self._database, self._quota))

    @cached_property
    def knowledge(self) -> Knowledge:
        limits = ReadingLimits(fixed.READING_TIMEOUT, fixed.READING_MEMORY)
        ingester = Ingester(self._rows, self._index, limits)
        ingester.start()
        self._closing.callback(ingester.close)
        rank = partial(_rank, self._ranker) if self._ranker else None
        most = self._settings.max_document
        return Knowledge(self._rows, self._index, ingester.wake, most, rank)

    def reindex_missing(self) -> None:
        reindex_missing(self._rows, self._index)

    @cached_property
    def _index(self) -> Index:
        file = self._folder / INDEX
        if not self._settings.database.startswith("postgresql"):
            private_files.folder(self._folder, (*FILES, SLOTS))
            private_files.database(file)
        shelf = open_shelf(self._database.engine, file)
        index = Index(shelf, partial(_embed, self._embedder) if self._embedder else None)
        self._closing.callback(shelf.close)
        return index


def _embed(embedder: Embedder, model: str, texts: Sequence[str]) -> list[list[float]]:
    _, embedded = embedder.embed(model, list(texts), Cancel())
    return [list(vector) for vector in embedded.vectors]


def _rank(ranker: Embedder, query: str, texts: Sequence[str]) -> Sequence[float]:
    _, ranked = ranker.rerank("", query, texts, Cancel())
    return ranked.scores
