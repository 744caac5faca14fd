"""Knows the running requests that ask a model, and counts and logs finished ones."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from operator import attrgetter

import msgspec

from ...accounts.key_cache import SECRET_PREFIX, without_keys
from ...errors import NoIdleSlot
from ...runtime import logs
from ...runtime.cancel import Cancel, Reason
from ...runtime.locks import native_lock
from ...runtime.logs import Lines
from ...store.measures import Counts
from .history import OTHER, WELL, Contents, Finished, History, Tenure
from .metrics import Metrics
from .record import Record

# The access log: a line for each request.
access = logging.getLogger(logs.ACCESS)
_log = logging.getLogger("slotproxy")
_encode = msgspec.json.Encoder().encode


def write(record: Record, took: float, ended: int) -> None:
    """Write the line of a request that took so many seconds and `ended` (seconds since 1970), if
    possible directly: a log record would take ten times as long."""
    handlers = logging.root.handlers
    if len(handlers) == 1 and type(handlers[0]) is Lines and not access.handlers:
        log = handlers[0]
        text = shown(record, took, ended, log) if log.is_text else line(record, took, ended)
        try:  # suppress() would take longer than the whole function
            log.stream.write(f"{text}\n")
            log.stream.flush()
        except (OSError, ValueError):
            pass  # standard error is closed
    else:
        access.info("%s", line(record, took, ended))


_Line = msgspec.defstruct(
    "_Line",
    "id peer method path status key key_alias model backend tier fallback slot stream queue_ms"
    " ttft_ms ms prompt_tokens cached_tokens completion_tokens continued outcome time".split(),
)


def line(record: Record, took: float, ended: int) -> str:
    """The line in JSON. The times that it took are in milliseconds, rounded to a tenth."""
    info = record.info
    usage = info.usage
    path = without_keys(record.path) if SECRET_PREFIX in record.path else record.path
    values = _Line(
        record.id,
        record.peer,
        record.method[:20],
        path[:200],
        record.status,
        record.key,
        record.alias,
        info.model,
        info.backend,
        info.tier,
        ", ".join(map(" ".join, info.passed)) if info.passed else "",
        info.slot,
        record.stream,
        round(10000 * info.queue_wait) / 10,
        round(10000 * info.first_token) / 10,
        round(10000 * took) / 10,
        usage.prompt,
        usage.cached,
        usage.completion,
        info.continued,
        info.outcome,
        logs.stamp(ended),
    )
    return _encode(values).decode()


LONGEST = 45  # characters of a path for people


def shown(record: Record, took: float, ended: int, log: Lines) -> str:
    """The line for people: what is looked for first comes first, and nothing that is empty."""
    info, usage, status = record.info, record.info.usage, record.status
    path = without_keys(record.path) if SECRET_PREFIX in record.path else record.path
    path = path if len(path) <= LONGEST else f"{path[:32]}…{path[-12:]}"
    parts = [f"{record.method[:20]} {path}".ljust(25), info.model[:64]]
    parts.append(record.alias[:64] or record.key)
    if usage.prompt or usage.completion:
        cached = f" ({usage.cached} cached)" if usage.cached else ""
        parts.append(f"{usage.prompt}{cached} in, {usage.completion} out")
    if info.first_token:
        parts.append(f"first {_seconds(info.first_token)}")
    is_cut = status < 400 and info.outcome not in WELL  # a stream that broke off
    ending = f"cut off: {info.outcome}" if is_cut else info.outcome
    parts += [_seconds(took), "continued" if info.continued else "", ending]
    colour = logs.GREEN if status < 400 else logs.YELLOW
    colour = logs.RED if status >= 500 or is_cut else colour
    code = log.coloured(f"{status or '–':<5}", colour)
    text = logs.printable("  ".join(filter(None, parts)))
    return f"{log.coloured(logs.clock(ended), logs.DIM)} {code} {text}"


def _seconds(seconds: float) -> str:
    return f"{max(1, 1000 * seconds):.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


OnFinished = Callable[[Record, float], None]
AT_ONCE = 64  # requests added up together


def _tell(listeners: Iterable[OnFinished], record: Record, took: float) -> None:
    """A listener that fails costs its own record, not the answer, its row, line and budget."""
    for listener in listeners:
        try:
            listener(record, took)
        except Exception:
            _log.exception("the end of a request could not be recorded")


class Observer:
    """Knows running requests, and counts and logs finished ones. Needs no lock."""

    def __init__(
        self, *, metrics: bool, on_finished: Iterable[OnFinished] = (), stores: bool = False
    ) -> None:
        """Each of `on_finished` is called with each finished request that asked a model, and its
        seconds. They must be quick, and may not wait. `stores`: counts wait for `unstored`."""
        self.on_finished = [*on_finished]
        self.decision: Callable[[Record], str] | None = None  # as a header shows it
        # Called with each request that asks a model, also if a batch asks it again.
        self.on_begin: list[Callable[[Record, Cancel], None]] = []
        self.on_end: list[OnFinished] = []
        self._running: set[Record] = set()
        self._finished: list[Finished] = []  # not added up yet
        self._lock = native_lock()  # for contents, history and metrics
        self._metrics = Metrics() if metrics else None
        self._contents = Contents()
        self._history = History(time.time, stores=stores)
        self._end: Reason | None = None  # why every request ends, once the gateway stops

    @property
    def running(self) -> int:
        return len(self._running)

    def running_requests(self) -> list[Record]:
        return sorted(self._running.copy(), key=attrgetter("began"))

    def begin(self, record: Record, cancel: Cancel) -> None:
        """Count the request as one that runs on a model until it is finished; `cancel` ends it."""
        record.asks_model = True
        record.cancel = cancel
        if record.wants_decision:
            record.decision = self.decision
        for call in self.on_begin:
            call(record, cancel)
        self._running.add(record)
        if self._end is not None:
            cancel.cancel(self._end)

    def end_all(self, reason: Reason) -> None:
        """End all running requests, and those that begin from now on."""
        self._end = reason
        for record in self._running.copy():
            if record.cancel is not None:
                record.cancel.cancel(reason)

    def running_keys(self) -> set[str]:
        """The keys of the running requests."""
        return {record.key for record in self._running.copy() if record.key}

    def end(self, key: str, reason: Reason) -> None:
        """End the running requests of a key."""
        for record in self._running.copy():
            if record.key == key and record.cancel is not None:
                record.cancel.cancel(reason)

    def finish(self, record: Record) -> None:
        """Finish a request, whatever its outcome. A second call does nothing."""
        if record.over:
            return
        record.over = True
        record.stop()
        try:
            self._count(record, time.perf_counter() - record.began)
        finally:
            # Behind its row and its line: a stop waits for the requests that run, and no longer.
            self._running.discard(record)

    def _count(self, record: Record, took: float) -> None:
        info, asks_model, ended = record.info, record.asks_model, time.time()
        if asks_model:
            _tell(self.on_end, record, took)
        if info.outcome == NoIdleSlot.code:
            return  # a line of a batch, which is asked again
        route = record.route or OTHER
        self._finished.append(Finished(ended, route, record.status, took, info, asks_model))
        if asks_model:
            _tell(self.on_finished, record, took)
        if len(self._finished) >= AT_ONCE:
            with self._lock:
                self._add_up()
        if record.quiet and record.status < 500 and not access.isEnabledFor(logging.DEBUG):
            return
        if access.isEnabledFor(logging.INFO):
            write(record, took, int(ended))

    def counts(self) -> Metrics:
        """Return the counts for `/metrics`. Requires metrics to be enabled."""
        assert self._metrics is not None
        with self._lock:
            self._add_up()
            models = Counter(record.info.model for record in self._running.copy())
            return self._metrics.counts(models)

    def samples(self, since: float = 0.0) -> dict[int, Counts]:
        """Return the counts of the last hour, or since that time; see History."""
        with self._lock:
            self._add_up()
            return self._history.samples(since)

    def tenures(self, since: float) -> list[Tenure]:
        """Return what was in slots at that time or later."""
        with self._lock:
            self._add_up()
            return [*self._contents.tenures(since)]

    def unstored(self) -> dict[int, Counts]:
        """Return the counts that have not been returned yet, by the span in seconds."""
        with self._lock:
            self._add_up()
            counts, self._history.unstored = self._history.unstored, {}
            return counts or {}

    def _add_up(self) -> None:
        rows = self._finished[:]
        del self._finished[: len(rows)]
        for row in rows:
            self._contents.add(row)
        self._history.add([row for row in rows if row.asks_model])
        if self._metrics is not None:
            self._metrics.add(rows)
