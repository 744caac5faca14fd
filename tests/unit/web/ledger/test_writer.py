"""Batches of the ledger, also if the database does not keep up."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pytest

from proxy.errors import StoreUnavailable
from proxy.store.ledger import Ledger
from proxy.store.ledger_rows import LedgerRow
from proxy.store.measures import Counts
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
        self.measured: list[Mapping[int, Counts]] = []

    def write(
        self, name: str, number: int, rows: Sequence[LedgerRow], measured: Mapping[int, Counts]
    ) -> bool:
        self.fails()
        if (name, number) in self.batches:
            return False
        self.batches.append((name, number))
        self.rows += rows
        self.measured.append(measured)
        return True

    def prune_measures(self, now: int) -> None:
        pass

    def prune(self, before: int) -> int:
        gone, self.old = min(self.old, 1000), max(0, self.old - 1000)
        return gone


def made(*, needs_key: bool = False) -> tuple[SavedTotals, LedgerWriter]:
    saved = SavedTotals()
    return saved, LedgerWriter(cast(Ledger, saved), days=1, needs_key=lambda: needs_key)


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
    saved, writer = made()
    for number in range(25):
        writer.add(record(number), 0.1)
    assert writer.counts() == LedgerCounts(0, 0, 25)
    assert writer.flush()
    assert [row.request for row in saved.rows] == [f"r{number}" for number in range(25)]
    assert [number for _, number in saved.batches] == [1, 2, 3]
    assert writer.counts() == LedgerCounts(25, 0, 0)


def test_batch_is_stored_once_if_its_commit_was_not_confirmed() -> None:
    saved, writer = made()
    writer.add(record(), 0.1)
    stores = saved.write

    def lost_answer(*args: Any) -> bool:
        stores(*args)
        raise StoreUnavailable("cut")

    saved.write = lost_answer  # type: ignore[assignment, method-assign]
    assert not writer.flush()
    saved.write = stores  # type: ignore[method-assign]
    writer.add(record(1), 0.1)
    assert writer.flush()
    assert [row.request for row in saved.rows] == ["r0", "r1"]


def test_measures_are_stored_with_the_batch_that_follows_them() -> None:
    saved, writer = made()
    parts = [{3600: Counter({("requests", 0): number})} for number in (1, 2)]
    taken = iter(parts)
    writer.unstored = lambda: next(taken)
    assert writer.flush()  # without a request there is nothing to take
    writer.add(record(), 0.1)
    saved.fails = unavailable
    assert not writer.flush()
    saved.fails = lambda: None
    writer.add(record(1), 0.1)
    assert writer.flush()
    assert saved.measured == parts


def test_full_queue_loses_requests_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    saved, writer = made()
    saved.fails = unavailable
    for number in range(12):
        writer.add(record(number), 0.1)
    assert writer.counts() == LedgerCounts(0, 2, 10)
    writer.start()
    wait_until(lambda: "2 requests lost" in caplog.text)
    saved.fails = lambda: None
    wait_until(lambda: len(saved.rows) == 10)
    writer.close()
    assert caplog.text.count("lost") == 1


def test_stop_stores_what_is_in_the_queue() -> None:
    saved, writer = made()
    writer.start()
    writer.add(record(), 0.1)
    writer.close()
    assert len(saved.rows) == 1


def test_stop_without_database_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    saved, writer = made()
    saved.fails = unavailable
    writer.add(record(), 0.1)
    writer.add(record(), 0.1)
    writer.close()
    assert "2 requests lost" in caplog.text


def test_batch_that_cannot_be_stored_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 1)
    saved, writer = made()
    steps = iter((True, False))

    def once() -> None:
        if next(steps, False):
            raise ValueError("invalid")

    saved.fails = once
    writer.add(record(0), 0.1)
    writer.add(record(1), 0.1)
    assert writer.flush()
    assert [row.request for row in saved.rows] == ["r1"]
    assert writer.counts() == LedgerCounts(1, 1, 0)
    assert "usage: 1 requests could not be stored" in caplog.text


def test_wrong_keys_and_answers_without_a_model_have_no_row() -> None:
    saved, writer = made(needs_key=True)
    writer.add(record(), 0.1)
    unloaded = record(1, "ann")
    unloaded.info.model = ""
    writer.add(unloaded, 0.1)
    writer.add(record(2, "ann"), 0.1)
    writer.flush()
    assert [row.request for row in saved.rows] == ["r2"]


def test_old_rows_are_deleted_in_pieces() -> None:
    saved, writer = made()
    saved.old = 2500
    writer.start()
    writer.add(record(1, "ann"), 0.1)  # before, nothing opens the database
    wait_until(lambda: not saved.old)
    writer.close()


def test_defect_in_a_turn_does_not_end_the_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saved, writer = made()
    steps = iter((True, True))
    flush = writer.flush

    def broken() -> bool:
        if next(steps, False):
            raise RuntimeError("nobody foresaw it")
        return flush()

    monkeypatch.setattr(writer, "flush", broken)
    writer.start()
    writer.add(record(), 0.1)
    with caplog.at_level(logging.ERROR):
        wait_until(lambda: len(saved.rows) == 1)
    writer.close()
    assert caplog.text.count("the ledger failed; retrying") == 1
