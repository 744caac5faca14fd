"""The record of one request: its id, caller and outcome, and the response headers with them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ...accounts.limiting.allowance import Allowance, State
from ...gateway import Chosen, Info
from ...runtime.cancel import Cancel
from ..disconnect import Stop, nothing

# Headers that tell what is left of the limits of a key.
#
# OpenAI's form, and for /v1/messages Anthropic's: https://platform.openai.com/docs/guides/rate-
# limits and https://docs.anthropic.com/en/api/rate-limits
MESSAGES = "/v1/messages"
_NAMES = {"requests": "requests", "tokens": "tokens", "prompt_tokens": "input-tokens"}
_FIELDS = ("limit", "remaining", "reset")
_OPENAI = {
    quantity: [f"x-ratelimit-{field}-{name}" for field in _FIELDS]
    for quantity, name in _NAMES.items()
}
_ANTHROPIC = {
    quantity: [f"anthropic-ratelimit-{name}-{field}" for field in _FIELDS]
    for quantity, name in _NAMES.items()
}


def limit_headers(states: Sequence[State], route: str, now: float) -> list[tuple[str, str]]:
    """`route` is that of the request, `now` the time in seconds since 1970."""
    anthropic = route.endswith(MESSAGES)
    headers = []
    for state in states:
        limit, remaining, reset = (_ANTHROPIC if anthropic else _OPENAI)[state.quantity]
        if anthropic:  # such as 2026-01-02T03:04:05Z
            at = datetime.fromtimestamp(now + state.reset, UTC).isoformat(timespec="seconds")
            until = at.replace("+00:00", "Z")
        else:
            until = duration(state.reset)
        headers += [(limit, str(state.limit)), (remaining, str(state.remaining)), (reset, until)]
    return headers


def duration(seconds: float) -> str:
    """A time as OpenAI writes it, such as 6m0s, 1.5s or 20ms."""
    if seconds < 1:
        return f"{round(1000 * seconds)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    if not minutes:
        return f"{rest:g}s"
    hours, minutes = divmod(int(minutes), 60)
    return (f"{hours}h" if hours else "") + f"{minutes}m{rest:.0f}s"


def may_capture(value: object) -> bool:
    """Whether a request allows its capture: what is not clearly yes is no."""
    return str(value).strip().lower() in ("true", "on", "yes", "1")


RECORD = "slotproxy.record"  # key in environ
CAPTURE = "slotproxy.capture"  # key in environ of what is captured of the request
NOSNIFF = ("X-Content-Type-Options", "nosniff")
# Headers; clients refuse responses with a hundred headers, proxies those with some kB.
MOST_WARNINGS = 16
_ID = re.compile(r"[\x21-\x7e]{1,128}")


def new_id() -> str:
    """Return 32 random hexadecimal digits. (uuid4 is as random but takes five times as long.)"""
    return os.urandom(16).hex()


class Record:
    """One request, until its last byte is sent. `key`, `user` and `team` identify its caller, and
    `alias` is the key's name for people, "" if it has none; `tags` are those of its client.
    `route` is the matched rule. `stop` ends the watch for disconnects, `cancel` a request that asks
    a model. `quiet`: only a 5xx is logged. `warnings` are about its body, before it was parsed.
    `chosen` is the model that a route's rules chose. Without `shown`, the name of a backend as the
    caller may see it, no header names one."""

    route = key = alias = user = team = tags = ""
    allowance: Allowance | None = None
    status = 0
    cancel: Cancel | None = None
    stop: Stop = staticmethod(nothing)
    shown: Callable[[str], str] | None = None
    decision: Callable[[Record], str] | None = None  # for a header, if the client wants that
    warnings: tuple[str, ...] = ()
    chosen: Chosen | None = None
    trace = "", ""  # the client's, in its `traceparent` and `tracestate`
    stream = asks_model = over = quiet = False

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self.began = time.perf_counter()
        sent = environ.get("HTTP_X_REQUEST_ID")
        self.id = sent if sent and _ID.fullmatch(sent) else os.urandom(16).hex()
        self.path = environ.get("PATH_INFO", "")
        self.method = environ.get("REQUEST_METHOD", "")
        self.peer = environ.get("REMOTE_ADDR", "")
        self.agent = environ.get("HTTP_USER_AGENT", "")
        self.wants_decision = environ.get("HTTP_X_SLOTPROXY_EXPLAIN") == "1"
        self.capture: Any = environ.get(CAPTURE)
        self.info = Info()
        if sent := environ.get("HTTP_TRACEPARENT"):
            self.trace = sent[:64], environ.get("HTTP_TRACESTATE", "")[:512]

    @classmethod
    def of(cls, environ: MutableMapping[str, Any]) -> Record:
        stored = environ.get(RECORD)
        if stored is None:
            stored = environ[RECORD] = cls(environ)
        record: Record = stored
        return record

    def elapsed(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self.began

    def headers(self) -> list[tuple[str, str]]:
        """Return x-request-id, the time so far, and the gateway's share of it, in milliseconds."""
        info = self.info
        took = time.perf_counter() - self.began
        upstream = max(0.0, info.last_token - info.placed) + info.forwarding + info.queue_wait
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
        if self.chosen is not None:
            headers.append(("x-slotproxy-model", _visible(self.chosen.model)))
        if info.compacted:
            headers.append(("x-slotproxy-compacted", str(info.compacted)))
        if info.backend and self.shown is not None:
            headers.append(("x-slotproxy-backend", _visible(self.shown(info.backend))))
            if info.passed:
                passed = [f"{_visible(self.shown(name))} {why}" for name, why in info.passed]
                headers.append(("x-slotproxy-fallback", ", ".join(passed)))
            if self.decision is not None and info.placement is not None:
                headers.append(("x-slotproxy-decision", self.decision(self)))
        messages, allowance = self.warnings + info.warnings, self.allowance
        if allowance is not None:
            messages = (*allowance.warnings, *messages)
        if messages:
            if (more := len(messages) - MOST_WARNINGS) > 0:
                messages = (*messages[:MOST_WARNINGS], f"{more} more warnings omitted")
            headers += [("x-slotproxy-warning", _visible(warning)) for warning in messages]
        if allowance is not None:
            headers += limit_headers(allowance.states, self.route, time.time())
        return headers


@lru_cache
def _visible(name: str) -> str:
    """A name of the settings file, or a warning with one, as a header can have it."""
    return name if name.isascii() and name.isprintable() else ascii(name)[1:-1]
