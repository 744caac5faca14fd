"""Metrics in Prometheus' text format. Imported on first use: prometheus_client takes a twentieth of
the start-up time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ...gateway import Gateway
from ..ledger.writer import LedgerCounts
from .metrics import COUNTERS, HISTOGRAMS, Metrics

# Metrics under llama-server's own names, so that its dashboards also work for the gateway.
#
# The gateway counts what it sees itself, over all backends. Metrics that only a server can count
# (llama_decode calls, speculative decoding) are summed over the backends that report them, those
# started with --metrics, and left out if there are none. The help texts are llama-server's.
SUMMED = {
    "n_decode_total": "Total number of llama_decode() calls",
    "spec_decode_num_draft_tokens_total": "Speculative: Total draft tokens generated",
    "spec_decode_num_accepted_tokens_total": "Speculative: Total draft tokens accepted",
    "spec_decode_num_drafts_total": "Speculative: Total verification steps",
}
# llama-server calls this one a counter, but without `_total`, which the library would add.
LONGEST = """\
# HELP llamacpp:n_tokens_max Largest observed sequence length (prompt + generation)
# TYPE llamacpp:n_tokens_max counter
llamacpp:n_tokens_max %d
"""
BUSY = "n_busy_slots_per_decode"
DECODES = "n_decode_total"


def native(
    counts: Metrics, waiting: int, backends: Iterable[Mapping[str, float]]
) -> Iterator[Metric]:
    """`backends` are the metrics that backends report, by llama-server's names."""
    work, before = counts.work, counts.before
    prompt = work.prompt - work.cached
    prompt_speed = _speed(
        prompt - (before.prompt - before.cached), work.evaluating - before.evaluating
    )
    speed = _speed(work.completion - before.completion, work.writing - before.writing)
    for name, help_, value in (
        ("prompt_tokens", "Number of prompt tokens processed, excluding cached tokens", prompt),
        ("prompt_tokens_cached", "Number of prompt tokens reused from the cache", work.cached),
        ("prompt_seconds", "Total time spent processing prompts", work.evaluating),
        ("tokens_predicted", "Number of generation tokens processed", work.completion),
        ("tokens_predicted_seconds", "Total time spent generating tokens", work.writing),
    ):
        yield CounterMetricFamily(f"llamacpp:{name}", help_, value)
    for name, help_, value in (
        (
            "prompt_tokens_seconds",
            "Average prompt throughput in tokens/s since the last look",
            prompt_speed,
        ),
        (
            "predicted_tokens_seconds",
            "Average generation throughput in tokens/s since the last look",
            speed,
        ),
        ("requests_processing", "Number of requests processing", counts.running - waiting),
        ("requests_deferred", "Number of requests deferred", waiting),
    ):
        yield GaugeMetricFamily(f"llamacpp:{name}", help_, max(0, value))
    reporting = [backend for backend in backends if backend]
    for name, help_ in SUMMED.items():
        values = [backend[name] for backend in reporting if name in backend]
        if values:
            yield CounterMetricFamily(f"llamacpp:{name}", help_, sum(values))
    if any(BUSY in backend for backend in reporting):
        decodes = sum(backend.get(DECODES, 0.0) for backend in reporting)
        busy = sum(backend.get(BUSY, 0.0) * backend.get(DECODES, 0.0) for backend in reporting)
        about = "Average number of busy slots per llama_decode() call"
        yield GaugeMetricFamily(f"llamacpp:{BUSY}", about, busy / decodes if decodes else 0.0)


def _speed(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0


def text(
    counts: Metrics,
    gateway: Gateway,
    shown: Callable[[str], str] = str,
    ledger: LedgerCounts | None = None,
) -> bytes:
    """The counts and gauges. `shown` gives a backend's name as shown to the caller."""

    class Now(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from _counted(counts, shown)
            yield from _gauges(gateway, shown)
            if ledger is not None:
                yield from _of_ledger(ledger)
            reported = gateway.counters().values()
            yield from native(counts, gateway.scheduler.waiting, reported)

    registry = CollectorRegistry()
    registry.register(Now())
    return generate_latest(registry) + (LONGEST % counts.work.longest).encode()


def _labelled(
    metric: CounterMetricFamily | GaugeMetricFamily, rows: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    for labels, value in rows:
        metric.add_metric(labels, value)
    return metric


def _counted(counts: Metrics, shown: Callable[[str], str]) -> Iterator[Metric]:
    yield GaugeMetricFamily("vllm:num_requests_running", "Requests in progress", counts.running)
    about = "Requests by route and outcome"
    counter = CounterMetricFamily("slotproxy:requests", about, labels=["path", "outcome"])
    yield _labelled(counter, counts.requests.items())
    about = (
        "Requests whose prompt the backend rendered, as its prompts of this kind differ from ours"
    )
    counter = CounterMetricFamily("slotproxy:server_prompts", about, labels=["backend", "kind"])
    kinds = counts.kinds.items()
    yield _labelled(counter, (([shown(backend), kind], n) for (backend, kind), n in kinds))
    backends = [(shown(name), known) for name, known in counts.backends.items()]
    for i, (name, help_) in enumerate(COUNTERS):
        counter = CounterMetricFamily(name, help_, labels=["backend"])
        yield _labelled(counter, [([name], known.tokens[i]) for name, known in backends])
    for i, (name, help_, _) in enumerate(HISTOGRAMS):
        histogram = HistogramMetricFamily(name, help_, labels=["backend"])
        for backend, known in backends:
            values = known.histograms[i]
            histogram.add_metric([backend], values.buckets(), values.sum)
        yield histogram


def _of_ledger(counts: LedgerCounts) -> Iterator[Metric]:
    lost = "Requests lost because the database did not store them"
    yield CounterMetricFamily(
        "slotproxy:ledger_rows", "Requests stored in the ledger", counts.stored
    )
    yield CounterMetricFamily("slotproxy:ledger_rows_lost", lost, counts.lost)
    yield GaugeMetricFamily(
        "slotproxy:ledger_rows_waiting", "Requests not stored yet", counts.waiting
    )


def _gauges(gateway: Gateway, shown: Callable[[str], str]) -> Iterator[Metric]:
    scheduler = gateway.scheduler
    yield GaugeMetricFamily("vllm:num_requests_waiting", "Requests in the queue", scheduler.waiting)
    known = [([shown(known.name)], known) for known in gateway.registry.backends.values()]
    for name, help_, value in (
        ("slots_busy", "Slots in use", lambda backend: scheduler.in_flight(backend.name)),
        ("slots", "Slots", lambda backend: scheduler.slots(backend.name)),
        ("backend_up", "1 if the backend is up", lambda backend: float(bool(backend.up))),
    ):
        gauge = GaugeMetricFamily(f"slotproxy:{name}", help_, labels=["backend"])
        yield _labelled(gauge, [(labels, value(backend)) for labels, backend in known])
    views = [(shown(view.backend), view) for view in scheduler.view("", "").backends]
    about = "1 if the backend is paused after failures"
    gauge = GaugeMetricFamily("slotproxy:circuit_open", about, labels=["backend"])
    yield _labelled(gauge, [([name], float(view.circuit != "closed")) for name, view in views])
    about = "Requests that a backend got instead of one of an earlier tier, by the reason"
    counter = CounterMetricFamily("slotproxy:fallbacks", about, labels=["backend", "reason"])
    rows = [([name, why], n) for name, view in views for why, n in view.instead.items()]
    yield _labelled(counter, rows)
