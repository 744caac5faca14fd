"""What metrics count, whenever they are asked."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from prometheus_client import Metric

from proxy import errors
from proxy.core.events import FinishReason
from proxy.core.usage import Usage
from proxy.gateway import Info
from proxy.scheduling.prefix import Chain
from proxy.scheduling.state import Placement, SlotRequest
from proxy.scheduling.view import View
from proxy.web.observability import history
from proxy.web.observability import metrics as counters
from proxy.web.observability.history import Finished
from proxy.web.observability.metrics import HISTOGRAMS, Metrics
from proxy.web.observability.prometheus import native, text


def add(metrics: Metrics, rows: Sequence[Finished]) -> None:
    """Add requests as an observer does, which keeps the contents."""
    contents = vars(metrics).setdefault("contents", history.Contents())
    for row in rows:
        contents.add(row)
    metrics.add(rows)


def over(number: int) -> tuple[Finished, tuple[float, ...]]:
    """A request is over; its times, in the order of HISTOGRAMS."""
    shares = (0.01, 0.001, 0.1, 0.003)
    first, between, seconds, queue = (0.00012 + number * share % 3 for share in shares)
    info = Info(
        backend=f"b{number % 2}",
        queue_wait=queue,
        first_token=first,
        last_token=first + 9 * between,
        usage=Usage(3, 10, 1),
        outcome="stop",
    )
    return Finished(1, "/p", 200, seconds, info), (first, between, seconds, queue)


@pytest.mark.parametrize("requests", [1, 8, 300])
def test_every_request_is_counted_at_any_number(requests: int) -> None:
    metrics = Metrics()
    times: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    rows: list[Finished] = []
    for number in range(requests):
        row, measured = over(number)
        times.setdefault((f"b{number % 2}", ""), []).append(measured)
        rows.append(row)
        if number in (7, requests - 1):
            add(metrics, rows)
            metrics.counts({"m": 1})  # to ask changes nothing
            rows = []
    counts = metrics.counts({"m": 3})
    assert counts.running == {"m": 3}
    assert counts.requests == {("/p", "stop"): requests}
    assert counts.backends.keys() == times.keys()
    for name, backend in counts.backends.items():
        of = len(times[name])
        assert backend.tokens == [3 * of, of, 3 * of, 10 * of]
        for (_, _, bounds), values, histogram in zip(
            HISTOGRAMS, zip(*times[name], strict=True), backend.histograms, strict=False
        ):
            expected = [0] * (len(bounds) + 1)
            for value in values:
                expected[bisect_left(bounds, value)] += 1
            assert [count for _, count in histogram.buckets()] == list(accumulate(expected))
            assert histogram.sum == pytest.approx(sum(values))


def test_prompts_of_backends_are_counted_by_kind() -> None:
    metrics = Metrics()
    add(metrics, [Finished(1, "/p", 200, 1.0, Info(backend="b", kinds=("system", "tools")))] * 3)
    assert metrics.counts({}).kinds == {("b", "system"): 3, ("b", "tools"): 3}


def test_missing_measurements_are_in_no_histogram() -> None:
    metrics = Metrics()
    add(metrics, [Finished(1, "/p", 503, 1.0, Info(backend="b", outcome="backend_down"))])
    histograms = metrics.counts({}).backends["b", ""].histograms
    assert [histogram.buckets()[-1][1] for histogram in histograms][:5] == [0, 0, 1, 1, 0]


def done(backend: str, **fields: float) -> Finished:
    info = Info(backend=backend, usage=Usage(10, 5, 4), **fields)  # type: ignore[arg-type]
    return Finished(1, "/p", 200, 1.0, info)


def test_time_for_a_prompt_is_without_the_load_of_its_model() -> None:
    metrics = Metrics()
    add(metrics, [done("b", placed=1.0, evaluating=0.5, first_token=9.0, last_token=10.0)])
    names = (name.removeprefix("vllm:request_") for name, _, _ in HISTOGRAMS)
    histograms = dict(zip(names, metrics.counts({}).backends["b", ""].histograms, strict=True))
    assert histograms["prefill_time_seconds"].sum == 0.5
    assert histograms["inference_time_seconds"].sum == 1.5


def numbers(metrics: Iterable[Metric]) -> dict[str, float]:
    return {sample.name: sample.value for metric in metrics for sample in metric.samples}


def test_work_is_summed_over_backends_and_speeds_cover_the_last_interval() -> None:
    metrics = Metrics()
    add(metrics, [done("a", evaluating=3.0, writing=1.0, longest=15)])
    metrics.counts({})
    add(metrics, [done("b", evaluating=2.0, writing=0.5, longest=40)])
    counts = metrics.counts({"m": 1, "n": 2})
    values = numbers(native(counts, 1, []))
    assert values["llamacpp:prompt_tokens_total"] == 12
    assert values["llamacpp:prompt_tokens_cached_total"] == 8
    assert values["llamacpp:prompt_seconds_total"] == 5.0
    assert values["llamacpp:tokens_predicted_total"] == 10
    assert values["llamacpp:tokens_predicted_seconds_total"] == 1.5
    assert counts.work.longest == 40
    assert values["llamacpp:prompt_tokens_seconds"] == 3.0
    assert values["llamacpp:predicted_tokens_seconds"] == 10.0
    assert values["llamacpp:requests_processing"] == 2
    assert values["llamacpp:requests_deferred"] == 1
    assert not [name for name in values if "decode" in name]


def test_metrics_known_only_to_backends_are_summed() -> None:
    first = {"n_decode_total": 30.0, "n_busy_slots_per_decode": 2.0}
    second = {"n_decode_total": 10.0, "n_busy_slots_per_decode": 1.0}
    values = numbers(native(Metrics(), 0, [first, {}, second]))
    assert values["llamacpp:n_decode_total"] == 40
    assert values["llamacpp:n_busy_slots_per_decode"] == 1.75
    assert "llamacpp:spec_decode_num_drafts_total" not in values


def turn(
    at: float, *, slot: int = 0, key: str = "k", continues: bool = False, **fields: Any
) -> Finished:
    """A request that has its slot for two seconds from this time on, as it was placed."""
    choices, saves = fields.pop("choices", 0), fields.pop("saves", False)
    placement = Placement(
        pinned=True,
        request=SlotRequest(model="m", key=key, **fields),
        at=at,
        backend="b",
        slot=slot,
        prompt=100,
        expected=90 if continues else 0,
        restores=False,
        saves=saves,
        keeps=False,
        fresh=False,
        loads=0.0,
        turns=0,
        continues=continues,
        replaced=0 if continues else 120,
        kept_on="",
        kept_busy=False,
        kept=Chain(),
        loss=None,
    )
    info = Info(backend="b", model="m", placed=1.0, last_token=3.0, choices=choices)
    info.placement = placement
    return Finished(int(at), "/p", 200, 3.0, info)


def residency(*rows: Finished) -> tuple[list[tuple[float, float]], dict[str, int]]:
    """The count and the sum of each histogram of slots, and the evictions by reason."""
    metrics = Metrics()
    add(metrics, rows)
    backend = metrics.counts({}).backends["b", "m"]
    named = zip(HISTOGRAMS, backend.histograms, strict=True)
    blocks = [histogram for (name, _, _), histogram in named if "kv_block" in name]
    return [(h.buckets()[-1][1], h.sum) for h in blocks], dict(backend.evictions)


def test_a_slot_is_kept_reused_and_taken() -> None:
    measured, evictions = residency(turn(8), turn(18, continues=True), turn(98, key="other"))
    # Held from 8 to 98, used until 10 and then until 20.
    assert measured == [(1, 90.0), (1, 78.0), (1, 8.0)]
    assert evictions == {"other_key": 1}


def test_what_is_replaced_has_a_reason() -> None:
    rows = turn(0), turn(10), turn(20, background=True), turn(30, saves=True), turn(40, key="x")
    assert residency(*rows)[1] == {"same_key": 1, "side_job": 1, "saved": 1, "other_key": 1}


def test_slots_are_kept_apart_and_unknown_ones_left_out() -> None:
    unplaced = Finished(50, "/p", 200, 3.0, Info(backend="b", model="m", usage=Usage(100, 20, 0)))
    rows = turn(8), turn(18, slot=1), turn(22, choices=2), unplaced, turn(28)
    assert residency(*rows) == ([(1, 20.0), (1, 18.0), (0, 0.0)], {"same_key": 1})


def test_rounds_of_an_answer_are_turns_of_their_slots() -> None:
    first, then = turn(8), turn(18, continues=True)
    both = Info(backend="b", model="m", steps=(first.info, ("tools", 8.0), then.info))
    assert residency(Finished(1, "/p", 200, 12.0, both)) == ([(0, 0.0), (0, 0.0), (1, 8.0)], {})


def test_remembered_slots_and_models_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_HELD", 2)
    monkeypatch.setattr(counters, "MOST_MODELS", 2)
    metrics = Metrics()
    add(metrics, [turn(10, slot=slot) for slot in range(4)])
    # The first two slots are forgotten, so nothing is known of their prompts.
    add(metrics, [turn(20, slot=slot) for slot in (0, 3)])
    assert metrics.counts({}).backends["b", "m"].evictions == {"same_key": 1}
    for name in "xyz":
        add(metrics, [Finished(1, "/p", 200, 1.0, Info(backend=name, model=name))])
    assert [*metrics.counts({}).backends] == [("b", "m"), ("x", "x"), ("other", "other")]


def test_reasons_are_those_of_the_program() -> None:
    assert {*counters.REASONS} == {*get_args(FinishReason), "cancelled", errors.Cancelled.code}
    codes = {getattr(error, "code", None) for error in vars(errors).values()}
    assert codes.issuperset(counters.REFUSALS)


def test_success_has_the_reasons_of_vllm_and_refusals_their_own() -> None:
    metrics = Metrics()
    outcomes = ("stop", "tool_calls", "length", "cancelled", "client_closed_request", "queue_full")
    for outcome in outcomes:
        info = Info(backend="b", model="m", outcome=outcome, choices=1)
        add(metrics, [Finished(1, "/p", 200, 1.0, info)])
    counts = metrics.counts({})
    assert counts.backends["b", "m"].reasons == {"stop": 2, "length": 1, "abort": 2}
    empty: Any = SimpleNamespace(
        scheduler=SimpleNamespace(waiting=0, view=lambda *_: View([], [])),
        registry=SimpleNamespace(backends={}),
        counters=dict,
    )
    lines = text(counts, empty).decode()
    assert 'slotproxy:refusals_total{reason="queue_full"} 1.0' in lines
    assert 'slotproxy:refusals_total{reason="no_backend"} 0.0' in lines
