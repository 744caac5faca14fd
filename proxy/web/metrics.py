"""Prometheus metrics: plain counts while requests run, families only when somebody asks.

A request changes about ten numbers. prometheus_client's objects take a lock and a look-up for each;
here they are fields of one record a backend, changed for some dozens of requests at once, and
become its families when somebody asks (`exposition`). The names are vLLM's where vLLM has one,
since dashboards know them, and our own prefix for what only a gateway has.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby

from msgspec import Struct

from .ended import OTHER, Ended, backend_of

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

MOST_SERIES = 2048  # of requests: routes times outcomes are some hundreds

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
        self.bounds = tuple(map(float, bounds))  # to compare a float with an int takes longer
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


class Work(Struct, frozen=True):
    """What backends have done: tokens of prompts, those of them from the cache, tokens written;
    seconds of work on prompts and on tokens; tokens of the longest sequence."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    evaluating: float = 0.0
    writing: float = 0.0
    longest: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
            self.evaluating + other.evaluating,
            self.writing + other.writing,
            max(self.longest, other.longest),
        )


class _Backend:
    """What one backend has done so far."""

    __slots__ = ("histograms", "work")

    def __init__(self) -> None:
        self.work = Work()
        self.histograms = [_Histogram(bounds) for _, _, bounds in HISTOGRAMS]

    def add(self, rows: Iterable[Ended]) -> None:
        columns = zip(*rows, strict=True)
        _, _, _, _, _, prompt, cached, written, queue, first, last, took, *own = columns
        evaluating, writing, longest = own
        self.work += Work(
            sum(prompt), sum(cached), sum(written), sum(evaluating), sum(writing), max(longest)
        )
        answers = zip(written, first, last, strict=True)
        between = [(end - begin) / (tokens - 1) for tokens, begin, end in answers if tokens > 1]
        to_first, to_next, latency, waiting = self.histograms
        to_first.add([seconds for seconds in first if seconds])
        to_next.add(between)
        latency.add(took)
        waiting.add(queue)


class Counts(Struct, frozen=True):
    """What was counted so far: `requests` by route and outcome; of each backend its tokens, in
    the order of COUNTERS, and buckets and sum of each of HISTOGRAMS. `work` is that of all backends
    so far, `before` what it was when somebody asked last."""

    running: int
    requests: dict[tuple[str, str], int]
    backends: dict[str, tuple[tuple[int, int, int], list[tuple[list[tuple[str, float]], float]]]]
    work: Work = Work()
    before: Work = Work()


class Metrics:
    """Counts requests. For one thread at a time."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str]] = Counter()
        self._backends: dict[str, _Backend] = {}
        self._before = Work()

    def add(self, rows: Sequence[Ended]) -> None:
        """These requests are over."""
        _, _, paths, statuses, outcomes, *_ = zip(*rows, strict=True)
        alike = Counter(zip(paths, statuses, outcomes, strict=True))
        for (path, status, outcome), count in alike.items():
            key = path, outcome or str(status)
            if key not in self._requests and len(self._requests) >= MOST_SERIES:
                key = OTHER, OTHER
            self._requests[key] += count
        for name, some in groupby(sorted(rows, key=backend_of), backend_of):
            if name:
                backend = self._backends.get(name)
                if backend is None:
                    backend = self._backends[name] = _Backend()
                backend.add(some)

    def counts(self, running: int) -> Counts:
        backends = {
            name: (
                (one.work.prompt, one.work.cached, one.work.completion),
                [(h.buckets(), h.sum) for h in one.histograms],
            )
            for name, one in self._backends.items()
        }
        before = self._before
        self._before = work = sum((one.work for one in self._backends.values()), Work())
        return Counts(running, dict(self._requests), backends, work, before)
