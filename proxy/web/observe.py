"""What is told of every request: one line in the log, headers, and metrics.

No text of a prompt or an answer, and no key, is ever among it.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from ..gateway import Info
from .history import History
from .metrics import Counts, Metrics

access = logging.getLogger("slotproxy.access")

_ID = re.compile(r"[\x21-\x7e]{1,128}")


def new_id() -> str:
    """32 hexadecimal digits that nobody can guess. (uuid4 says the same in five times the time.)"""
    return os.urandom(16).hex()


class Record:
    """One request, from its first line to its last byte."""

    __slots__ = ("began", "id", "info", "key", "path", "status", "stream")

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self.began = time.perf_counter()
        sent = environ.get("HTTP_X_REQUEST_ID")
        self.id = sent if sent and _ID.fullmatch(sent) else new_id()
        self.path = environ.get("PATH_INFO", "")
        self.key = ""
        self.info = Info()
        self.status = 0
        self.stream = False

    def elapsed(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self.began

    def headers(self) -> list[tuple[str, str]]:
        """x-request-id, the time it took so far, and what of it was ours, in milliseconds."""
        took = self.elapsed()
        info = self.info
        upstream = info.driven + info.queue_wait
        headers = [
            ("x-request-id", self.id),
            ("openai-processing-ms", str(round(1000 * took))),
            ("x-slotproxy-overhead-ms", f"{max(0.0, 1000 * (took - upstream)):.2f}"),
        ]
        if info.first_place:
            headers += [
                ("x-slotproxy-queue", str(info.first_place)),
                ("x-slotproxy-queue-ms", str(round(1000 * info.queue_wait))),
            ]
        if info.warnings:
            headers += [("x-slotproxy-warning", warning) for warning in info.warnings]
        return headers


class Observer:
    """Counts finished requests and writes their lines. `history` is what the last hour was like."""

    def __init__(self, *, metrics: bool) -> None:
        self._metrics = Metrics() if metrics else None
        self.history = History(time.time)

    def begin(self, record: Record) -> None:
        self.history.begin()

    def end(self, record: Record) -> None:
        """The request is over, whichever way."""
        took = record.elapsed()
        self.history.end(record)
        if self._metrics is not None:
            self._metrics.end(record, took)
        if access.isEnabledFor(logging.INFO):
            tell(line(record, took))

    def counts(self) -> Counts:
        """What `/metrics` tells, where there are metrics."""
        assert self._metrics is not None
        return self._metrics.counts(self.history.running)


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
    return msgspec.json.encode(
        {
            "id": record.id,
            "path": record.path[:200],
            "status": record.status,
            "key": record.key,
            "model": info.model,
            "backend": info.backend,
            "slot": info.slot,
            "stream": record.stream,
            "queue_ms": round(10000 * info.queue_wait) / 10,
            "ttft_ms": round(10000 * info.first_token) / 10,
            "ms": round(10000 * took) / 10,
            "prompt_tokens": usage.prompt,
            "cached_tokens": usage.cached,
            "completion_tokens": usage.completion,
            "continued": info.continued,
            "outcome": info.outcome,
        }
    ).decode()
