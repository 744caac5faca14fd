"""Writes finished requests to the ledger in the database, twice a second and off the hot path.

While the database is unavailable, rows wait in a queue; if it is full, further rows are counted as
lost, in the log and in the metrics. An orderly stop writes everything.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, get_args

from msgspec import Struct

from ...core.events import FinishReason
from ...errors import Cancelled, RequestCancelled, StoreUnavailable
from ...gateway import Info
from ...runtime.keep_alive import KeepAlive
from ...store.ledger_rows import CANCELLED, OK, LedgerRow
from ...store.measures import Counts
from ...store.records import new_name
from ..observability import Record
from ..routes import OTHER, Routes

if TYPE_CHECKING:
    from ...store.ledger import Ledger  # imports SQLAlchemy


ENDED = frozenset(get_args(FinishReason))
LEFT = frozenset({"cancelled", Cancelled.code, RequestCancelled.code})
LONGEST = 128  # characters of a name
# A product of RFC 9110, with its version.
_PRODUCT = re.compile(r"[\w!#$%&'*+.^`|~-]{1,48}(?:/[\w!#$%&'*+.^`|~-]{1,48})?", re.ASCII)
FEW = 32  # evaluated tokens that are too few to measure a speed
MOST_BACKENDS = MOST_CLIENTS = 256
AGENT = 128  # characters of a User-Agent header that are read


@lru_cache(MOST_CLIENTS)
def client_of(agent: str) -> str:
    """The first product of a User-Agent header, such as "OpenAI/Python"; "" if there is none."""
    match = _PRODUCT.match(agent)
    return match[0] if match else ""


def outcome_of(record: Record) -> str:
    """How a request ended: OK, CANCELLED, or the code of its error."""
    outcome = record.info.outcome
    if outcome in LEFT:
        return CANCELLED
    if outcome and outcome not in ENDED:
        return outcome[:LONGEST]
    if record.status >= 400:
        return str(record.status)
    return OK if record.status else CANCELLED


class PrefillSpeeds:
    """The seconds that each backend needed last to evaluate a token."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def saved(self, info: Info) -> float:
        """The estimated seconds that cached tokens saved; 0 until a speed is known."""
        cached = info.usage.cached
        evaluated = info.usage.prompt - cached
        # Several choices evaluate their prompt several times, and count it once.
        if evaluated >= FEW and info.evaluating > 0 and info.choices <= 1:
            if len(self._seconds) >= MOST_BACKENDS:
                self._seconds.clear()
            self._seconds[info.backend] = info.evaluating / evaluated
        return cached * self._seconds.get(info.backend, 0.0)


def row_of(
    record: Record, took: float, ended: float, routes: Routes, speeds: PrefillSpeeds
) -> LedgerRow:
    """The row of a request that `ended` (seconds since 1970) and took so many seconds."""
    info = record.info
    served = routes.get((record.method, record.route))
    usage = info.usage
    evaluating, writing = info.evaluating, info.writing
    if not (evaluating or writing) and info.first_token:  # the backend reported no times
        evaluating = max(0.0, info.first_token - info.placed)
        writing = max(0.0, info.last_token - info.first_token)
    return LedgerRow(
        ended=int(1000 * ended),
        request=record.id,
        key=record.key,
        user=record.user,
        team=record.team,
        model=info.model[:LONGEST],
        backend=info.backend[:LONGEST],
        slot=info.slot,
        api=served.ledger if served else OTHER,
        prompt=usage.prompt,
        cached=usage.cached,
        completion=usage.completion,
        reasoning=usage.reasoning,
        queue_seconds=info.queue_wait,
        prefill_seconds=evaluating,
        decode_seconds=writing,
        slot_seconds=info.slot_seconds,
        saved_seconds=speeds.saved(info),
        seconds=took,
        outcome=outcome_of(record),
        client=client_of(record.agent[:AGENT]),
        tags=record.tags,
    )


class LedgerCounts(Struct, frozen=True):
    """Rows that this process has stored, has lost, and has still to store."""

    stored: int
    lost: int
    waiting: int


