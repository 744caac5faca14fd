"""Prometheus metrics: plain counts while requests run, families only when somebody asks.

A request changes about ten numbers. prometheus_client's objects take a lock and a look-up for each;
here they are fields of one record a backend, under one lock, and become its families when somebody
asks (`exposition`). The names are vLLM's where vLLM has one, since dashboards know them, and our
own prefix for what only a gateway has.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from msgspec import Struct

from ..locks import brief

if TYPE_CHECKING:
    from .observe import Record

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

COUNTERS = (
    ("vllm:prompt_tokens", "Prompt tokens"),
    ("vllm:prefix_cache_hits", "Prompt tokens not evaluated again"),
    ("vllm:generation_tokens", "Tokens generated"),
)
HISTOGRAMS = (
    ("vllm:time_to_first_token_seconds", "From the request to its first token", SECONDS),
    (
        "vllm:inter_token_latency_seconds",
        "Mean time between the tokens of an answer",
        TOKEN_SECONDS,
    ),
    ("vllm:e2e_request_latency_seconds", "From the request to its last byte", SECONDS),
    ("slotproxy:queue_wait_seconds", "Time in the admission queue", SECONDS),
)


class _Histogram:
    """How many values lie between two bounds, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return list(zip(names, accumulate(map(float, self.counts)), strict=True))


class _Backend:
    """What one backend has done so far."""

    __slots__ = ("cached", "completion", "histograms", "prompt")

    def __init__(self) -> None:
        self.prompt = self.cached = self.completion = 0
        self.histograms = [_Histogram(bounds) for _, _, bounds in HISTOGRAMS]


class Counts(Struct, frozen=True):
    """What was counted so far: `requests` by path and outcome; of each backend its tokens, in the
    order of COUNTERS, and buckets and sum of each of HISTOGRAMS."""

    running: int
    requests: dict[tuple[str, str], int]
    backends: dict[str, tuple[tuple[int, int, int], list[tuple[list[tuple[str, float]], float]]]]


class Metrics:
    """Counts requests."""

    def __init__(self) -> None:
        self._lock = brief()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._backends: dict[str, _Backend] = {}

    def end(self, record: Record, took: float) -> None:
        """A request is over, after so many seconds."""
        info = record.info
        path = record.path if record.status != 404 else "other"
        key = path, info.outcome or str(record.status)
        usage = info.usage
        with self._lock:
            self._requests[key] += 1
            if not info.backend:
                return
            backend = self._backends.get(info.backend)
            if backend is None:
                backend = self._backends[info.backend] = _Backend()
            backend.prompt += usage.prompt
            backend.cached += usage.cached
            backend.completion += usage.completion
            first, between, latency, queue = backend.histograms
            latency.add(took)
            queue.add(info.queue_wait)
            if info.first_token:
                first.add(info.first_token)
            if usage.completion > 1:
                between.add((info.last_token - info.first_token) / (usage.completion - 1))

    def counts(self, running: int) -> Counts:
        with self._lock:
            backends = {
                name: (
                    (one.prompt, one.cached, one.completion),
                    [(h.buckets(), h.sum) for h in one.histograms],
                )
                for name, one in self._backends.items()
            }
            return Counts(running, dict(self._requests), backends)
