"""What metrics count, whenever they are asked."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

import pytest
from prometheus_client import Metric

from proxy.core.usage import Usage
from proxy.gateway import Info
from proxy.web.observability.history import Finished
from proxy.web.observability.metrics import HISTOGRAMS, Metrics
from proxy.web.observability.prometheus import native


def over(number: int) -> tuple[Finished, tuple[float, ...]]:
    """A request is over; its times, in the order of HISTOGRAMS."""
    shares = (0.01, 0.001, 0.1, 0.003)
    first, between, took, queue = (0.00012 + number * share % 3 for share in shares)
    info = Info(
        backend=f"b{number % 2}",
        queue_wait=queue,
        first_token=first,
        last_token=first + 9 * between,
        usage=Usage(3, 10, 1),
        outcome="stop",
    )
    return Finished(1, "/p", 200, took, info), (first, between, took, queue)


@pytest.mark.parametrize("requests", [1, 8, 300])
def test_every_request_is_counted_at_any_number(requests: int) -> None:
    metrics = Metrics()
    times: dict[str, list[tuple[float, ...]]] = {}
    rows: list[Finished] = []
    for number in range(requests):
        row, measured = over(number)
        times.setdefault(f"b{number % 2}", []).append(measured)
        rows.append(row)
        if number in (7, requests - 1):
            metrics.add(rows)
            metrics.counts(1)  # to ask changes nothing
            rows = []
    counts = metrics.counts(3)
    assert counts.running == 3
    assert counts.requests == {("/p", "stop"): requests}
    assert counts.backends.keys() == times.keys()
    for name, backend in counts.backends.items():
        of = len(times[name])
        assert backend.tokens == [3 * of, of, 10 * of]
        for (_, _, bounds), found, histogram in zip(
            HISTOGRAMS, zip(*times[name], strict=True), backend.histograms, strict=True
        ):
            expected = [0] * (len(bounds) + 1)
            for value in found:
                expected[bisect_left(bounds, value)] += 1
            assert [count for _, count in histogram.buckets()] == list(accumulate(expected))
            assert histogram.sum == pytest.approx(sum(found))


def test_prompts_of_backends_are_counted_by_kind() -> None:
    metrics = Metrics()
    metrics.add([Finished(1, "/p", 200, 1.0, Info(backend="b", kinds=("system", "tools")))] * 3)
    assert metrics.counts(0).kinds == {("b", "system"): 3, ("b", "tools"): 3}


def test_missing_measurements_are_in_no_histogram() -> None:
    metrics = Metrics()
    metrics.add([Finished(1, "/p", 503, 1.0, Info(backend="b", outcome="backend_down"))])
    histograms = metrics.counts(0).backends["b"].histograms
    assert [histogram.buckets()[-1][1] for histogram in histograms] == [0, 0, 1, 1]


def done(backend: str, **fields: float) -> Finished:
    info = Info(backend=backend, usage=Usage(10, 5, 4), **fields)  # type: ignore[arg-type]
    return Finished(1, "/p", 200, 1.0, info)


def numbers(metrics: Iterable[Metric]) -> dict[str, float]:
    return {sample.name: sample.value for metric in metrics for sample in metric.samples}


def test_work_is_summed_over_backends_and_speeds_cover_the_last_interval() -> None:
    metrics = Metrics()
    metrics.add([done("a", evaluating=3.0, writing=1.0, longest=15)])
    metrics.counts(0)
    metrics.add([done("b", evaluating=2.0, writing=0.5, longest=40)])
    counts = metrics.counts(3)
    told = numbers(native(counts, 1, []))
    assert told["llamacpp:prompt_tokens_total"] == 12
    assert told["llamacpp:prompt_tokens_cached_total"] == 8
    assert told["llamacpp:prompt_seconds_total"] == 5.0
    assert told["llamacpp:tokens_predicted_total"] == 10
    assert told["llamacpp:tokens_predicted_seconds_total"] == 1.5
    assert counts.work.longest == 40
    assert told["llamacpp:prompt_tokens_seconds"] == 3.0
    assert told["llamacpp:predicted_tokens_seconds"] == 10.0
    assert told["llamacpp:requests_processing"] == 2
    assert told["llamacpp:requests_deferred"] == 1
    assert not [name for name in told if "decode" in name]


def test_metrics_known_only_to_backends_are_summed() -> None:
    first = {"n_decode_total": 30.0, "n_busy_slots_per_decode": 2.0}
    second = {"n_decode_total": 10.0, "n_busy_slots_per_decode": 1.0}
    told = numbers(native(Metrics(), 0, [first, {}, second]))
    assert told["llamacpp:n_decode_total"] == 40
    assert told["llamacpp:n_busy_slots_per_decode"] == 1.75
    assert "llamacpp:spec_decode_num_drafts_total" not in told
