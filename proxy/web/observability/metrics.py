"""Counters behind /metrics: plain numbers, added up for dozens of requests together, and converted
by `prometheus` on request. Metrics have vLLM's names where vLLM has them, since dashboards know
those; gateway metrics have our own prefix. Where vLLM counts blocks of its cache, we count slots.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import accumulate
from types import MappingProxyType
from typing import Any, get_args

from msgspec import Struct

from ...core.events import FinishReason
from ...errors import (
    BudgetExceeded,
    Cancelled,
    LimitReached,
    LimitsUnavailable,
    NoBackend,
    QueueFull,
    QueueTimeout,
    QuotaExceeded,
)
from ...gateway import Info
from .history import OTHER, Finished

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SLOT_SECONDS = (0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
TOKENS = tuple(step * 10**power for power in range(6) for step in (1, 2, 5))

MOST_SERIES = 2048  # request series; routes times outcomes give some hundreds
MOST_MODELS = 512  # pairs of a backend and a model
MOST_HELD = 16384  # slots whose content is remembered

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
    ("slotproxy:queue_wait_seconds", "Time in the admission queue", SECONDS),
    ("vllm:request_queue_time_seconds", "Time in the queue", SECONDS),
    ("vllm:request_prefill_time_seconds", "Time for the prompt", SECONDS),
    ("vllm:request_decode_time_seconds", "Time from the first token to the last", SECONDS),
    ("vllm:request_inference_time_seconds", "Time for prompt and answer", SECONDS),
    ("vllm:request_prompt_tokens", "Tokens of a prompt", TOKENS),
    ("vllm:request_generation_tokens", "Tokens of an answer", TOKENS),
    (
        "vllm:kv_block_lifetime_seconds",
        "Time for which a slot had kept a conversation when another one took it",
        SLOT_SECONDS,
    ),
    (
        "vllm:kv_block_idle_before_evict_seconds",
        "Time for which a slot had been idle when another conversation took it",
        SLOT_SECONDS,
    ),
    (
        "vllm:kv_block_reuse_gap_seconds",
        "Time between two requests that used the same content of a slot",
        SLOT_SECONDS,
    ),
)
REFUSALS: set[str | None] = {
    error.code
    for error in (
        BudgetExceeded,
        LimitReached,
        LimitsUnavailable,
        NoBackend,
        QueueFull,
        QueueTimeout,
        QuotaExceeded,
    )
}
# vLLM's reasons: it counts a call of a tool as a stop, and a client that left as an abort.
REASONS: Mapping[str | None, str] = MappingProxyType(
    {
        **dict.fromkeys(get_args(FinishReason), "stop"),
        "length": "length",
        "cancelled": "abort",
        Cancelled.code: "abort",
    }
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


def prefill(info: Info) -> float:
    """Seconds for the prompt: those that the backend reports, or those until the first token."""
    return info.evaluating or max(0.0, info.first_token - info.placed)


class Content(Struct):
    """What a slot keeps: since when, until when it was last used, the tokens of its prompt, and the
    key."""

    since: float
    until: float
    prompt: int
    key: str


class Contents:
    """What the slots keep, as finished requests show it: one that found nine tenths of its prompt,
    or of the one before, in the cache continues it, and any other one replaces it. A request of
    several choices uses several slots, of which it names one, so it counts for none."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, int], Content] = {}

    def __deepcopy__(self, memo: object) -> Contents:
        return self  # not a part of the counts

    def add(self, row: Finished) -> tuple[float, float, str] | float | None:
        """The gap before a content was used again, or the lifetime and the idle time of one that
        was replaced, and why. None if there is nothing to say."""
        info, usage = row.info, row.info.usage
        if info.slot < 0 or info.choices > 1 or not (info.placed and usage.prompt):
            return None
        place, began = (info.backend, info.slot), row.second - row.took + info.placed
        old = self._of.pop(place, None)
        new = Content(began, row.second, usage.prompt, row.key)
        self._of[place] = new
        if old is None:
            if len(self._of) > MOST_HELD:
                del self._of[next(iter(self._of))]
            return None
        idle = max(0.0, began - old.until)
        if 10 * usage.cached >= 9 * min(old.prompt, usage.prompt):
            new.since = old.since
            return idle
        reason = "same_key" if old.key == row.key else "other_key"
        return max(0.0, began - old.since), idle, reason


