"""The last hour as a ring of samples."""

from __future__ import annotations

from typing import Any

from proxy.core.usage import Usage
from proxy.gateway import Info
from proxy.web.observability.history import SAMPLES, STEP, Finished, History, total


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def over(history: History, status: int = 200, **fields: Any) -> None:
    history.add([Finished(int(history._clock()), "/", status, 1.0, Info(**fields))])


def test_request_counts_in_the_step_where_it_ends() -> None:
    clock = Clock()
    history = History(clock)
    over(history, usage=Usage(10, 5, 4), first_token=0.5, last_token=2.5)
    clock.now += STEP
    over(history, usage=Usage(6, 1, 0), first_token=1.5, last_token=1.5)
    first, second = history.samples()
    assert (second.at - first.at, first.requests, second.requests) == (STEP, 1, 1)
    sums = total([first, second])
    assert (sums["prompt"], sums["cached"], sums["completion"]) == (16, 4, 6)
    assert sums["first_token"] == 1.0
    assert sums["speed"] == 2.0  # four tokens after the first, in two seconds


def test_records_older_than_an_hour_are_dropped() -> None:
    clock = Clock()
    history = History(clock)
    over(history)
    clock.now += STEP * SAMPLES
    assert history.samples() == []
    over(history)  # takes the old one's place in the ring
    assert [one.requests for one in history.samples()] == [1]


def test_only_newest_records_are_returned() -> None:
    clock = Clock()
    history = History(clock)
    for _ in range(5):
        over(history)
        clock.now += STEP
    assert len(history.samples()) == 5
    assert [one.at for one in history.samples(clock.now - STEP)] == [history.samples()[-1].at]


def test_errors_count_by_code_and_regular_ends_do_not() -> None:
    history = History(Clock())
    over(history, status=429, outcome="queue_full")
    over(history, status=400)
    over(history, outcome="upstream_fault")  # a stream that broke had said 200 already
    for outcome in ("stop", "length", "tool_calls", "cancelled", "client_closed_request", ""):
        over(history, outcome=outcome)
    assert total(history.samples())["errors"] == {"queue_full": 1, "400": 1, "upstream_fault": 1}


def test_error_codes_beyond_the_bound_become_one() -> None:
    history = History(Clock())
    for number in range(100):
        over(history, outcome=f"code {number}")
    (sample,) = history.samples()
    assert len(sample.errors) <= 17
    assert sum(sample.errors.values()) == 100
