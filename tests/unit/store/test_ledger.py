"""The ledger in a database: rows, and their sums by hour."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from proxy.store import ledger as ledger_module
from proxy.store.database import Database
from proxy.store.ledger import Ledger
from proxy.store.ledger_rows import COUNTED, HOUR, LedgerRow
from tests.fakes import at_once

DAY = 24 * HOUR
NOON = 19_000 * DAY + 12 * HOUR
ROW = LedgerRow(
    ended=NOON,
    request="r",
    key="ann",
    user="u",
    team="t",
    model="m",
    backend="b",
    slot=1,
    api="openai",
    prompt=10,
    cached=4,
    completion=5,
    reasoning=2,
    queue_seconds=0.5,
    prefill_seconds=0.25,
    decode_seconds=1.0,
    slot_seconds=2.0,
    saved_seconds=0.125,
    seconds=3.0,
    outcome="ok",
    client="curl/8.0",
)


def row(**changes: Any) -> LedgerRow:
    return msgspec.structs.replace(ROW, **changes)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def all_rows(ledger: Ledger) -> list[LedgerRow]:
    return list(ledger.rows(0, 1 << 60))


def test_batch_is_stored_once_however_often_it_is_sent(ledger: Ledger) -> None:
    assert ledger.write("w", 1, [ROW])
    assert all_rows(ledger) == [ROW]
    assert not ledger.write("w", 1, [ROW])
    assert ledger.write("v", 1, [row(key="bob")])
    assert ledger.write("w", 2, [row(request="s")])
    assert [entry.request for entry in all_rows(ledger)] == ["r", "r", "s"]
    (total,) = ledger.groups(0, 1 << 60)
    assert total.sums.requests == 3


def test_sums_by_hour_equal_those_of_the_rows(ledger: Ledger) -> None:
    rows = [
        row(ended=NOON + step, key=key, model=model, completion=step % 7, outcome=outcome)
        for step in range(0, 3 * HOUR, HOUR // 3 + 1)
        for key in ("ann", "bob")
        for model, outcome in (("m", "ok"), ("n", "queue_full"), ("n", "cancelled"))
    ]
    for number, entry in enumerate(rows):
        ledger.write("w", number, [entry])
    for by in ((), ("key",), ("key", "model"), ("user", "team", "api")):
        hours = ledger.groups(NOON, NOON + DAY, width=HOUR, by=by)
        assert sum(group.sums.requests for group in hours) == len(rows)
        assert sum(group.sums.failed for group in hours) == len(rows) / 3
        minutes = ledger.groups(NOON, NOON + DAY, width=60_000, by=by)
        for name in COUNTED:
            expected = sum(getattr(group.sums, name) for group in minutes)
            assert sum(getattr(group.sums, name) for group in hours) == expected
    days = ledger.groups(NOON, NOON + DAY, width=DAY, by=("key",))
    assert [(group.begin, group.names["key"]) for group in days] == [
        (NOON - NOON % DAY, "ann"),
        (NOON - NOON % DAY, "bob"),
    ]


def test_sums_outlive_the_rows(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "PAGE", 2)
    ledger.write("w", 1, [row(ended=NOON + step) for step in range(5)])
    before = ledger.groups(0, 1 << 60)
    assert [ledger.prune(NOON + 3) for _ in range(3)] == [2, 1, 0]
    assert [entry.ended for entry in all_rows(ledger)] == [NOON + 3, NOON + 4]
    assert ledger.groups(0, 1 << 60) == before


def test_rows_are_read_in_pages_and_in_order(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "PAGE", 3)
    times = [NOON + step // 4 for step in range(20)]
    ledger.write("w", 1, [row(ended=time, request=str(n)) for n, time in enumerate(times)][::-1])
    stored = all_rows(ledger)
    assert [entry.ended for entry in stored] == times
    assert {entry.request for entry in stored} == {str(n) for n in range(20)}
    some = list(ledger.rows(NOON + 1, NOON + 3))
    assert [entry.ended for entry in some] == times[4:12]
    assert list(ledger.rows(0, 1 << 60, {"key": ["bob"]})) == []


def test_several_writers_add_to_the_same_sums(ledger: Ledger, url: str) -> None:
    databases = [Database(url) for _ in range(3)]

    def work(number: int) -> None:
        for batch in range(10):
            some = [row(key=key) for key in ("a", "b", "c")][:: 1 if number % 2 else -1]
            Ledger(databases[number]).write(f"w{number}", batch, some)

    at_once(work, 3)
    groups = ledger.groups(0, 1 << 60, by=("key",))
    assert [group.sums.requests for group in groups] == [30, 30, 30]
    assert [group.sums.prompt for group in groups] == [300, 300, 300]
    for database in databases:
        database.close()


def test_measures_add_up_by_hour_and_by_day(ledger: Ledger) -> None:
    first = Counter({("requests", 0): 2, ("queue", 7): 1, ("error timeout", 0): 0})
    second = Counter({("requests", 0): 3, ("queue", 8): 1})
    noon, later = NOON // 1000, (NOON + HOUR) // 1000
    assert ledger.write("w", 1, [ROW], {noon: first})
    assert ledger.write("v", 1, [ROW], {noon: second, later: second})
    assert not ledger.write("v", 1, [ROW], {noon: second})
    assert ledger.measures(HOUR, NOON, NOON + 2 * HOUR) == {
        NOON: first + second,
        NOON + HOUR: second,
    }
    assert ledger.measures(HOUR // 6, NOON, NOON + HOUR) == {NOON: first + second}
    today = {NOON - NOON % DAY: first + second + second}
    assert ledger.measures(DAY, NOON - NOON % DAY, NOON + DAY) == today
    assert ledger.measures(HOUR, NOON + HOUR, NOON + HOUR) == {}
    ledger.prune_measures(NOON + 2 * HOUR + 1)
    assert [*ledger.measures(HOUR // 6, 0, NOON + DAY)] == [NOON + HOUR]
    ledger.prune_measures(NOON + 48 * HOUR + 1)
    assert [*ledger.measures(HOUR, 0, NOON + DAY)] == [NOON + HOUR]
    assert ledger.measures(DAY, 0, NOON + DAY) == today
    ledger.prune_measures(NOON + 32 * DAY)
    assert ledger.measures(DAY, 0, NOON + DAY) == {}
