"""Who reads documents: one thread of each gateway takes what is queued, one after the other.

The rows of the documents are the queue, so there is no second one to be kept in step with them, and
what was told as queued outlives any process. A document is taken by a mark and a sign of life;
when its reader's process is gone, or gives no sign for a while, it is taken over and read from its
beginning. It is told as ready only after all of its chunks are stored and found.

Why no queue of another's (huey, say): progress, cancelling and the jobs that a rebuilding is are
told of these rows, so a second list of what is to be done would have to agree with them after every
crash; and one database is all that several gateways need to share the work, without Redis.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

from ..errors import GatewayError, StoreUnavailable
from ..lasting import Lasting, no_pause
from ..store import writers
from ..store.knowledge import KnowledgeStore
from .index import Entry, Index
from .reading import Failed, Limits, Reading
from .splitting import Piece
from .values import Chunk, Document

log = logging.getLogger("slotproxy.knowledge")

STALE = 60.0  # seconds without a sign of life, of a process on another machine
BEAT = 1.0  # seconds between two signs of life
MOST_CHUNKS = 500_000  # of a document
BATCH = 32  # chunks that are stored and indexed together
LOOK = 5.0  # seconds between two looks at what other processes may have queued


class Ingester:
    """`start` begins; `wake` says that there is something to read; `close` ends, in the middle of a
    document too, which is then read again by whoever comes next."""

    def __init__(
        self,
        store: KnowledgeStore,
        index: Index,
        limits: Limits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._index = index
        self._limits = limits
        self._clock = clock
        self._name = writers.new_name()
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
        with suppress(StoreUnavailable):  # others take over after a while
            self._store.let_go([self._name])

    def _run(self) -> None:
        lost: list[str] = []
        reading = Lasting("reading documents", lambda _: self._woken.wait(LOOK))

        def read() -> None:
            nonlocal lost
            try:
                lost += [one for one in self._store.readers() if writers.is_gone(one)]
                self._store.let_go(lost)
                lost = []
                if self.read_one():
                    return
            except StoreUnavailable:  # it comes back
                lost = [self._name]
            self._woken.wait(LOOK)
            self._woken.clear()

        while not self._over:
            if not reading.turn(read):
                lost = [self._name]

    def read_one(self) -> bool:
        """Read the next document. Whether there was one. Raises StoreUnavailable: what was
        being read is then still ours, until it is let go."""
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
        except Failed as error:
            whole, why = False, str(error)
        except GatewayError as error:
            whole, why = False, error.message
        except Exception:
            # A document that trips us must not be taken again and again.
            log.exception("document %s", document.id)
            whole, why = False, "it could not be read"
        if self._over and not whole:
            return True  # whoever comes next reads it from its beginning
        kept = (whole or bool(why)) and self._store.finish(document, self._name, why)
        if not (whole and kept):
            self._drop(owner, document)
        return True

    def _read(self, document: Document) -> bool:
        """Whether it was read to its end, and is still ours. Raises Failed, GatewayError."""
        self._index.remove(document.id)
        if not self._store.begin(document, self._name):
            return False
        model = self._store.model_of(document.base_id)
        count, done = 0, 0.0
        held: list[Chunk] = []

        def keep() -> bool:
            """Whether it is still to be read."""
            if not self._store.progress(document, self._name, held, done, self._clock()):
                return False
            entries = [Entry(one.id, document.id, one.text) for one in held]
            held.clear()
            self._index.add(document.base_id, entries, model)
            return not self._over

        original = self._store.original(document.id)
        reading = Reading(
            document.filename, document.size, original, document.splitting, self._limits
        )
        with closing(reading), self._alive(document, reading):
            for share, piece in reading:
                done = share
                held.append(_chunk(document, count, piece))
                count += 1
                if count > MOST_CHUNKS:
                    raise Failed(f"it has more than {MOST_CHUNKS} chunks: make them larger")
                if len(held) >= BATCH and not keep():
                    return False
        if not count:
            raise Failed("there is no text in it")
        return not held or keep()

    @contextmanager
    def _alive(self, document: Document, reading: Reading) -> Iterator[None]:
        """Meanwhile signs of life are given, and the child is ended when it takes too long or
        nobody wants the document any more."""
        over = threading.Event()
        beating = Lasting(f"the sign of life of the reader of {document.id}", no_pause)

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

    def _drop(self, owner: str, document: Document) -> None:
        """Forget what was indexed of it, unless another reads it by now."""
        now = self._store.document(owner, document.id)
        if now is None or now.status != "reading":
            self._index.remove(document.id)


def _chunk(document: Document, number: int, piece: Piece) -> Chunk:
    name = f"chunk_{uuid.uuid4().hex[:24]}"
    return Chunk(name, document.id, document.base_id, number, piece.text, piece.place)
