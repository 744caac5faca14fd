"""The record of one request: its id, caller and outcome, and the response headers with them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from ...accounts.limiting.allowance import Allowance
from ...gateway import Info
from ...runtime.cancel import Cancel
from ..disconnect import Stop, nothing
from .limit_headers import limit_headers

RECORD = "slotproxy.record"  # key in environ
NOSNIFF = ("X-Content-Type-Options", "nosniff")
# Headers; clients refuse responses with a hundred headers, proxies those with some kB.
MOST_WARNINGS = 16
_ID = re.compile(r"[\x21-\x7e]{1,128}")


def new_id() -> str:
    """Return 32 random hexadecimal digits. (uuid4 is as random but takes five times as long.)"""
    return os.urandom(16).hex()


class Record:
    """One request, until its last byte is sent. `key`, `user` and `team` identify its caller, "" if
    unknown. `route` is the matched rule, or "". `stop` ends the watch for disconnects.
    `cancel` ends a request that asks a model. `outlives_key`: it goes on when its key is no longer
    accepted.
    `asks_model`: the request counts as running and appears in the history. `quiet`: it is logged
    only if it is refused. `agent` is the User-Agent header. `allowance` is what is left of the
    caller's limits, None without limits. `warnings` are about its body, before it was parsed.
    `shown` returns the name of a backend as the caller may see it; without it, no header names a
    backend."""

    __slots__ = (
        "agent",
        "allowance",
        "asks_model",
        "began",
        "cancel",
        "id",
        "info",
        "key",
        "method",
        "outlives_key",
        "over",
        "path",
        "peer",
        "quiet",
        "route",
        "shown",
        "status",
        "stop",
        "stream",
        "team",
        "user",
        "warnings",
    )

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self.began = time.perf_counter()
        sent = environ.get("HTTP_X_REQUEST_ID")
        self.id = sent if sent and _ID.fullmatch(sent) else new_id()
        self.path = environ.get("PATH_INFO", "")
        self.method = environ.get("REQUEST_METHOD", "")
        self.peer = environ.get("REMOTE_ADDR", "")
        self.agent = environ.get("HTTP_USER_AGENT", "")
        self.route = self.key = self.user = self.team = ""
        self.info = Info()
        self.allowance: Allowance | None = None
        self.status = 0
        self.cancel: Cancel | None = None
        self.stop: Stop = nothing
        self.shown: Callable[[str], str] | None = None
        self.warnings: list[str] = []
        self.stream = self.asks_model = self.over = self.quiet = self.outlives_key = False

    @classmethod
    def of(cls, environ: MutableMapping[str, Any]) -> Record:
        """Return the record of the request with this environ."""
        known = environ.get(RECORD)
        if known is None:
            known = environ[RECORD] = cls(environ)
        record: Record = known
        return record

    def elapsed(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self.began

    def headers(self) -> list[tuple[str, str]]:
        """Return x-request-id, the time so far, and the gateway's share of it, in milliseconds."""
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
        if info.compacted:
            headers.append(("x-slotproxy-compacted", str(info.compacted)))
        if info.backend and self.shown is not None:
            headers.append(("x-slotproxy-backend", _visible(self.shown(info.backend))))
            if info.passed:
                passed = [f"{_visible(self.shown(name))} {why}" for name, why in info.passed]
                headers.append(("x-slotproxy-fallback", ", ".join(passed)))
        told = (*self.warnings, *info.warnings)
        if self.allowance is not None and self.allowance.warnings:
            told = (*self.allowance.warnings, *told)
        if told:
            warnings = list(told[:MOST_WARNINGS])
            if more := len(told) - len(warnings):
                warnings.append(f"{more} more warnings omitted")
            headers += [("x-slotproxy-warning", warning) for warning in warnings]
        if self.allowance is not None:
            headers += limit_headers(self.allowance.states, self.route, time.time())
        return headers


def _visible(name: str) -> str:
    """A name of the settings file as a header can have it."""
    return name if name.isascii() and name.isprintable() else ascii(name)[1:-1]
