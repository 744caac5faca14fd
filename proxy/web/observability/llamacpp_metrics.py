"""Metrics under llama-server's own names, so that its dashboards also work for the gateway.

The gateway counts what it sees itself, over all backends. Metrics that only a server can count
(llama_decode calls, speculative decoding) are summed over the backends that report them, those
started with --metrics, and left out if there are none. The help texts are llama-server's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .metrics import Counts

COUNTED = {
    "prompt_tokens_total": "Number of prompt tokens processed, excluding cached tokens",
    "prompt_tokens_cached_total": "Number of prompt tokens reused from the cache",
    "prompt_seconds_total": "Total time spent processing prompts",
    "tokens_predicted_total": "Number of generation tokens processed",
    "tokens_predicted_seconds_total": "Total time spent generating tokens",
    "n_tokens_max": "Largest observed sequence length (prompt + generation)",
}
GAUGES = {
    "prompt_tokens_seconds": "Average prompt throughput in tokens/s since the last look",
    "predicted_tokens_seconds": "Average generation throughput in tokens/s since the last look",
    "requests_processing": "Number of requests processing",
    "requests_deferred": "Number of requests deferred",
}
SUMMED = {
    "n_decode_total": "Total number of llama_decode() calls",
    "spec_decode_num_draft_tokens_total": "Speculative: Total draft tokens generated",
    "spec_decode_num_accepted_tokens_total": "Speculative: Total draft tokens accepted",
    "spec_decode_num_drafts_total": "Speculative: Total verification steps",
}
BUSY = "n_busy_slots_per_decode"
DECODES = "n_decode_total"


def native(counts: Counts, waiting: int, backends: Iterable[Mapping[str, float]]) -> bytes:
    """Return the lines of these metrics. `waiting` is the number of queued requests, `backends` the
    metrics that backends report, by llama-server's names."""
    work, before = counts.work, counts.before
    own = {
        "prompt_tokens_total": work.prompt - work.cached,
        "prompt_tokens_cached_total": work.cached,
        "prompt_seconds_total": work.evaluating,
        "tokens_predicted_total": work.completion,
        "tokens_predicted_seconds_total": work.writing,
        "n_tokens_max": work.longest,
    }
    evaluated = (work.prompt - work.cached) - (before.prompt - before.cached)
    now = {
        "prompt_tokens_seconds": _speed(evaluated, work.evaluating - before.evaluating),
        "predicted_tokens_seconds": _speed(
            work.completion - before.completion, work.writing - before.writing
        ),
        "requests_processing": max(0, counts.running - waiting),
        "requests_deferred": waiting,
    }
    lines: list[str] = []
    for name, help_ in COUNTED.items():
        lines += _lines(name, help_, "counter", own[name])
    for name, help_ in GAUGES.items():
        lines += _lines(name, help_, "gauge", now[name])
    reporting = [one for one in backends if one]
    for name, help_ in SUMMED.items():
        values = [one[name] for one in reporting if name in one]
        if values:
            lines += _lines(name, help_, "counter", sum(values))
    decodes = sum(one.get(DECODES, 0.0) for one in reporting)
    if any(BUSY in one for one in reporting):
        busy = sum(one.get(BUSY, 0.0) * one.get(DECODES, 0.0) for one in reporting)
        mean = busy / decodes if decodes else 0.0
        lines += _lines(BUSY, "Average number of busy slots per llama_decode() call", "gauge", mean)
    return "".join(f"{line}\n" for line in lines).encode()


def _lines(name: str, help_: str, kind: str, value: float) -> list[str]:
    name = f"llamacpp:{name}"
    return [f"# HELP {name} {help_}", f"# TYPE {name} {kind}", f"{name} {value}"]


def _speed(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0
