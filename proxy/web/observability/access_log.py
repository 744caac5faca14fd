"""The access log: one line of JSON per request."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from ...accounts.key_text import without_keys
from .record import Record

access = logging.getLogger("slotproxy.access")
_encode = msgspec.json.Encoder().encode


class Lines(logging.StreamHandler[Any]):
    """The default log handler: writes messages unformatted to standard error."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))


def write(text: str) -> None:
    """Write a line to the access log. If `Lines` is the only handler, the line is written directly:
    through a log record it would take ten times as long."""
    handlers = logging.root.handlers
    if len(handlers) == 1 and type(handlers[0]) is Lines and not access.handlers:
        stream = handlers[0].stream
        try:  # suppress() would take longer than the whole function
            stream.write(f"{text}\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # standard error is closed
    else:
        access.info("%s", text)


def line(record: Record, took: float) -> str:
    """Return the log line of a request that took so many seconds, as JSON. Its times are in
    milliseconds, rounded to a tenth."""
    info = record.info
    usage = info.usage
    values = {
        "id": record.id,
        "peer": record.peer,
        "method": record.method[:20],
        "path": without_keys(record.path)[:200],
        "status": record.status,
        "key": record.key,
        "model": info.model,
        "backend": info.backend,
        "tier": info.tier,
        "fallback": ", ".join(f"{name} {why}" for name, why in info.passed),
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
    return _encode(values).decode()
