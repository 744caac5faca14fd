"""Metrics in Prometheus' text format. Imported on first use, as prometheus_client loads slowly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ...gateway import Gateway
from ...hosting.model import HostedModel
from ..ledger.writer import LedgerCounts
from .metrics import COUNTERS, HISTOGRAMS, REFUSALS, Metrics

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
THROUGHPUT = "Average {} throughput in tokens/s since the last look"
BUSY = "n_busy_slots_per_decode"
DECODES = "n_decode_total"


def native(
    counts: Metrics, waiting: int, backends: Iterable[Mapping[str, float]]
) -> Iterator[Metric]:
    """`backends` are the metrics that backends report, by llama-server's names."""
    work, before = counts.work, counts.before
    prompt, running = work.prompt - work.cached, sum(counts.running.values())
    evaluated = prompt - (before.prompt - before.cached), work.evaluating - before.evaluating
    written = work.completion - before.completion, work.writing - before.writing
    for name, help_, value in (
        ("prompt_tokens", "Number of prompt tokens processed, excluding cached tokens", prompt),
        ("prompt_tokens_cached", "Number of prompt tokens reused from the cache", work.cached),
        ("prompt_seconds", "Total time spent processing prompts", work.evaluating),
        ("tokens_predicted", "Number of generation tokens processed", work.completion),
        ("tokens_predicted_seconds", "Total time spent generating tokens", work.writing),
    ):
        yield CounterMetricFamily(f"llamacpp:{name}", help_, value)
    for name, help_, value in (
        ("prompt_tokens_seconds", THROUGHPUT.format("prompt"), _speed(*evaluated)),
        ("predicted_tokens_seconds", THROUGHPUT.format("generation"), _speed(*written)),
        ("requests_processing", "Number of requests processing", running - waiting),
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


def families(
    counts: Metrics,
    gateway: Gateway,
    shown: Callable[[str], str] = str,
    ledger: LedgerCounts | None = None,
    models: Sequence[HostedModel] = (),
) -> Iterator[Metric]:
    """The counts and gauges. `shown` gives the name of a backend for the caller."""
    yield from _counted(counts, shown)
    yield from _gauges(gateway, counts.running, shown)
    yield from _hosted(models)
    if ledger is not None:
        yield from _of_ledger(ledger)
    yield from native(counts, gateway.scheduler.waiting, gateway.counters().values())


class _Now(Collector):
    def __init__(self, *of: Any) -> None:
        self._of = of

    def collect(self) -> Iterator[Metric]:
        return families(*self._of)


def text(counts: Metrics, *more: Any) -> bytes:
    """The text of all metrics; the arguments are those of `families`."""
    registry = CollectorRegistry()
    registry.register(_Now(counts, *more))
    return generate_latest(registry) + (LONGEST % counts.work.longest).encode()


LABELS = ["backend", "model_name"]


def _labelled(
    metric: CounterMetricFamily | GaugeMetricFamily, rows: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    for labels, value in rows:
        metric.add_metric(labels, value)
    return metric


def _counter(
    name: str, about: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    return _labelled(CounterMetricFamily(name, about, labels=labels), rows)


def _counted(counts: Metrics, shown: Callable[[str], str]) -> Iterator[Metric]:
    about = "Requests by route and outcome"
    yield _counter("slotproxy:requests", about, ["path", "outcome"], counts.requests.items())
    about = "Requests whose prompt the backend rendered, as its own prompts of this kind differ"
    rows = [([shown(backend), kind], n) for (backend, kind), n in counts.kinds.items()]
    yield _counter("slotproxy:server_prompts", about, ["backend", "kind"], rows)
    about = "Requests that limits, the queue or missing backends refused, by the reason"
    outcomes: Counter[str] = Counter()
    for (_, outcome), count in counts.requests.items():
        outcomes[outcome] += count
    rows = [([reason], outcomes[reason]) for reason in REFUSALS]
    yield _counter("slotproxy:refusals", about, ["reason"], rows)
    backends = [([shown(b), model], work) for (b, model), work in counts.backends.items()]
    for i, (name, help_) in enumerate(COUNTERS):
        yield _counter(name, help_, LABELS, [(names, work.tokens[i]) for names, work in backends])
    rows = [([*names, why], n) for names, work in backends for why, n in work.reasons.items()]
    about = "Finished answers, by how they ended"
    yield _counter("vllm:request_success", about, [*LABELS, "finished_reason"], rows)
    rows = [([*names, why], n) for names, work in backends for why, n in work.evictions.items()]
    about = "Contents of slots replaced, by reason"
    yield _counter("slotproxy:slot_evictions", about, [*LABELS, "reason"], rows)
    for i, (name, help_, _) in enumerate(HISTOGRAMS):
        histogram = HistogramMetricFamily(name, help_, labels=LABELS)
        for labels, work in backends:
            values = work.histograms[i]
            histogram.add_metric(labels, values.buckets(), values.sum)
        yield histogram


def _of_ledger(counts: LedgerCounts) -> Iterator[Metric]:
    name, lost = "slotproxy:ledger_rows", "Requests lost because the database did not store them"
    yield CounterMetricFamily(name, "Requests stored in the ledger", counts.stored)
    yield CounterMetricFamily(f"{name}_lost", lost, counts.lost)
    yield GaugeMetricFamily(f"{name}_waiting", "Requests not stored yet", counts.waiting)


def _hosted(models: Sequence[HostedModel]) -> Iterator[Metric]:
    for name, help_, attribute in (
        ("model_loads", "Loads of a model that slotproxy starts", "loads"),
        ("model_load_seconds", "Seconds that these loads took", "load_seconds"),
        ("model_swaps", "Unloads that made room for another model", "swaps"),
    ):
        rows = [([model.name], getattr(model, attribute)) for model in models]
        yield _counter(f"slotproxy:{name}", help_, ["model_name"], rows)


def _gauges(
    gateway: Gateway, running: Mapping[str, int], shown: Callable[[str], str]
) -> Iterator[Metric]:
    scheduler, view = gateway.scheduler, gateway.scheduler.view("", "")
    backends = list(gateway.registry.backends.values())
    none = {backend.model: 0 for backend in backends if backend.model}
    waiting = none | Counter(ticket.model for ticket in view.queue)
    for name, help_, count in (
        ("num_requests_running", "Requests in progress", none | dict(running)),
        ("num_requests_waiting", "Requests in the queue", waiting),
    ):
        gauge = GaugeMetricFamily(f"vllm:{name}", help_, labels=["model_name"])
        yield _labelled(gauge, (([model], number) for model, number in count.items()))
    measured = []
    for backend in backends:
        busy, slots = scheduler.in_flight(backend.name), scheduler.slots(backend.name)
        values = busy, slots, float(bool(backend.up)), busy / (slots or 1)
        measured.append(([shown(backend.name), backend.model], values))
    for i, (name, help_) in enumerate(
        (
            ("slotproxy:slots_busy", "Slots in use"),
            ("slotproxy:slots", "Slots"),
            ("slotproxy:backend_up", "1 if the backend is up"),
            ("vllm:kv_cache_usage_perc", "Share of the slots in use, from 0 to 1"),
        )
    ):
        gauge = GaugeMetricFamily(name, help_, labels=LABELS)
        yield _labelled(gauge, [(labels, values[i]) for labels, values in measured])
    views = [([shown(row.backend), row.model], row) for row in view.backends]
    about = "1 if the backend is paused after failures"
    gauge = GaugeMetricFamily("slotproxy:circuit_open", about, labels=LABELS)
    yield _labelled(gauge, [(labels, float(row.circuit != "closed")) for labels, row in views])
    for name, help_ in (
        ("saved", "Contents of slots that were saved to a file"),
        ("restored", "Contents of slots that were restored from a file"),
    ):
        rows = [(labels, getattr(row, name)) for labels, row in views]
        yield _counter(f"slotproxy:slots_{name}", help_, LABELS, rows)
    about = "Requests that a backend got instead of one of an earlier tier, by the reason"
    rows = [([labels[0], why], n) for labels, row in views for why, n in row.instead.items()]
    yield _counter("slotproxy:fallbacks", about, ["backend", "reason"], rows)
