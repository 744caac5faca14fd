"""Batches in the database: one process runs a batch, and a line has one result."""

from __future__ import annotations

import json
from io import BytesIO

import pytest
from msgspec import structs

from proxy.errors import NotFound, QuotaExceeded
from proxy.store import request_batches
from proxy.store.database import Database
from proxy.store.file_store import PIECE, FileStore, StoredFile
from proxy.store.quota import Quota
from proxy.store.records import RequestBatch, Result, Tokens
from proxy.store.request_batches import RequestBatches


def batches(database: Database, writer: str) -> RequestBatches:
    """The batches as another process sees them."""
    seen = RequestBatches(database)
    seen.writer = writer
    return seen


def batch(name: str, owner: str = "anna", created: float = 1.0) -> RequestBatch:
    return RequestBatch(
        id=name,
        owner=owner,
        created=created,
        endpoint="/v1/chat/completions",
        file_id="file-1",
        window="24h",
        times={"expires": created + 100},
    )


def claimed(store: RequestBatches, now: float) -> RequestBatch:
    taken = store.claim(now)
    assert taken is not None
    return taken


def output(name: str) -> StoredFile:
    return StoredFile(file_id=name, filename="o", purpose="batch_output", size=0, created=1.0)


def test_keys_take_turns_and_files_are_checked_first(database: Database) -> None:
    store = batches(database, "far:1:a")
    for name, owner in (("a0", "anna"), ("a1", "anna"), ("a2", "anna"), ("b0", "boris")):
        store.add(batch(name, owner))
    order = []
    for number in range(6):
        taken = claimed(store, 10.0 + number)
        order.append(taken.id)
        if taken.status == "validating":
            store.begin(taken.id, 1, "m", 10.0 + number)
        store.release(taken.id, 10.5 + number)
    assert order == ["a0", "b0", "a1", "b0", "a2", "b0"]


def test_batch_is_run_by_one_process_at_a_time(database: Database) -> None:
    first, other = batches(database, "far:1:a"), batches(database, "away:1:b")
    first.add(batch("b1"))
    assert first.claim(10.0) is not None
    assert other.claim(11.0) is None
    assert first.beat("b1", 12.0) == "validating"
    first.release("b1", 13.0)
    assert other.others_wait()
    assert other.claim(14.0) is not None
    assert first.beat("b1", 15.0) == ""


def test_process_that_lost_its_batch_stores_nothing(database: Database) -> None:
    first, other = batches(database, "far:1:a"), batches(database, "away:1:b")
    first.add(batch("b1"))
    first.claim(10.0)
    first.begin("b1", 2, "m", 11.0)
    assert first.add_results("b1", [Result(0, False, b"0\n", Tokens(1, 0, 2, 0))])
    assert other.claim(12.0) is None
    taken = claimed(other, 13.0 + request_batches.LEASE)
    assert (taken.completed, taken.tokens) == (1, (1, 0, 2, 0))
    assert not first.add_results("b1", [Result(1, False, b"1\n")])
    assert not first.close("b1", "completed", {})
    with pytest.raises(NotFound):
        first.write_file(taken, failed=False, now=50.0)
    assert list(other.done("b1")) == [0]


@pytest.mark.parametrize("size", [10, PIECE // 3, 2 * PIECE + 1])
def test_files_have_the_results_in_order(database: Database, size: int) -> None:
    store, files = batches(database, "far:1:a"), FileStore(database)
    store.add(batch("b1"))
    taken = claimed(store, 10.0)
    store.begin("b1", 4, "m", 11.0)
    parts = [json.dumps({"n": n, "x": "x" * size}).encode() + b"\n" for n in range(4)]
    for n in (2, 0, 3, 1):
        assert store.add_results("b1", [Result(n, n == 3, parts[n])])
    # A process that was killed has begun the file.
    assert store.write_file(taken, failed=False, now=12.0)
    assert store.write_file(taken, failed=False, now=12.0)
    assert store.write_file(taken, failed=True, now=12.0)
    assert store.close("b1", "completed", {"completed": 13.0})
    results, errors = files.all("anna")
    assert (results.filename, errors.filename) == ("b1_output.jsonl", "b1_errors.jsonl")
    whole = b"".join(files.content(results.file_id))
    assert whole == b"".join(parts[:3]) and results.size == len(whole)
    assert b"".join(files.content(errors.file_id)) == parts[3]
    closed = store.get("anna", "b1")
    assert closed is not None
    assert (closed.completed, closed.failed) == (3, 1)
    assert (closed.output_file, closed.error_file) == (results.file_id, errors.file_id)
    store.drop_results()
    assert list(store.done("b1")) == []


def test_cancelled_batch_is_not_begun(database: Database) -> None:
    store = batches(database, "far:1:a")
    store.add(batch("b1"))
    store.claim(10.0)
    cancelled = store.cancel("anna", "b1", 11.0)
    assert cancelled is not None and cancelled.times["cancelling"] == 11.0
    store.begin("b1", 2, "m", 12.0)
    assert store.beat("b1", 12.0) == "cancelling"
    assert store.close("b1", "cancelled", {"cancelled": 13.0})
    again = store.cancel("anna", "b1", 14.0)
    assert again is not None and (again.status, again.total) == ("cancelled", 2)
    assert store.claim(15.0) is None


def test_number_of_open_batches_is_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_batches, "MOST_OPEN", 2)
    store = batches(database, "far:1:a")
    for name in ("b1", "b2"):
        store.add(batch(name))
    with pytest.raises(QuotaExceeded):
        store.add(batch("b3"))
    store.add(batch("b4", owner="boris"))
    assert [item.id for item in store.all("anna")] == ["b1", "b2"]


def test_oldest_finished_batches_make_room(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_batches, "MOST", 2)
    store = batches(database, "far:1:a")
    for i in range(4):
        store.add(batch(f"b{i}", created=float(i)))
        store.close(claimed(store, 10.0).id, "completed", {})
    assert [item.id for item in store.all("anna")] == ["b2", "b3"]


def test_results_of_unfinished_batches_count_against_the_quota(database: Database) -> None:
    quota = Quota(files=2, bytes=100)
    store, files = RequestBatches(database, quota), FileStore(database, quota)
    store.add(batch("b1"))
    assert store.claim(2.0) is not None
    assert store.check_quota("anna", 60) == 40
    store.add_results("b1", [Result(0, False, b"x" * 60)])
    with pytest.raises(QuotaExceeded, match="--quota-bytes"):
        store.check_quota("anna", 41)
    assert store.check_quota("boris", 41) == 59
    with pytest.raises(QuotaExceeded, match="--quota-bytes"):
        files.put("anna", structs.replace(output("f1"), size=41), BytesIO(b"x" * 41))
    store.close("b1", "completed", {"completed": 3.0})
    files.put("anna", structs.replace(output("f1"), size=41), BytesIO(b"x" * 41))
    store.check_quota("anna", 0)
    files.put("anna", output("f2"), BytesIO(b""))
    with pytest.raises(QuotaExceeded, match="files: delete some"):
        store.check_quota("anna", 0)
