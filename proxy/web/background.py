"""Responses that are made in the background.

    queued ──> in_progress ──> completed | incomplete | failed
       └────────────┴──────> cancelled

Each step is in the store, so that every process that shares it tells the same. Whatever goes wrong
ends in `failed` with its error; a response whose process is gone is told as failed by whoever reads
it (see `store.responses`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ..cancel import Cancel
from ..core.fold import fold
from ..core.invalid import Invalid
from ..dialects import responses
from ..dialects.responses import answer
from ..dialects.stamp import Stamp
from ..errors import BadRequest, Cancelled, GatewayError, QueueFull, StoreUnavailable
from ..lasting import Lasting, no_pause
from ..store.responses import ResponseStore, Stored
from .observe import Observer, Record
from .shares import Shares
from .stream import Answering

MOST_JOBS = 64  # at once, of all keys
BEAT = 2.0  # seconds between two signs of life; a fraction of what the store waits for one
PATIENCE = 600.0  # seconds in which a response that is over waits for a store that is away
PAUSE = 1.0  # seconds between two tries
OPEN = ("queued", "in_progress")
LOST = "the gateway was stopped while it made this response: ask again"
log = logging.getLogger("slotproxy.responses")


class Jobs:
    """The responses that this process makes in the background."""

    def __init__(self, store: ResponseStore, observer: Observer, *, alone: bool = False) -> None:
        """`alone`: there is no more than one key."""
        self._store = store
        self._observer = observer
        self._places = Shares(MOST_JOBS, alone=alone)
        self._running: dict[tuple[str, str], Cancel] = {}
        self._beating = False
        self._lock = threading.Lock()

    def begin(
        self,
        owner: str,
        stamp: Stamp,
        asked: responses.Asked,
        record: Record,
        cancel: Cancel,
        answering: Callable[[], Answering],
        begun: float,
    ) -> dict[str, Any]:
        """Make the response in a thread; `answering` begins its answer there. The queued response.
        Raises QueueFull, StoreUnavailable, and then has kept nothing."""
        if not self._places.take(owner):
            raise QueueFull(
                "too many responses are being made in the background: wait for one of them",
                retry_after=5.0,
            )
        job = _Job(self._store, owner, stamp, asked, record, answering)
        queued = responses.response(stamp, asked, "queued")
        value = Stored(msgspec.json.encode(queued), msgspec.json.encode(asked.input))
        with self._lock:
            self._running[owner, stamp.id] = cancel

        def work() -> None:
            self._observer.begin(record)
            try:
                job.run()
            finally:
                try:
                    self._observer.end(record)
                finally:
                    over()

        def over() -> None:
            with self._lock:
                self._running.pop((owner, stamp.id), None)
            self._store.close_open(owner, stamp.id)
            self._places.give(owner)

        try:
            self._store.open(owner, stamp.id, stamp.created, value, begun)
            threading.Thread(target=work, name="response", daemon=True).start()
        except BaseException as error:
            over()
            if isinstance(error, RuntimeError):  # the system gives no more threads
                self._store.delete(owner, stamp.id)
                raise QueueFull("too much is being done", retry_after=5.0) from None
            raise
        self._begin_beating()
        return queued

    def cancel(self, owner: str, key: str) -> None:
        """Stop making it, if this process does."""
        with self._lock:
            cancel = self._running.get((owner, key))
        if cancel is not None:
            cancel.cancel()

    def _begin_beating(self) -> None:
        if not self._store.shared:
            return  # nobody else could want to know
        with self._lock:
            if not self._beating:
                threading.Thread(target=self._signs, name="responses", daemon=True).start()
                self._beating = True

    def _signs(self) -> None:
        """Of life, as long as anything is made."""
        beating = Lasting("a sign of life of responses", no_pause)

        def beat() -> None:
            for owner, key in self._store.beat():
                self.cancel(owner, key)

        while True:
            time.sleep(BEAT)
            with self._lock:
                self._beating = bool(self._running)
                if not self._beating:
                    return
            beating.turn(beat)


class _Job:
    def __init__(
        self,
        store: ResponseStore,
        owner: str,
        stamp: Stamp,
        asked: responses.Asked,
        record: Record,
        answering: Callable[[], Answering],
    ) -> None:
        self._store = store
        self._owner = owner
        self._stamp = stamp
        self._asked = asked
        self._record = record
        self._answering = answering

    def run(self) -> None:
        """Raises nothing: nobody is there to hear it."""
        record = self._record
        try:
            done = self._made()
            record.status = 200
        except Cancelled:
            record.status = Cancelled.status
            done = responses.response(self._stamp, self._asked, "cancelled")
        except (GatewayError, Invalid) as error:
            fault = BadRequest(str(error)) if isinstance(error, Invalid) else error
            record.status = fault.status
            record.info.outcome = record.info.outcome or fault.code or fault.type
            done = answer.failed(self._stamp, self._asked, (), fault)
        except BaseException:
            log.exception("a response in the background")
            record.status = 500
            done = answer.failed(self._stamp, self._asked, (), GatewayError("internal error"))
        self._keep(done, over=True)

    def _made(self) -> dict[str, Any]:
        running = self._answering()
        try:
            self._record.info = running.info
            running.prime()
            self._keep(responses.response(self._stamp, self._asked, "in_progress"), over=False)
            return responses.whole(self._stamp, self._asked, fold(running))
        finally:
            running.close()

    def _keep(self, response: Mapping[str, Any], *, over: bool) -> None:
        """One that is over is nowhere else: where the store is away, its return is waited for."""
        data = msgspec.json.encode(response)
        end = time.monotonic() + (PATIENCE if over else 0.0)
        while True:
            try:
                self._store.change_open(self._owner, self._stamp.id, data, over=over)
                return
            except StoreUnavailable as fault:
                if time.monotonic() >= end:
                    log.error("response %s could not be stored: %s", self._stamp.id, fault.detail)
                    return
            time.sleep(PAUSE)


def told(kept: Stored) -> bytes:
    """A kept response, as a client is told of it."""
    if not kept.lost:
        return kept.response
    known = msgspec.json.decode(kept.response)
    known["status"] = "failed"
    known["error"] = {"code": "server_error", "message": LOST}
    return msgspec.json.encode(known)


def cancelled(kept: Stored) -> dict[str, Any] | None:
    """A kept response with the status `cancelled`; None where it is over."""
    known: dict[str, Any] = msgspec.json.decode(told(kept))
    if known["status"] not in OPEN:
        return None
    return known | {"status": "cancelled"}
