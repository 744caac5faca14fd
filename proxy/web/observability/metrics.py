"""Counters behind /metrics, which `prometheus` converts on request. Metrics have vLLM's names where
vLLM has them, since dashboards know those. Where vLLM counts blocks of its cache, we count slots.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import accumulate, chain
from operator import add, attrgetter, sub
from typing import Any

from msgspec import Struct

from ...store.measures import tally
from .history import OTHER, Finished

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SLOT_SECONDS = (0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
TOKENS = tuple(step * 10**power for power in range(6) for step in (1, 2, 5))

MOST_SERIES = 2048  # request series; routes times outcomes give some hundreds
MOST_MODELS = 512  # pairs of a backend and a model

COUNTERS = (
    ("vllm:prompt_tokens", "Prompt tokens"),
    ("vllm:prefix_cache_hits", "Prompt tokens served from the cache"),
    ("vllm:prefix_cache_queries", "Prompt tokens looked for in the cache"),
    ("vllm:generation_tokens", "Tokens generated"),
)
HISTOGRAMS = (
    ("vllm:time_to_first_token_seconds", "Time from the request to its first token", SECONDS),
    ("vllm:inter_token_latency_seconds", "Mean time between output tokens", TOKEN_SECONDS),
    ("vllm:e2e_request_latency_seconds", "Time from the request to its last byte", SECONDS),
    ("vllm:request_queue_time_seconds", "Time in the queue", SECONDS),
    ("vllm:request_prefill_time_seconds", "Time for the prompt", SECONDS),
    ("vllm:request_decode_time_seconds", "Time from the first token to the last", SECONDS),
    ("vllm:request_inference_time_seconds", "Time for prompt and answer", SECONDS),
    ("vllm:request_prompt_tokens", "Tokens of a prompt", TOKENS),
    ("vllm:request_generation_tokens", "Tokens of an answer", TOKENS),
    ("vllm:kv_block_lifetime_seconds", "Time a slot kept what another one replaced", SLOT_SECONDS),
    ("vllm:kv_block_idle_before_evict_seconds", "Idle time before that", SLOT_SECONDS),
    ("vllm:kv_block_reuse_gap_seconds", "Time until the same content was used", SLOT_SECONDS),
)
# vLLM's reasons: it counts a call of a tool as a stop, and a client that left as an abort.
REASONS = dict.fromkeys(("stop", "tool_calls", "content_filter"), "stop") | {"length": "length"}
REASONS |= dict.fromkeys(("cancelled", "client_closed_request"), "abort")
REFUSALS = (
    *("budget_exceeded", "limits_unavailable", "no_backend", "queue_full", "queue_timeout"),
    *("quota_exceeded", "rate_limit_exceeded"),
)


# These pass requests in C: there are many, and few threads.
_info, _usage, _changes = map(attrgetter, ("info", "usage", "changes"))
_prompt, _cached, _completion = map(attrgetter, ("prompt", "cached", "completion"))
_outcome, _longest, _queue_wait = map(attrgetter, ("outcome", "longest", "queue_wait"))
_first_token, _last_token = map(attrgetter, ("first_token", "last_token"))
_evaluating, _writing = map(attrgetter, ("evaluating", "writing"))


class _Histogram:
    """Counts values between bounds, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        # Comparing a float with an int is slower.
        self.bounds = [*map(float, bounds), math.inf]
        self.counts: Counter[int] = Counter()
        self.sum = 0.0

    def add(self, values: Sequence[float]) -> None:
        self.sum += sum(values)
        for bucket, count in tally(values, self.bounds):
            self.counts[bucket] += count

    def buckets(self) -> list[tuple[str, float]]:
        names = [*map(str, self.bounds[:-1]), "+Inf"]
        counts = accumulate(float(self.counts[i]) for i in range(len(names)))
        return list(zip(names, counts, strict=True))


