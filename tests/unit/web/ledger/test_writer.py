"""Batches of the ledger, and what happens if the database does not keep up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from proxy.errors import StoreUnavailable
from proxy.store.ledger import Ledger
from proxy.store.ledger_rows import LedgerRow
from proxy.web.ledger import writer as module
from proxy.web.ledger.writer import LedgerCounts, LedgerWriter
from proxy.web.observability import Record
from tests.fakes import wait_until


class SavedTotals:
    """A ledger in memory. `fails` is called before each batch."""

    def __init__(self) -> None:
        self.rows: list[LedgerRow] = []
        self.batches: list[tuple[str, int]] = []
        self.fails: Callable[[], object] = lambda: None
        self.old = 0

    def write(self, name: str, number: int, rows: Sequence[LedgerRow]) -> bool:
        self.fails()
        if (name, number) in self.batches:
            return False
        self.batches.append((name, number))
        self.rows += rows
        return True

    def prune(self, before: int) -> int:
        gone, self.old = min(self.old, 1000), max(0, self.old - 1000)
        return gone


def writer(kept: SavedTotals, *, needs_key: bool = False) -> LedgerWriter:
    return LedgerWriter(cast(Ledger, kept), days=1, needs_key=lambda: needs_key)


def record(number: int = 0, key: str = "") -> Record:
    made = Record({"HTTP_X_REQUEST_ID": f"r{number}"})
    made.key, made.status, made.info.model = key, 200, "m"
    return made


def unavailable() -> None:
    raise StoreUnavailable("away")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD", 0.005)
    monkeypatch.setattr(module, "AGAIN", 0.005)
    monkeypatch.setattr(module, "LAST_TRIES", 0.05)


def test_requests_are_stored_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 10)
    kept = SavedTotals()
    one = writer(kept)
    for number in range(25):
        one.add(record(number), 0.1)
    assert one.counts() == LedgerCounts(0, 0, 25)
    assert one.flush()
    assert [row.request for row in kept.rows] == [f"r{number}" for number in range(25)]
    assert [number for _, number in kept.batches] == [1, 2, 3]
    assert one.counts() == LedgerCounts(25, 0, 0)


def test_batch_is_stored_once_if_its_commit_was_not_confirmed() -> None:
    kept = SavedTotals()
    one = writer(kept)
    one.add(record(), 0.1)
    stores = kept.write

    def lost_answer(*args: Any) -> bool:
        stores(*args)
        raise StoreUnavailable("cut")

    kept.write = lost_answer  # type: ignore[assignment, method-assign]
    assert not one.flush()
    kept.write = stores  # type: ignore[method-assign]
    one.add(record(1), 0.1)
    assert one.flush()
    assert [row.request for row in kept.rows] == ["r0", "r1"]


def test_full_queue_loses_requests_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    kept = SavedTotals()
    kept.fails = unavailable
    one = writer(kept)
    for number in range(12):
        one.add(record(number), 0.1)
    assert one.counts() == LedgerCounts(0, 2, 10)
    one.start()
    wait_until(lambda: "lost 2 requests" in caplog.text)
    kept.fails = lambda: None
    wait_until(lambda: len(kept.rows) == 10)
    one.close()
    assert caplog.text.count("lost") == 1


def test_stop_stores_what_is_in_the_queue() -> None:
    kept = SavedTotals()
    one = writer(kept)
    one.start()
    one.add(record(), 0.1)
    one.close()
    assert len(kept.rows) == 1


def test_stop_without_database_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    kept = SavedTotals()
    kept.fails = unavailable
    one = writer(kept)
    one.add(record(), 0.1)
    one.add(record(), 0.1)
    one.close()
    assert "lost 2 requests" in caplog.text


def test_batch_that_cannot_be_stored_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 1)
    kept = SavedTotals()
    one = writer(kept)
    steps = iter((True, False))

    def once() -> None:
        if next(steps, False):
            raise ValueError("invalid")

    kept.fails = once
    one.add(record(0), 0.1)
    one.add(record(1), 0.1)
    assert one.flush()
    assert [row.request for row in kept.rows] == ["r1"]
    assert one.counts() == LedgerCounts(1, 1, 0)
    assert "1 rows of the ledger could not be stored" in caplog.text


def test_wrong_keys_and_answers_without_a_model_have_no_row() -> None:
    kept = SavedTotals()
    one = writer(kept, needs_key=True)
    one.add(record(), 0.1)
    unloaded = record(1, "ann")
    unloaded.info.model = ""
    one.add(unloaded, 0.1)
    one.add(record(2, "ann"), 0.1)
    one.flush()
    assert [row.request for row in kept.rows] == ["r2"]


def test_old_rows_are_deleted_in_pieces() -> None:
    kept = SavedTotals()
    kept.old = 2500
    one = writer(kept)
    one.start()
    wait_until(lambda: not kept.old)
    one.close()


def test_defect_in_a_turn_does_not_end_the_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = SavedTotals()
    one = writer(kept)
    steps = iter((True, True))
    flush = one.flush

    def broken() -> bool:
        if next(steps, False):
            raise RuntimeError("nobody foresaw it")
        return flush()

    monkeypatch.setattr(one, "flush", broken)
    one.start()
    one.add(record(), 0.1)
    with caplog.at_level(logging.ERROR):
        wait_until(lambda: len(kept.rows) == 1)
    one.close()
    assert caplog.text.count("the ledger failed; retrying") == 1
