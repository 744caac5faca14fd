"""The last hour as a ring of samples."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.core.usage import Usage
from proxy.gateway import Info
from proxy.scheduling.state import Loss
from proxy.store.measures import total
from proxy.web.observability.history import (
    MOST_KINDS,
    MOST_TENURES,
    MOST_UNSTORED,
    SAMPLES,
    STEP,
    Contents,
    Finished,
    History,
)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def over(history: History, status: int = 200, **fields: Any) -> None:
    history.add([Finished(int(history._clock()), "/", status, 1.0, Info(**fields))])


def numbers(history: History) -> dict[str, Any]:
    return total(history.samples().values())


def test_request_counts_in_the_step_where_it_ends() -> None:
    clock = Clock()
    history = History(clock)
    over(history, usage=Usage(10, 5, 4), first_token=0.5, last_token=2.5)
    clock.now += STEP
    over(history, usage=Usage(6, 1, 0), first_token=1.5, last_token=1.5)
    first, second = history.samples()
    assert second - first == STEP
    assert [counts["requests", 0] for counts in history.samples().values()] == [1, 1]
    sums = numbers(history)
    assert (sums["prompt"], sums["cached"], sums["completion"]) == (16, 4, 6)
    assert sums["first_token"]["p50"] == pytest.approx(0.5, rel=0.05)
    assert sums["first_token"]["p90"] == pytest.approx(1.5, rel=0.05)
    assert sums["speed"]["p50"] == pytest.approx(2.0, rel=0.05)  # 4 tokens after the first, in 2 s
    assert sums["prompt_tokens"]["count"] == 2
    assert sums["queue"] is None


def test_counts_stay_when_the_clock_goes_back() -> None:
    clock = Clock()
    history = History(clock)
    for step in (0, STEP, -STEP, STEP, STEP):
        clock.now += step
        over(history)
    counts = history.samples()
    assert [*counts] == sorted(counts)
    assert [sample["requests", 0] for sample in counts.values()] == [2, 2, 1]


def test_records_older_than_an_hour_are_dropped() -> None:
    clock = Clock()
    history = History(clock)
    over(history)
    clock.now += STEP * SAMPLES
    assert history.samples() == {}
    over(history)  # takes the old one's place in the ring
    assert [counts["requests", 0] for counts in history.samples().values()] == [1]


def test_only_newest_records_are_returned() -> None:
    clock = Clock()
    history = History(clock)
    for _ in range(5):
        over(history)
        clock.now += STEP
    assert len(history.samples()) == 5
    assert [*history.samples(clock.now - STEP)] == [*history.samples()][-1:]


def test_errors_count_by_code_and_regular_ends_do_not() -> None:
    history = History(Clock())
    over(history, status=429, outcome="queue_full")
    over(history, status=400)
    over(history, outcome="upstream_fault")  # a stream that broke had said 200 already
    for outcome in ("stop", "length", "tool_calls", "cancelled", "client_closed_request", ""):
        over(history, outcome=outcome)
    for outcome in ("cancelled", "request_cancelled"):
        over(history, status=409, outcome=outcome)
    assert numbers(history)["errors"] == {"queue_full": 1, "400": 1, "upstream_fault": 1}


def test_error_codes_beyond_the_bound_become_one() -> None:
    history = History(Clock())
    for number in range(100):
        over(history, outcome=f"code {number}")
    errors = numbers(history)["errors"]
    assert len(errors) == MOST_KINDS + 1
    assert sum(errors.values()) == 100


def test_counts_wait_for_the_ledger_by_ten_minutes() -> None:
    clock = Clock()
    history = History(clock, stores=True)
    for second in (3000, 3599, 3600):
        history.add([Finished(second, "/", 200, 1.0, Info())])
    unstored = history.unstored or {}
    assert {span: counts["requests", 0] for span, counts in unstored.items()} == {3000: 2, 3600: 1}


NOTHING = {"replaced": 0, "loss": None, "saves": False, "keeps": False, "continues": False}


def turn(
    at: float, key: str = "ann", background: bool = False, link: bytes = b"\1\2", **known: Any
) -> Finished:
    """A request that is placed at this time, by a clock of its own, and ends two seconds later."""
    prompt = SimpleNamespace(links=(link,), turn=1)
    request = SimpleNamespace(chain=prompt, background=background, key=key)
    where = {"backend": "b", "slot": 0, "pinned": True, "at": at - 1000, "request": request}
    placed: Any = SimpleNamespace(**{**where, **NOTHING, **known})
    info = Info(placed=1.0, last_token=3.0, usage=Usage(100, 5), placement=placed)
    return Finished(at + 2, "/", 200, 3.0, info)


def test_contents_know_who_held_a_slot_and_why_it_went() -> None:
    contents = Contents()
    first, again = turn(10), turn(20, continues=True)
    rows = [
        turn(30, replaced=105),
        turn(40, "bob", replaced=105),
        turn(50, "bob", replaced=105, background=True),
        turn(60, "bob", replaced=105, keeps=True),
        turn(70, "bob"),
    ]
    for row in (first, again, *rows):
        contents.add(row)
    assert (*first.changes, *again.changes) == (8.0,)
    reasons = [change[2] for row in rows for change in row.changes if isinstance(change, tuple)]
    assert reasons == ["same_key", "other_key", "side_job", "saved"]
    held, *_, last = contents.tenures(0.0)
    assert (held.key, held.conversation, held.requests, held.prompt) == ("ann", "0102", 2, 100)
    assert (held.since, held.until, held.ended, held.why) == (10.0, 22.0, 30.0, "same_key")
    assert (last.since, last.ended, last.why) == (70.0, 0.0, "")
    assert [(tenure.since, tenure.why) for tenure in contents.tenures(61.0)] == [
        (60.0, "lost"),
        (70.0, ""),
    ]


def test_contents_are_in_the_slot_that_the_server_chose() -> None:
    """A server with a RAM cache chooses it. There, the links of the prompts say what continues."""
    contents = Contents()
    chosen: Any = {"keeps": True, "pinned": False}
    rows = [
        turn(10, replaced=105, **chosen),
        turn(20, replaced=105, **chosen),
        turn(30, "bob", link=b"\5", slot=3, continues=True, **chosen),
    ]
    for row in rows:
        row.info.slot = 3
    for row in rows:
        contents.add(row)
    assert [row.changes for row in rows] == [(), (8.0,), ((20.0, 8.0, "saved"),)]
    bobs, anns = sorted(contents.tenures(0.0), key=lambda tenure: tenure.key, reverse=True)
    assert (anns.slot, anns.requests, anns.since, anns.ended, anns.why) == (3, 2, 10, 30, "saved")
    assert (bobs.slot, bobs.ended) == (3, 0.0)


def test_a_restored_conversation_replaces_what_was_in_the_slot() -> None:
    contents = Contents()
    rows = [turn(10, "bob"), turn(20, continues=True, replaced=105, saves=True)]
    for row in rows:
        contents.add(row)
    assert rows[1].changes == ((10.0, 8.0, "saved"),)
    assert [(t.key, t.requests, t.why) for t in contents.tenures(0.0)] == [
        ("bob", 1, "saved"),
        ("ann", 1, ""),
    ]


def test_conversations_that_return_count_what_became_of_them() -> None:
    history = History(Clock())
    for why in ("restarted", "evicted"):
        row = turn(Clock.now, loss=Loss(why=why, at=25.0, backend="b"))
        history.add([row])
    assert numbers(history)["evictions"] == {"restarted": 1}


def test_past_contents_are_bounded() -> None:
    contents = Contents()
    for number in range(MOST_TENURES + 3):
        contents.add(turn(10.0 * number, f"k{number}", replaced=105))
    first, *others = contents.tenures(0.0)
    assert (first.key, len(others)) == ("k2", MOST_TENURES)


def test_a_past_content_takes_little_memory() -> None:
    """An hour has thousands of them, in each worker: they are most of what grows with requests."""
    contents = Contents()
    changes = [turn(1e9 + number, "ann" * 3, replaced=105) for number in range(1001)]
    tracemalloc.start()
    for row in changes:
        contents.add(row)
        row.changes = ()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / 1000 < 160


def test_counts_that_wait_are_bounded() -> None:
    history = History(Clock(), stores=True)
    for hour in range(MOST_UNSTORED // 4 + 3):
        history.add([Finished(3600 * hour, "/", 200, 1.0, Info())])
    assert len(history.unstored or {}) == MOST_UNSTORED // 4
