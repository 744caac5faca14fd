"""Metrics in Prometheus' text format.

Imported on first use: most gateways are never asked for metrics, and prometheus_client takes a
twentieth of the start-up time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

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
from .llamacpp_metrics import native
from .metrics import COUNTERS, HISTOGRAMS, Counts


def text(
    counts: Counts,
    gateway: Gateway,
    shown: Callable[[str], str] = str,
    ledger: LedgerCounts | None = None,
    limited: int = 0,
) -> bytes:
    """Return the counts and the current gauges. `shown` gives a backend's name as shown to the
    caller; `limited` is the number of requests that wait for limits."""

    class Now(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from _counted(counts, shown)
            yield from _gauges(gateway, shown)
            yield GaugeMetricFamily(
                "slotproxy:requests_limited", "Requests that wait for limits of API keys", limited
            )
            if ledger is not None:
                yield from _of_ledger(ledger)

    registry = CollectorRegistry()
    registry.register(Now())
    return generate_latest(registry) + native(
        counts, gateway.scheduler.waiting, gateway.counters().values()
    )


def _counted(counts: Counts, shown: Callable[[str], str]) -> Iterator[Metric]:
    yield GaugeMetricFamily("vllm:num_requests_running", "Requests in progress", counts.running)
    counter = CounterMetricFamily(
        "slotproxy:requests", "Requests by route and outcome", labels=["path", "outcome"]
    )
    for key, count in counts.requests.items():
        counter.add_metric(key, count)
    yield counter
    counter = CounterMetricFamily(
        "slotproxy:server_prompts",
        "Requests whose prompt the backend rendered, as its prompts of this kind differ from ours",
        labels=["backend", "kind"],
    )
    for (backend, kind), count in counts.kinds.items():
        counter.add_metric([shown(backend), kind], count)
    yield counter
    for i, (name, help_) in enumerate(COUNTERS):
        counter = CounterMetricFamily(name, help_, labels=["backend"])
        for backend, (tokens, _) in counts.backends.items():
            counter.add_metric([shown(backend)], tokens[i])
        yield counter
    for i, (name, help_, _) in enumerate(HISTOGRAMS):
        histogram = HistogramMetricFamily(name, help_, labels=["backend"])
        for backend, (_, histograms) in counts.backends.items():
            histogram.add_metric([shown(backend)], *histograms[i])
        yield histogram


def _of_ledger(counts: LedgerCounts) -> Iterable[Metric]:
    stored = CounterMetricFamily("slotproxy:ledger_rows", "Requests stored in the ledger")
    stored.add_metric([], counts.stored)
    lost = CounterMetricFamily(
        "slotproxy:ledger_rows_lost", "Requests lost because the database did not store them"
    )
    lost.add_metric([], counts.lost)
    waiting = GaugeMetricFamily("slotproxy:ledger_rows_waiting", "Requests not stored yet")
    waiting.add_metric([], counts.waiting)
    return [stored, lost, waiting]


def _gauges(gateway: Gateway, shown: Callable[[str], str]) -> Iterable[Metric]:
    scheduler = gateway.scheduler
    waiting = GaugeMetricFamily("vllm:num_requests_waiting", "Requests in the queue")
    waiting.add_metric([], scheduler.waiting)
    busy = GaugeMetricFamily("slotproxy:slots_busy", "Slots in use", labels=["backend"])
    slots = GaugeMetricFamily("slotproxy:slots", "Slots", labels=["backend"])
    up = GaugeMetricFamily("slotproxy:backend_up", "1 if the backend is up", labels=["backend"])
    paused = GaugeMetricFamily(
        "slotproxy:circuit_open", "1 if the backend is paused after failures", labels=["backend"]
    )
    instead = CounterMetricFamily(
        "slotproxy:fallbacks",
        "Requests that a backend got instead of one of an earlier tier, by the reason",
        labels=["backend", "reason"],
    )
    for view in scheduler.view("", "").backends:
        paused.add_metric([shown(view.backend)], float(view.circuit != "closed"))
        for reason, count in view.instead.items():
            instead.add_metric([shown(view.backend), reason], count)
    for backend in gateway.registry.backends.values():
        labels = [shown(backend.name)]
        busy.add_metric(labels, scheduler.in_flight(backend.name))
        slots.add_metric(labels, scheduler.slots(backend.name))
        up.add_metric(labels, float(bool(backend.up)))
    return [waiting, busy, slots, up, paused, instead]