class Work(Struct, kw_only=True):
    """Tokens and seconds of backends' work, and the tokens of the longest sequence."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    evaluating: float = 0.0
    writing: float = 0.0
    longest: int = 0


class _Backend:
    """The counts of one model on one backend."""

    __slots__ = ("evictions", "histograms", "reasons", "tokens")

    def __init__(self) -> None:
        self.tokens = [0 for _ in COUNTERS]
        self.reasons: Counter[str] = Counter()  # of finished answers, by vLLM's names
        self.evictions: Counter[str] = Counter()
        self.histograms = [_Histogram(bounds) for _, _, bounds in HISTOGRAMS]

    def add(self, rows: Sequence[Finished], work: Work) -> None:
        infos = [*map(_info, rows)]
        usages = [*map(_usage, infos)]
        begun = [*filter(_first_token, infos)]
        prompts, answers = ([*filter(None, map(of, usages))] for of in (_prompt, _completion))
        prompt, cached, completion = sum(prompts), sum(map(_cached, usages)), sum(answers)
        self.tokens = [*map(add, self.tokens, (prompt, cached, prompt, completion))]
        work.prompt += prompt
        work.cached += cached
        work.completion += completion
        work.evaluating += sum(map(_evaluating, infos))
        work.writing += sum(map(_writing, infos))
        work.longest = max(work.longest, *map(_longest, infos))
        changes = [*chain.from_iterable(map(_changes, rows))]
        replaced = [change for change in changes if isinstance(change, tuple)]
        self.evictions.update(reason for _, _, reason in replaced)
        self.reasons.update(filter(None, map(REASONS.get, map(_outcome, infos))))
        prefills = [info.evaluating or max(0.0, info.first_token - info.placed) for info in begun]
        decodes = [*map(sub, map(_last_token, begun), map(_first_token, begun))]
        between = [
            (info.last_token - info.first_token) / (info.usage.completion - 1)
            for info in infos
            if info.usage.completion > 1
        ]
        values: list[Sequence[Any]] = [[*map(_first_token, begun)], between]
        values += [[row.took for row in rows], [*map(_queue_wait, infos)], prefills, decodes]
        values += [[*map(add, prefills, decodes)], prompts, answers]
        values += ([change[i] for change in replaced] for i in (0, 1))
        values.append([change for change in changes if isinstance(change, float)])
        for histogram, measured in zip(self.histograms, values, strict=True):
            histogram.add(measured)


class Metrics:
    """Counts requests. `running` are those in progress, by model; `backends` are the counts of a
    backend and a model; `before` is the `work` when metrics were last read. Not thread-safe."""

    def __init__(self) -> None:
        self.running: Mapping[str, int] = {}
        self.requests: Counter[tuple[str, str]] = Counter()
        self.backends: defaultdict[tuple[str, str], _Backend] = defaultdict(_Backend)
        self.kinds: Counter[tuple[str, str]] = Counter()
        self.work = Work()
        self.before = Work()

    def add(self, rows: Sequence[Finished]) -> None:
        alike = Counter([(row.route, row.info.outcome or str(row.status)) for row in rows])
        for key, count in alike.items():
            if key not in self.requests and len(self.requests) >= MOST_SERIES:
                key = OTHER, OTHER
            self.requests[key] += count
        by_backend: defaultdict[tuple[str, str], list[Finished]] = defaultdict(list)
        for row in rows:
            info = row.info
            if info.backend:
                by_backend[info.backend, info.model].append(row)
            if info.kinds:
                self.kinds.update((info.backend, kind) for kind in info.kinds)
        for names, group in by_backend.items():
            if names not in self.backends and len(self.backends) >= MOST_MODELS:
                names = OTHER, OTHER
            self.backends[names].add(group, self.work)

    def counts(self, running: Mapping[str, int]) -> Metrics:
        now = deepcopy(self)
        now.running = running
        self.before = now.work
        return now
