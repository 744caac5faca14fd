"""Summaries of finished requests, for metrics and history.

Summaries are added up by the dozen, at a fraction of the cost of adding each by itself. Those that
nobody waits for are added up when there is time.
"""

from __future__ import annotations

from operator import attrgetter

from msgspec import Struct

from ...core.usage import Usage
from .record import Record

OTHER = "other"  # requests that match no route


class Summary(Struct, frozen=True, kw_only=True, gc=False):
    """`second` is when the request ended; `backend` is "" if there was none. Times are seconds, 0
    if unknown: `first_token` and `last_token` since the request arrived, `took` until its last
    byte, `evaluating` and `writing` the backend's own work on the prompt and on tokens. `longest`
    is the size of the longest sequence in tokens. For `kinds` see `Info`."""

    second: int
    backend: str
    route: str
    status: int
    outcome: str
    usage: Usage
    queue_wait: float
    first_token: float
    last_token: float
    took: float
    evaluating: float
    writing: float
    longest: int
    kinds: tuple[str, ...] = ()


backend_of = attrgetter("backend")


def summarize(record: Record, took: float, at: float) -> Summary:
    """Summarize a request that took so many seconds and ended at the time `at` of the clock."""
    info = record.info
    return Summary(
        second=int(at),
        backend=info.backend,
        route=record.route or OTHER,
        status=record.status,
        outcome=info.outcome,
        usage=info.usage,
        queue_wait=info.queue_wait,
        first_token=info.first_token,
        last_token=info.last_token,
        took=took,
        evaluating=info.evaluating,
        writing=info.writing,
        longest=info.longest,
        kinds=info.kinds,
    )
