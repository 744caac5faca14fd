"""Counters behind /metrics: plain numbers, converted to Prometheus metrics on request.

A request changes about ten numbers. Each of prometheus_client's objects would need a lock and a
lookup for that. Here, each backend has one record, updated for dozens of requests together, and
`prometheus` converts it on request. Metrics have vLLM's names where vLLM has them, since dashboards
know those; gateway metrics have our own prefix.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby

from msgspec import Struct

from .history import backend_of
from .record import OTHER, Summary

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

MOST_SERIES = 2048  # request series; routes times outcomes give some hundreds

COUNTERS = (
    ("vllm:prompt_tokens", "Prompt tokens"),
    ("vllm:prefix_cache_hits", "Prompt tokens served from the cache"),
    ("vllm:generation_tokens", "Tokens generated"),
)
HISTOGRAMS = (
    ("vllm:time_to_first_token_seconds", "Time from the request to its first token", SECONDS),
    (
        "vllm:inter_token_latency_seconds",
        "Mean time between output tokens",
        TOKEN_SECONDS,
    ),
    ("vllm:e2e_request_latency_seconds", "Time from the request to its last byte", SECONDS),
    ("slotproxy:queue_wait_seconds", "Time in the admission queue", SECONDS),
)


class _Histogram:
    """Counts values between bounds, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(map(float, bounds))  # comparing a float with an int is slower
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, values: Sequence[float]) -> None:
        bounds, counts = self.bounds, self.counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self.sum += sum(values)

    def buckets(self) -> list[tuple[str, float]]:
        names = [*(str(bound) for bound in self.bounds), "+Inf"]
        return list(zip(names, accumulate(map(float, self.counts)), strict=True))


class Work(Struct, frozen=True, kw_only=True):
    """Work done by backends: tokens of prompts, cached ones among them, tokens written, seconds
    spent on prompts and on tokens, and the tokens of the longest sequence."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    evaluating: float = 0.0
    writing: float = 0.0
    longest: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            prompt=self.prompt + other.prompt,
            cached=self.cached + other.cached,
            completion=self.completion + other.completion,
            evaluating=self.evaluating + other.evaluating,
            writing=self.writing + other.writing,
            longest=max(self.longest, other.longest),
        )


class _Backend:
    """The counts of one backend."""

    __slots__ = ("histograms", "work")

    def __init__(self) -> None:
        self.work = Work()
        self.histograms = [_Histogram(bounds) for _, _, bounds in HISTOGRAMS]

    def add(self, rows: Sequence[Summary]) -> None:
        self.work += Work(
            prompt=sum(row.usage.prompt for row in rows),
            cached=sum(row.usage.cached for row in rows),
            completion=sum(row.usage.completion for row in rows),
            evaluating=sum(row.evaluating for row in rows),
            writing=sum(row.writing for row in rows),
            longest=max(row.longest for row in rows),
        )
        to_first, to_next, latency, waiting = self.histograms
        to_first.add([row.first_token for row in rows if row.first_token])
        to_next.add(
            [
                (row.last_token - row.first_token) / (row.usage.completion - 1)
                for row in rows
                if row.usage.completion > 1
            ]
        )
        latency.add([row.took for row in rows])
        waiting.add([row.queue_wait for row in rows])


class Counts(Struct, frozen=True):
    """All counts so far: `requests` by route and outcome; for each backend, its tokens in the order
    of COUNTERS, and the buckets and sum of each of HISTOGRAMS. `work` is the total over all
    backends, `before` its value when the metrics were last read. `kinds` counts the requests whose
    prompt the backend rendered, by backend and kind of conversation."""

    running: int
    requests: dict[tuple[str, str], int]
    backends: dict[str, tuple[tuple[int, int, int], list[tuple[list[tuple[str, float]], float]]]]
    work: Work = Work()
    before: Work = Work()
    kinds: Mapping[tuple[str, str], int] = {}


class Metrics:
    """Counts requests. Not thread-safe."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str]] = Counter()
        self._backends: dict[str, _Backend] = {}
        self._kinds: Counter[tuple[str, str]] = Counter()
        self._before = Work()

    def add(self, rows: Sequence[Summary]) -> None:
        """Add finished requests."""
        alike = Counter((row.route, row.status, row.outcome) for row in rows)
        for (path, status, outcome), count in alike.items():
            key = path, outcome or str(status)
            if key not in self._requests and len(self._requests) >= MOST_SERIES:
                key = OTHER, OTHER
            self._requests[key] += count
        self._kinds.update((row.backend, kind) for row in rows for kind in row.kinds)
        for name, some in groupby(sorted(rows, key=backend_of), backend_of):
            if name:
                backend = self._backends.get(name)
                if backend is None:
                    backend = self._backends[name] = _Backend()
                backend.add(list(some))

    def counts(self, running: int) -> Counts:
        backends = {
            name: (
                (counts.work.prompt, counts.work.cached, counts.work.completion),
                [(h.buckets(), h.sum) for h in counts.histograms],
            )
            for name, counts in self._backends.items()
        }
        before = self._before
        self._before = work = sum((counts.work for counts in self._backends.values()), Work())
        return Counts(running, dict(self._requests), backends, work, before, dict(self._kinds))
