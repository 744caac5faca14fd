"""Responses generated in the background.

    queued ──> in_progress ──> completed | incomplete | failed
       └────────────┴──────> cancelled

Each step is stored, so all processes report the same status. If the process that generates a
response dies, readers report it as failed (see `store.responses`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ..apis.response_meta import ResponseMeta
from ..apis.responses.answer import Writer, whole
from ..apis.responses.request import ParsedRequest
from ..core.fold import fold
from ..errors import Cancelled, GatewayError, QueueFull, StoreUnavailable
from ..runtime.cancel import Cancel
from ..runtime.keep_alive import WhileNeeded
from ..store.outage import PATIENCE, retry_while_unavailable
from ..store.responses import Stored
from .observability import Observer, Record
from .ongoing import FairCap
from .stream import EventSource

if TYPE_CHECKING:
    from ..store.database_responses import ResponseStore  # it imports SQLAlchemy, an extra

MOST_JOBS = 64  # running at once, for all keys together
BEAT = 2.0  # seconds between two heartbeats; a fraction of the store's timeout for them
OPEN = ("queued", "in_progress")
LOST = "the gateway was stopped while generating this response: send the request again"
log = logging.getLogger("slotproxy.responses")


class Jobs:
    def __init__(self, store: ResponseStore, observer: Observer, *, alone: bool = False) -> None:
        """`alone`: at most one key is configured."""
        self._store = store
        self._observer = observer
        self._places = FairCap(MOST_JOBS, alone=alone)
        self._running: dict[tuple[str, str], Cancel] = {}
        self._beating = WhileNeeded("response heartbeats", BEAT, lambda: self._running, self._beat)

    def begin(
        self,
        owner: str,
        meta: ResponseMeta,
        parsed: ParsedRequest,
        record: Record,
        cancel: Cancel,
        answering: Callable[[], EventSource],
        begun: float,
        then: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any]:
        """Start a thread that generates the response, and return the queued response. `answering`
        starts the generation in that thread, `then` gets the finished response. Raises QueueFull
        or StoreUnavailable; nothing is stored then."""
        if not self._places.take(owner):
            raise QueueFull(
                "too many responses are running in the background: wait for one to finish",
                retry_after=5.0,
            )
        job = _Job(self._store, owner, meta, parsed, record, answering, then)
        queued = Writer(meta, parsed).response("queued")
        value = Stored(msgspec.json.encode(queued), msgspec.json.encode(parsed.input))
        self._running[owner, meta.id] = cancel

        def work() -> None:
            self._observer.begin(record, cancel)
            try:
                job.run()
            finally:
                try:
                    self._observer.finish(record)
                finally:
                    self._store.close_open(owner, meta.id)
                    over()

        def over() -> None:
            self._running.pop((owner, meta.id), None)
            self._places.give(owner)

        try:
            self._store.put(owner, meta.id, meta.created, value, begun, making=True)
        except BaseException:
            over()
            raise
        try:
            threading.Thread(target=work, name="response", daemon=True).start()
        except RuntimeError:  # no more threads available
            self._store.close_open(owner, meta.id)
            over()
            self._store.delete(owner, meta.id)
            raise QueueFull("too many tasks are running", retry_after=5.0) from None
        if self._store.shared:  # otherwise no other process reads it
            self._beating.start()
        return queued

    @property
    def taken(self) -> int:
        return self._places.taken

    def cancel(self, owner: str, key: str) -> None:
        cancel = self._running.get((owner, key))
        if cancel is not None:
            cancel.cancel()

    def _beat(self) -> None:
        for owner, key in self._store.beat():
            self.cancel(owner, key)


class _Job(NamedTuple):
    store: ResponseStore
    owner: str
    meta: ResponseMeta
    parsed: ParsedRequest
    record: Record
    answering: Callable[[], EventSource]
    then: Callable[[dict[str, Any]], None]

    def run(self) -> None:
        """Generate and store the response. Never raises: nobody could handle the error."""
        record = self.record
        try:
            done = self._made()
            self.then(done)
            record.status = 200
        except GatewayError as error:
            record.status = error.status
            error.show_to(record.shown)
            record.info.outcome = record.info.outcome or error.code or error.type
            done = (
                Writer(self.meta, self.parsed).response("cancelled")
                if type(error) is Cancelled
                else Writer(self.meta, self.parsed).failed(error)
            )
        except BaseException:
            log.exception("a background response failed")
            record.status = 500
            done = Writer(self.meta, self.parsed).failed(GatewayError("internal error"))
        self._keep(done, over=True)

    def _made(self) -> dict[str, Any]:
        running = self.answering()
        try:
            self.record.info = running.info
            running.prime()
            self._keep(Writer(self.meta, self.parsed).response("in_progress"), over=False)
            return whole(self.meta, self.parsed, fold(running))
        finally:
            running.close()

    def _keep(self, response: Mapping[str, Any], *, over: bool) -> None:
        """Store the response. A finished one exists nowhere else, so this waits."""
        data = msgspec.json.encode(response)
        change = partial(self.store.change_open, self.owner, self.meta.id, data, over=over)
        try:
            retry_while_unavailable(change, patience=PATIENCE if over else 0.0)
        except StoreUnavailable as fault:
            log.error("response %s could not be stored: %s", self.meta.id, fault.detail)


def encoded(stored: Stored) -> bytes:
    if not stored.lost:
        return stored.response
    response = msgspec.json.decode(stored.response)
    response["status"] = "failed"
    response["error"] = {"code": "server_error", "message": LOST}
    return msgspec.json.encode(response)


def cancelled(stored: Stored) -> dict[str, Any] | None:
    """Return the response with the status `cancelled`, or None if it is already finished."""
    response: dict[str, Any] = msgspec.json.decode(encoded(stored))
    if response["status"] not in OPEN:
        return None
    return response | {"status": "cancelled"}
