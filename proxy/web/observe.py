"""What is told of every request: one line in the log, headers, and metrics.

No text of a prompt or an answer, and no key, is ever among it.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

import msgspec

from ..gateway import Info
from ..locks import brief
from .disconnect import Stop, nothing
from .ended import Ended, ended
from .history import History, Sample
from .metrics import Counts, Metrics

access = logging.getLogger("slotproxy.access")

RECORD = "slotproxy.record"  # in environ
NOSNIFF = ("X-Content-Type-Options", "nosniff")
AT_ONCE = 64  # requests that are added up together
MOST_WARNINGS = 16  # headers: clients refuse an answer of a hundred, proxies one of some kB
_ID = re.compile(r"[\x21-\x7e]{1,128}")


def new_id() -> str:
    """32 hexadecimal digits that nobody can guess. (uuid4 says the same in five times the time.)"""
    return os.urandom(16).hex()


class Record:
    """One request, from its first line to its last byte. `route` is the rule that took it, "" for
    none; `stop` ends what was begun for as long as it lasts; `begun`: it asks a model, and whoever
    told the observer so also tells its end; `quiet`: it leaves a line only where it is refused."""

    __slots__ = (
        "began",
        "begun",
        "id",
        "info",
        "key",
        "method",
        "over",
        "path",
        "peer",
        "quiet",
        "route",
        "status",
        "stop",
        "stream",
    )

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self.began = time.perf_counter()
        sent = environ.get("HTTP_X_REQUEST_ID")
        self.id = sent if sent and _ID.fullmatch(sent) else new_id()
        self.path = environ.get("PATH_INFO", "")
        self.method = environ.get("REQUEST_METHOD", "")
        self.peer = environ.get("REMOTE_ADDR", "")
        self.route = self.key = ""
        self.info = Info()
        self.status = 0
        self.stop: Stop = nothing
        self.stream = self.begun = self.over = self.quiet = False

    @classmethod
    def of(cls, environ: MutableMapping[str, Any]) -> Record:
        """That of the current request."""
        known = environ.get(RECORD)
        if known is None:
            known = environ[RECORD] = cls(environ)
        found: Record = known
        return found

    def elapsed(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self.began

    def headers(self) -> list[tuple[str, str]]:
        """x-request-id, the time it took so far, and what of it was ours, in milliseconds."""
        info = self.info
        took = self.elapsed()
        upstream = info.driven + info.queue_wait
        headers = [
            ("x-request-id", self.id),
            ("openai-processing-ms", str(round(1000 * took))),
            ("x-slotproxy-overhead-ms", f"{max(0.0, 1000 * (took - upstream)):.2f}"),
            NOSNIFF,
        ]
        if info.first_place:
            headers += [
                ("x-slotproxy-queue", str(info.first_place)),
                ("x-slotproxy-queue-ms", str(round(1000 * info.queue_wait))),
            ]
        if info.warnings:
            told = list(info.warnings[:MOST_WARNINGS])
            if more := len(info.warnings) - len(told):
                told.append(f"{more} more warnings are not shown")
            headers += [("x-slotproxy-warning", warning) for warning in told]
        return headers


class Observer:
    """Counts finished requests and writes their lines.

    There is no lock for a request: to a list and a set is added whole, and a row that comes while
    others are added up stays behind them."""

    def __init__(self, *, metrics: bool) -> None:
        self._running: set[Record] = set()
        self._ended: list[Ended] = []  # not yet in the books
        self._others: list[Ended] = []  # that asked no model: they are in the metrics alone
        self._lock = brief()  # of the books
        self._metrics = Metrics() if metrics else None
        self._history = History(time.time)

    @property
    def running(self) -> int:
        """Requests in the making."""
        return len(self._running)

    def begin(self, record: Record) -> None:
        """It asks a model. Whoever says so also says when it is over."""
        record.begun = True
        self._running.add(record)

    def end(self, record: Record) -> None:
        """The request is over, whichever way. A second time does nothing."""
        if record.over:
            return
        record.over = True
        record.stop()
        took = record.elapsed()
        self._running.discard(record)
        rows = self._ended if record.begun else self._others
        rows.append(ended(record, took, time.time()))
        if len(rows) >= AT_ONCE:
            with self._lock:
                self._add_up()
        if record.quiet and record.status < 400:
            return
        if access.isEnabledFor(logging.INFO):
            tell(line(record, took))

    def counts(self) -> Counts:
        """What `/metrics` tells, where there are metrics."""
        assert self._metrics is not None
        with self._lock:
            self._add_up()
            return self._metrics.counts(self.running)

    def samples(self, since: float = 0.0) -> list[Sample]:
        """What the last hour was like, or the time since then; see History."""
        with self._lock:
            self._add_up()
            return self._history.samples(since)

    def _add_up(self) -> None:
        rows = self._ended[:]
        del self._ended[: len(rows)]
        others = self._others[:]
        del self._others[: len(others)]
        if rows:
            self._history.add(rows)
        if self._metrics is not None and (rows or others):
            self._metrics.add(rows + others)


class Lines(logging.StreamHandler[Any]):
    """Where our log goes unless somebody has other plans: standard error, messages as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))


def tell(text: str) -> None:
    """A line of the access log. Where `Lines` are all there is, it is written to them at once: as a
    record it takes ten times as long."""
    handlers = logging.root.handlers
    if len(handlers) == 1 and type(handlers[0]) is Lines and not access.handlers:
        stream = handlers[0].stream
        try:  # suppress() takes longer than all of this
            stream.write(f"{text}\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # nobody listens: no reason to fail
    else:
        access.info("%s", text)


def line(record: Record, took: float) -> str:
    """The line of a request as JSON, which took so many seconds; times in milliseconds, to a
    tenth."""
    info = record.info
    usage = info.usage
    return _encode(
        _Line(
            record.id,
            record.peer,
            record.method[:20],
            record.path[:200],
            record.status,
            record.key,
            info.model,
            info.backend,
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
        )
    ).decode()


class _Line(msgspec.Struct):
    id: str
    peer: str
    method: str
    path: str
    status: int
    key: str
    model: str
    backend: str
    slot: int
    stream: bool
    queue_ms: float
    ttft_ms: float
    ms: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    continued: int
    outcome: str


_encode = msgspec.json.Encoder().encode