class _Backend:
    """The counts of one model on one backend."""

    __slots__ = ("evictions", "histograms", "reasons", "tokens")

    def __init__(self) -> None:
        self.tokens = [0 for _ in COUNTERS]
        self.reasons: Counter[str] = Counter()  # of finished answers, by vLLM's names
        self.evictions: Counter[str] = Counter()
        self.histograms = [_Histogram(bounds) for _, _, bounds in HISTOGRAMS]

    def add(self, rows: Sequence[Finished], contents: Contents) -> None:
        infos = [row.info for row in rows]
        usages = [info.usage for info in infos]
        begun = [info for info in infos if info.first_token]
        prompt = sum(usage.prompt for usage in usages)
        counts = (
            prompt,
            sum(usage.cached for usage in usages),
            prompt,
            sum(usage.completion for usage in usages),
        )
        self.tokens = [old + new for old, new in zip(self.tokens, counts, strict=True)]
        residency = [contents.add(row) for row in rows]
        replaced = [change for change in residency if isinstance(change, tuple)]
        self.evictions.update(reason for _, _, reason in replaced)
        self.reasons.update(
            REASONS[info.outcome] for info in infos if info.outcome in REASONS and info.choices
        )
        prefills = [prefill(info) for info in begun]
        decodes = [info.last_token - info.first_token for info in begun]
        waits = [info.queue_wait for info in infos]
        between = [
            (info.last_token - info.first_token) / (info.usage.completion - 1)
            for info in infos
            if info.usage.completion > 1
        ]
        values: tuple[list[Any], ...] = (  # in the order of HISTOGRAMS
            [info.first_token for info in begun],
            between,
            [row.took for row in rows],
            waits,
            waits,
            prefills,
            decodes,
            list(map(sum, zip(prefills, decodes, strict=True))),
            [usage.prompt for usage in usages if usage.prompt],
            [usage.completion for usage in usages if usage.completion],
            [lifetime for lifetime, _, _ in replaced],
            [idle for _, idle, _ in replaced],
            [change for change in residency if isinstance(change, float)],
        )
        for histogram, measured in zip(self.histograms, values, strict=True):
            histogram.add(measured)


class Metrics:
    """Counts requests. `running` are those in progress, by model; `backends` are the counts of a
    backend and a model; `before` is the `work` when metrics were last read. Not thread-safe."""

    def __init__(self) -> None:
        self.running: Mapping[str, int] = {}
        self.requests: Counter[tuple[str, str]] = Counter()
        self.backends: defaultdict[tuple[str, str], _Backend] = defaultdict(_Backend)
        self.contents = Contents()
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
        by_backend: defaultdict[tuple[str, str], list[Finished]] = defaultdict(list)
        for row in rows:
            if row.info.backend:
                by_backend[row.info.backend, row.info.model].append(row)
        for names, some in by_backend.items():
            if names not in self.backends and len(self.backends) >= MOST_MODELS:
                names = OTHER, OTHER
            self.work.add(row.info for row in some)
            self.backends[names].add(some, self.contents)

    def counts(self, running: Mapping[str, int]) -> Metrics:
        """A copy of all counts so far."""
        now = deepcopy(self)
        now.running = running
        self.before = now.work
        return now

    def refused(self) -> Counter[str]:
        """The requests that limits, the queue or missing backends refused, by the reason."""
        counts: Counter[str] = Counter()
        for (_, outcome), count in self.requests.items():
            if outcome in REFUSALS:
                counts[outcome] += count
        return counts
