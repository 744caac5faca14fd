"""Counters behind /metrics: plain numbers, added up for dozens of requests together, and converted
by `prometheus` on request. Metrics have vLLM's names where vLLM has them, since dashboards know
those; gateway metrics have our own prefix.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from copy import deepcopy
from itertools import accumulate

from msgspec import Struct

from ...gateway import Info
from .history import OTHER, Finished

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
    ("vllm:inter_token_latency_seconds", "Mean time between output tokens", TOKEN_SECONDS),
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


class Work(Struct, kw_only=True):
    """Tokens and seconds of backends' work, and the tokens of the longest sequence."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    evaluating: float = 0.0
    writing: float = 0.0
    longest: int = 0

    def add(self, infos: Iterable[Info]) -> None:
        for info in infos:
            self.prompt += info.usage.prompt
            self.cached += info.usage.cached
            self.completion += info.usage.completion
            self.evaluating += info.evaluating
            self.writing += info.writing
            self.longest = max(self.longest, info.longest)


class _Backend:
    """The counts of one backend."""

    __slots__ = ("histograms", "tokens")

    def __init__(self) -> None:
        self.tokens = [0 for _ in COUNTERS]
        self.histograms = [_Histogram(bounds) for _, _, bounds in HISTOGRAMS]

    def add(self, rows: Sequence[Finished]) -> None:
        infos = [row.info for row in rows]
        usages = [info.usage for info in infos]
        self.tokens[0] += sum(usage.prompt for usage in usages)
        self.tokens[1] += sum(usage.cached for usage in usages)
        self.tokens[2] += sum(usage.completion for usage in usages)
        to_first, to_next, latency, waiting = self.histograms
        to_first.add([info.first_token for info in infos if info.first_token])
        to_next.add(
            [
                (info.last_token - info.first_token) / (info.usage.completion - 1)
                for info in infos
                if info.usage.completion > 1
            ]
        )
        latency.add([row.took for row in rows])
        waiting.add([info.queue_wait for info in infos])


class Metrics:
    """Counts requests. `before` is the `work` when metrics were last read. Not thread-safe."""

    def __init__(self) -> None:
        self.running = 0
        self.requests: Counter[tuple[str, str]] = Counter()
        self.backends: defaultdict[str, _Backend] = defaultdict(_Backend)
        self.kinds: Counter[tuple[str, str]] = Counter()
        self.work = Work()
        self.before = Work()

    def add(self, rows: Sequence[Finished]) -> None:
        alike = Counter((row.route, row.info.outcome or str(row.status)) for row in rows)
        for key, count in alike.items():
            if key not in self.requests and len(self.requests) >= MOST_SERIES:
                key = OTHER, OTHER
            self.requests[key] += count
        self.kinds.update((row.info.backend, kind) for row in rows for kind in row.info.kinds)
        by_backend: defaultdict[str, list[Finished]] = defaultdict(list)
        for row in rows:
            if row.info.backend:
                by_backend[row.info.backend].append(row)
        for name, some in by_backend.items():
            self.work.add(row.info for row in some)
            self.backends[name].add(some)

    def counts(self, running: int) -> Metrics:
        """A copy of all counts so far."""
        now = deepcopy(self)
        now.running = running
        self.before = now.work
        return now