MOST_WAITING = 32768  # finished requests that wait to be stored
AT_ONCE = 1000  # rows stored in one transaction
PERIOD = 0.5  # seconds between two looks into the queue
AGAIN = 1.0  # seconds until an unavailable database is tried again
PRUNING = 600.0  # seconds between two deletions of old rows
PRUNED_FOR = 0.25  # seconds of deleting, before new rows are stored again
LAST_TRIES = 5.0  # seconds for which a stop waits for an unavailable database
QUIET = 60.0  # seconds between two log lines about lost rows
DAY = 86400.0

log = logging.getLogger("slotproxy.ledger")


class LedgerWriter:
    """Call `add` for each finished request that asked a model."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        days: int,
        needs_key: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Rows are kept for so many days. Where callers need a key, others are not stored."""
        self.ledger = ledger
        self._days = days
        self._needs_key = needs_key
        self.routes: Routes = {}  # of the application, once they are known
        self.unstored: Callable[[], Mapping[int, Counts]] = dict  # the observer's
        self._clock = clock
        self._waiting: deque[LedgerRow] = deque()
        self._batch: list[LedgerRow] = []  # the last one taken from the queue, until it is stored
        self._measured: Mapping[int, Counts] = {}  # stored with it
        self._number = 0  # of that batch
        self._name = new_name()
        self._speeds = PrefillSpeeds()
        self._stored = self._lost = 0
        self._logged = -QUIET
        self._reported = 0  # lost rows that were logged
        self._flushing = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._pruned = time.monotonic()

    def add(self, record: Record, took: float) -> None:
        """Queue a request that took so many seconds. Never waits."""
        if not record.key and self._needs_key():
            return
        row = row_of(record, took, self._clock(), self.routes, self._speeds)
        if not row.model and row.outcome == OK:
            return  # it succeeded without a model, such as a request to unload it
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(row)
        else:
            self._lost += 1

    def counts(self) -> LedgerCounts:
        return LedgerCounts(self._stored, self._lost, len(self._waiting) + len(self._batch))

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Store what is in the queue. Logs what could not be stored."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(LAST_TRIES + 10.0)
        end = time.monotonic() + LAST_TRIES
        while not self.flush() and time.monotonic() < end:
            time.sleep(AGAIN)
        self._lost += len(self._waiting) + len(self._batch)
        self._report(quiet=0.0)

    def flush(self) -> bool:
        """Store everything that is in the queue now. False if the database is unavailable."""
        with self._flushing:
            batches = bool(self._batch) + math.ceil(len(self._waiting) / AT_ONCE)
            return all(self._store_next() for _ in range(batches))

    def _store_next(self) -> bool:
        """Store the next batch. False if the database is unavailable."""
        if not self._batch:
            size = min(len(self._waiting), AT_ONCE)
            self._batch = [self._waiting.popleft() for _ in range(size)]
            self._measured = self.unstored() if size else {}
            self._number += 1
        count = len(self._batch)
        if count:
            try:
                self.ledger.write(self._name, self._number, self._batch, self._measured)
                if not self._stored:
                    self._pruned = -math.inf  # soon: the database is open
                self._stored += count
            except StoreUnavailable:
                return False
            except Exception:
                if not self._lost:  # the first of them tells why
                    log.exception("usage: %d requests could not be stored", count)
                self._lost += count
        self._batch = []
        return True

    def prune(self) -> bool:
        """Delete rows that are too old, for a moment. False if there may be more."""
        now = self._clock()
        self.ledger.prune_measures(int(1000 * now))
        before = int(1000 * (now - self._days * DAY))
        end = time.monotonic() + PRUNED_FOR
        while self.ledger.prune(before):
            if self._closing.is_set() or time.monotonic() >= end:
                return False
        return True

    def _run(self) -> None:
        working = KeepAlive("the ledger")
        while not self._closing.wait(PERIOD):
            working.turn(self._turn)

    def _turn(self) -> None:
        if not self.flush():
            self._closing.wait(AGAIN - PERIOD)
        elif time.monotonic() - self._pruned >= PRUNING:
            with contextlib.suppress(StoreUnavailable):
                if self.prune():
                    self._pruned = time.monotonic()
        self._report()

    def _report(self, quiet: float = QUIET) -> None:
        new = self._lost - self._reported
        if new and time.monotonic() - self._logged >= quiet:
            self._logged, self._reported = time.monotonic(), self._lost
            log.error("usage: %d requests lost: the database did not store them", new)
