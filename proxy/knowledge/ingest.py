"""Reads queued documents, one after the other, in one thread per gateway.

The queue is the documents' rows, shared by several gateways. If the heartbeats of a reader stop,
another reads the document anew. It is ready only after all its chunks are searchable.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

from ..errors import GatewayError, StoreUnavailable
from ..runtime.keep_alive import KeepAlive
from ..store import records
from ..store.knowledge import KnowledgeStore
from ..store.records import Chunk, Document, new_id
from .index import Index
from .index.records import IndexEntry
from .reading import DocumentReader, ReadingFailed, ReadingLimits

AT_ONCE = 200  # chunks


def reindex_missing(store: KnowledgeStore, index: Index) -> int:
    """Index documents with missing chunks or vectors; return how many there were."""
    mended = 0
    held = index.shelf.census()
    for document_id, base_id, chunks in store.ready():
        rows, vectors = held.get(document_id, (0, 0))
        if rows >= chunks and (vectors >= chunks or not index.embeds):
            continue
        entries = [
            IndexEntry(chunk.id, document_id, chunk.text) for chunk in store.chunks_in(document_id)
        ]
        try:
            # In parts, so that other writers get their turn in between.
            for i in range(0, len(entries), AT_ONCE):
                index.add(base_id, entries[i : i + AT_ONCE], store.model_of(base_id))
        except GatewayError as error:
            log.warning("documents get their embeddings at the next start: %s", error.message)
            break
        mended += 1
    if mended:
        log.info("the search index has %d documents again", mended)
    return mended


log = logging.getLogger("slotproxy.knowledge")

STALE = 60.0  # seconds without a heartbeat until a process on another machine counts as dead
BEAT = 1.0  # seconds between two heartbeats
MOST_CHUNKS = 500_000  # per document
BATCH = 32  # chunks stored and indexed together
LOOK = 5.0  # seconds between two polls for documents queued by other processes


class Ingester:
    """Reads documents in a thread. `close` ends it, even within a document."""

    def __init__(
        self,
        store: KnowledgeStore,
        index: Index,
        limits: ReadingLimits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._index = index
        self._limits = limits
        self._clock = clock
        self._name = records.new_name()
        self._woken = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="ingester", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        self._over = True
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        with suppress(StoreUnavailable):  # otherwise others take over after a while
            self._store.release([self._name])

    def _run(self) -> None:
        lost: list[str] = []
        reading = KeepAlive("reading documents", lambda _: self._woken.wait(LOOK))

        def read() -> None:
            nonlocal lost
            try:
                lost += [name for name in self._store.readers() if records.is_gone(name)]
                self._store.release(lost)
                lost = []
                if self.read_one():
                    return
            except StoreUnavailable:  # try again later
                lost = [self._name]
            self._woken.wait(LOOK)
            self._woken.clear()

        while not self._over:
            if not reading.turn(read):
                lost = [self._name]

    def read_one(self) -> bool:
        """Read the next document; False if there is none. Raises StoreUnavailable."""
        now = self._clock()
        claimed = self._store.claim(self._name, now, now - STALE)
        if claimed is None:
            return False
        owner, document = claimed
        why = ""
        try:
            whole = self._read(document)
        except StoreUnavailable:
            raise
        except (ReadingFailed, GatewayError) as error:
            whole, why = False, str(error)
        except Exception:
            # A document that raises an unexpected error must not be tried again and again.
            log.exception("the document %s could not be read", document.id)
            whole, why = False, "the document could not be read"
        if self._over and not whole:
            return True  # the next reader starts from the beginning
        finished = (whole or bool(why)) and self._store.finish(document, self._name, why)
        if not (whole and finished):
            current = self._store.document(owner, document.id)
            if current is None or current.status != "reading":  # no other reader has it by now
                self._index.shelf.drop(document=document.id)
        return True

    def _read(self, document: Document) -> bool:
        """Return whether the document is whole and still ours. Raises GatewayError."""
        self._index.shelf.drop(document=document.id)
        if not self._store.begin(document, self._name):
            return False
        model = self._store.model_of(document.base_id)
        count, done = 0, 0.0
        held: list[Chunk] = []

        def keep() -> bool:
            """Store pending chunks; return False if the document is no longer wanted."""
            if not self._store.progress(document, self._name, held, done, self._clock()):
                return False
            entries = [IndexEntry(chunk.id, document.id, chunk.text) for chunk in held]
            held.clear()
            self._index.add(document.base_id, entries, model)
            return not self._over

        original = self._store.original(document.id)
        reading = DocumentReader(
            document.filename, document.size, original, document.splitting, self._limits
        )
        with closing(reading), self._alive(document, reading):
            for share, piece in reading:
                done = share
                held.append(
                    Chunk(
                        id=new_id("chunk_"),
                        document_id=document.id,
                        base_id=document.base_id,
                        number=count,
                        text=piece.text,
                        place=piece.place,
                    )
                )
                count += 1
                if count > MOST_CHUNKS:
                    raise ReadingFailed(
                        f"it has more than {MOST_CHUNKS} chunks: increase the chunk size"
                    )
                if len(held) >= BATCH and not keep():
                    return False
        if not count:
            raise ReadingFailed("it contains no text")
        return not held or keep()

    @contextmanager
    def _alive(self, document: Document, reading: DocumentReader) -> Iterator[None]:
        """Send heartbeats, and end a child that is late or not wanted any more."""
        over = threading.Event()
        beating = KeepAlive(f"heartbeat of the reader of {document.id}")

        def beat() -> None:
            reading.hurry()
            if not self._store.beat(document, self._name, self._clock()) or self._over:
                reading.end()

        def beats() -> None:
            while not over.wait(BEAT):
                beating.turn(beat)

        thread = threading.Thread(target=beats, name="ingester-beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
