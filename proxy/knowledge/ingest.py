"""Who reads documents: one thread of each gateway takes what is queued, one after the other.

The rows of the documents are the queue, so there is no second one to be kept in step with them, and
what was told as queued outlives any process. A document is taken by a mark and a sign of life;
when its reader's process is gone, or gives no sign for a while, it is taken over and read from its
beginning. It is told as ready only after all of its chunks are stored and found.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing

from ..errors import GatewayError
from ..store.knowledge import KnowledgeStore
from .index import Entry, Index
from .reading import Failed, Limits, Reading
from .splitting import Piece, Section, pieces
from .values import Chunk, Document

log = logging.getLogger("slotproxy.knowledge")

STALE = 60.0  # seconds without a sign of life
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
        self._name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
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
        self._store.let_go([self._name])

    def _run(self) -> None:
        self._store.let_go([one for one in self._store.readers() if _is_gone(one)])
        while not self._over:
            try:
                if not self.read_one():
                    self._woken.wait(LOOK)
                    self._woken.clear()
            except Exception:  # the database may be away: it comes back
                log.exception("reading documents goes on in %g seconds", LOOK)
                self._woken.wait(LOOK)

    def read_one(self) -> bool:
        """Read the next document. Whether there was one."""
        now = self._clock()
        claimed = self._store.claim(self._name, now, now - STALE)
        if claimed is None:
            return False
        _, document = claimed
        try:
            if self._read(document):
                self._store.finish(document, self._name)
        except (Failed, GatewayError) as error:
            why = error.message if isinstance(error, GatewayError) else str(error)
            self._index.remove(document.id)
            self._store.finish(document, self._name, why)
        except Exception:
            # A document that trips us must not be taken again and again.
            log.exception("document %s", document.id)
            self._store.finish(document, self._name, "it could not be read")
        return True

    def _read(self, document: Document) -> bool:
        """Whether it was read to its end, and is still ours. Raises Failed, GatewayError."""
        self._index.remove(document.id)
        if not self._store.begin(document, self._name):
            return False
        data = self._store.data(document)
        if data is None:
            return False
        model = self._store.model_of(document.base_id)
        done, count = 0.0, 0
        held: list[Piece] = []

        def keep() -> bool:
            nonlocal count, held
            chunks = [
                Chunk(
                    f"chunk_{uuid.uuid4().hex[:24]}",
                    document.id,
                    document.base_id,
                    count + i,
                    piece.text,
                    piece.place,
                )
                for i, piece in enumerate(held)
            ]
            count, held = count + len(chunks), []
            if not self._store.progress(document, self._name, chunks, done, self._clock()):
                return False
            entries = [Entry(one.id, document.id, one.text) for one in chunks]
            self._index.add(document.base_id, entries, model)
            return True

        with closing(Reading(document.filename, data, self._limits)) as reading:

            def sections() -> Iterator[Section]:
                nonlocal done
                for share, section in reading:
                    done = share
                    yield section

            for piece in pieces(sections(), document.splitting):
                held.append(piece)
                if len(held) >= BATCH and not (keep() and not self._over):
                    break
            else:
                if not held or keep():
                    if count:
                        return True
                    raise Failed("there is no text in it")
        self._index.remove(document.id)  # it was cancelled, or is another's now
        return False


def _is_gone(reader: str) -> bool:
    """Whether it was a process of this machine that is no more."""
    host, _, rest = reader.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
