"""Runs batches in a thread: one at a time in this process, others in other processes.

A batch has its turn for `TURN` seconds if others wait. It is claimed in the database; the thread
sends heartbeats, and stores the results of finished lines together. A line that was under way when
a process was killed is asked again: it has no result yet.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import NotFound, StoreUnavailable
from ..runtime.lasting import Lasting
from .batch_run import Ask, BatchRun, Room

if TYPE_CHECKING:  # it imports SQLAlchemy
    from ..store.request_batches import RequestBatches

LOOK = 5.0  # seconds between two looks for batches that other processes left
ENDING = 5.0  # seconds that the end of the process waits for the thread


class BatchRunner:
    """`wake` announces a new or cancelled batch; the first call starts the thread. `close` gives
    the batch back, and the next process continues it."""

    def __init__(
        self,
        store: RequestBatches,
        room: Room,
        *,
        longest: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`room` tells how many lines could be asked now; `longest`: bytes of a line."""
        self._store = store
        self._room = room
        self._longest = longest
        self._clock = clock
        self._ask: Ask | None = None
        self._woken = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def attach(self, ask: Ask) -> None:
        """Set the function that answers lines."""
        self._ask = ask

    def wake(self) -> None:
        with self._lock:
            if self._thread is None and not self._over.is_set():
                self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
                self._thread.start()
        self._woken.set()

    def leave(self) -> None:
        """End the lines under way, and give the batch back. Does not wait."""
        self._over.set()
        self._woken.set()

    def close(self) -> None:
        self.leave()
        if self._thread is not None:
            self._thread.join(timeout=ENDING)

    def _run(self) -> None:
        running = Lasting("running batches", lambda seconds: self._over.wait(seconds))
        while not self._over.is_set():
            running.turn(self._turn)

    def _turn(self) -> None:
        self._woken.clear()
        try:
            if self.run_one():
                return
            self._store.drop_results()
        except StoreUnavailable:
            pass  # try again later
        self._woken.wait(LOOK)

    def run_one(self) -> bool:
        """Run the next batch until it is finished, has to make way, or the process ends. False if
        there is none. Raises StoreUnavailable."""
        assert self._ask is not None, "attached before the first request"
        batch = self._store.claim(self._clock())
        if batch is None:
            return False
        run = BatchRun(
            self._store,
            batch,
            self._ask,
            self._room,
            longest=self._longest,
            clock=self._clock,
            over=self._over,
        )
        try:
            with suppress(NotFound):  # deleted, or taken over by another process
                run.run()
        finally:
            run.stop()
            with suppress(StoreUnavailable):
                self._store.release(batch.id, self._clock())
        return True
