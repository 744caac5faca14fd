"""The store of responses: per key, bounded, in memory or in a database."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from proxy.store.responses import MAX_BYTES, MemoryResponses, Stored
from tests.fakes import at_once

from .conftest import empty_database

if TYPE_CHECKING:
    from proxy.store.database import Database
    from proxy.store.database_responses import DatabaseResponses, ResponseStore

Make = Callable[..., "ResponseStore"]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes stores; those of a database have it in common."""
    if request.param == "memory":
        yield MemoryResponses
        return
    url = empty_database(request.param, request, tmp_path)
    from proxy.store.database_responses import DatabaseResponses

    database = opened(url)
    yield lambda *args, **how: DatabaseResponses(database, *args, **how)
    database.close()


@pytest.fixture
def store(make: Make) -> ResponseStore:
    return make(3, most_bytes=1000)


def opened(url: str) -> Database:
    from proxy.store.database import Database

    database = Database(url)
    database.upgrade()
    return database


@pytest.fixture
def process(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes stores as other processes of other hosts have them, in the same database."""
    from proxy.store import records
    from proxy.store.database_responses import DatabaseResponses

    databases: list[Database] = []

    def another(most: int = 100, **how: Any) -> DatabaseResponses:
        monkeypatch.setattr(records, "new_name", lambda: f"host{len(databases)}:1:0")
        databases.append(opened(url))
        return DatabaseResponses(databases[-1], most, **how)

    yield another
    for database in databases:
        database.close()


def value(text: str) -> Stored:
    return Stored(text.encode(), b"[]")


def test_response_is_readable_by_its_owner_only(store: ResponseStore) -> None:
    store.put("ann", "r1", 1.0, value("a"))
    assert store.get("ann", "r1") == value("a")
    assert store.get("bob", "r1") is None
    assert not store.delete("bob", "r1")
    assert not store.change_open("bob", "r1", b"{}", over=True)
    assert store.ids("bob") == [] and store.clear("bob") == 0
    assert store.delete("ann", "r1")
    assert store.get("ann", "r1") is None
    assert not store.delete("ann", "r1")


def test_oldest_responses_of_a_key_are_dropped_at_the_bound(store: ResponseStore) -> None:
    store.put("bob", "b", 0.0, value("b"))
    for i in range(5):
        store.put("ann", f"r{i}", 7.0, value(str(i)))
    numbers = [i for i in range(5) if store.get("ann", f"r{i}") is not None]
    assert len(numbers) == 3 and 4 in numbers
    assert store.get("bob", "b") is not None


def test_ids_are_told_oldest_first(make: Make) -> None:
    store = make(10)
    for created in (3.0, 1.0, 2.0):
        store.put("ann", f"r{created:g}", created, value("x"))
    assert store.ids("ann") == ["r1", "r2", "r3"]


def test_bytes_of_a_key_have_a_default_bound(make: Make) -> None:
    store = make(9)
    fits = Stored(b"x" * (MAX_BYTES - 2), b"[]")
    store.put("ann", "fits", 0.0, fits)
    store.put("ann", "not", 1.0, Stored(fits.response + b"x", b"[]"))
    assert store.get("ann", "not") is None and store.get("ann", "fits") == fits


def test_bytes_of_stored_responses_are_bounded(store: ResponseStore) -> None:
    for i in range(3):
        store.put("ann", f"r{i}", float(i), value("x" * 450))
    assert [store.get("ann", f"r{i}") is not None for i in range(3)] == [False, True, True]
    store.put("ann", "large", 9.0, value("x" * 2000))
    assert store.get("ann", "large") is None


def test_a_response_is_changed_until_it_is_over(store: ResponseStore) -> None:
    store.put("ann", "r1", 1.0, value("queued"), making=True)
    assert store.change_open("ann", "r1", b"in_progress", over=False)
    assert store.get("ann", "r1") == value("in_progress")
    assert store.change_open("ann", "r1", b"completed", over=True)
    store.close_open("ann", "r1")
    assert not store.change_open("ann", "r1", b"cancelled", over=True)
    assert store.get("ann", "r1") == value("completed")


def test_changes_of_one_response_at_once_are_all_kept(make: Make) -> None:
    store = make(3)
    store.put("ann", "r1", 1.0, Stored(b"{}", b""))

    def longer(worker: int) -> None:
        for _ in range(10):
            store.change("ann", "r1", lambda old: old._replace(items=old.items + b"x"))

    at_once(longer, 4)
    stored = store.get("ann", "r1")
    assert stored is not None and stored.items == b"x" * 40


def test_change_that_fails_or_has_nothing_to_change_leaves_all_as_it_is(
    store: ResponseStore,
) -> None:
    store.put("ann", "r1", 1.0, Stored(b"a", b"b"))

    def refused(stored: Stored) -> Stored:
        raise ValueError(stored.response)

    with pytest.raises(ValueError, match="a"):
        store.change("ann", "r1", refused)
    assert store.change("bob", "r1", refused) is None
    assert store.change("ann", "r2", refused) is None
    store.put("ann", "r3", 2.0, Stored(b"", b""), making=True)
    assert store.change("ann", "r3", refused) is None, "it is being made"
    assert store.get("ann", "r1") == Stored(b"a", b"b")


def test_a_response_whose_writer_gave_up_is_lost(store: ResponseStore) -> None:
    store.put("ann", "r1", 1.0, value("a"), making=True)
    store.close_open("ann", "r1")
    assert store.get("ann", "r1") == Stored(b"a", b"[]", lost=True)


def test_clearing_deletes_what_was_begun_before_it(make: Make) -> None:
    now = [1000.0]
    store = make(10, clock=lambda: now[0])
    store.put("ann", "r1", 1.0, value("a"))
    store.put("bob", "r2", 1.0, value("a"))
    assert store.clear("ann") == 1
    now[0] += 1
    store.put("ann", "before", 1.0, value("a"), begun=999.0)
    store.put("bob", "other", 1.0, value("a"), begun=999.0)
    store.put("ann", "after", 1.0, value("a"), begun=1000.5)
    assert store.ids("ann") == ["after"] and sorted(store.ids("bob")) == ["other", "r2"]


def test_a_clearing_in_the_future_of_a_clock_that_was_set_back_deletes_nothing(make: Make) -> None:
    now = [1000.0]
    store = make(10, clock=lambda: now[0])
    store.clear("ann")
    now[0] = 500.0
    store.put("ann", "r1", 1.0, value("a"), begun=499.0)
    assert store.ids("ann") == ["r1"]


# A database


def test_two_workers_that_store_at_once_keep_the_bounds_of_a_key(
    process: Callable[..., DatabaseResponses],
) -> None:
    workers = [process(5), process(5)]

    def put(worker: int) -> None:
        for number in range(20):
            workers[worker].put("ann", f"{worker}-{number}", float(number), value("x"))

    at_once(put, 2)
    newest = {"0-19", "1-19", "0-18", "1-18"}
    ids = workers[0].ids("ann")
    assert len(ids) == 5 and newest < set(ids) and ids == workers[1].ids("ann")


def test_a_store_that_waits_for_a_clearing_keeps_nothing(
    process: Callable[..., DatabaseResponses],
) -> None:
    """The other process has cleared, and not yet committed, when this one comes to store."""
    from sqlalchemy import insert

    from proxy.store.tables import RESPONSE_OWNER

    now = 1000.0
    first, second = (process(clock=lambda: now) for _ in range(2))
    came = threading.Thread(
        target=lambda: second.put("ann", "r1", 1.0, value("a"), begun=999.0), daemon=True
    )
    with first._db.begin() as db:
        db.execute(insert(RESPONSE_OWNER).values(owner="ann", cleared=now))
        came.start()
        came.join(0.2)
        assert came.is_alive(), "it did not wait"
    came.join(60)
    assert first.ids("ann") == []


def test_a_writer_of_another_host_is_lost_when_it_gives_no_sign_of_life(
    process: Callable[..., DatabaseResponses],
) -> None:
    from proxy.store.database_responses import LEASE

    now = [1000.0]
    writer, reader = (process(clock=lambda: now[0]) for _ in range(2))
    writer.put("ann", "r1", 1.0, value("a"), making=True)

    def lost() -> bool:
        stored = reader.get("ann", "r1")
        assert stored is not None
        return stored.lost

    now[0] += LEASE - 1
    assert not lost()
    assert writer.beat() == []
    now[0] += LEASE - 1
    assert not lost()
    now[0] += 2
    assert lost()
    assert writer.get("ann", "r1") == value("a"), "the writer itself knows better"


def test_no_writer_is_lost_while_the_database_was_unavailable(
    process: Callable[..., DatabaseResponses], monkeypatch: pytest.MonkeyPatch
) -> None:
    from proxy.store.database_responses import LEASE

    now = [1000.0]
    writer, reader = (process(clock=lambda: now[0]) for _ in range(2))
    writer.put("ann", "r1", 1.0, value("a"), making=True)
    now[0] += LEASE + 1
    monkeypatch.setattr(reader._db, "_failed", time.monotonic() - 1.0)
    assert reader.get("ann", "r1") == value("a")


def test_a_dead_process_of_this_host_is_lost_at_once(
    process: Callable[..., DatabaseResponses], monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    writer, reader = process(), process()
    for pid, lost in ((os.getpid(), False), (dead.pid, True)):
        writer._name = f"{socket.gethostname()}:{pid}:0"
        writer.put("ann", f"r{pid}", 1.0, value("a"), making=True)
        assert reader.get("ann", f"r{pid}") == Stored(b"a", b"[]", lost)


def test_a_beat_tells_what_others_have_cancelled_or_deleted(
    process: Callable[..., DatabaseResponses],
) -> None:
    writer, other = process(), process()
    assert writer.beat() == []
    for key in ("wanted", "cancelled", "deleted"):
        writer.put("ann", key, 1.0, value("a"), making=True)
    assert other.change_open("ann", "cancelled", b"{}", over=True)
    assert other.delete("ann", "deleted")
    assert sorted(writer.beat()) == [("ann", "cancelled"), ("ann", "deleted")]
    for key in ("wanted", "cancelled", "deleted"):
        writer.close_open("ann", key)
    assert writer.beat() == []


def test_deleted_responses_are_in_no_file_of_sqlite(tmp_path: Path) -> None:
    from proxy.store.database_responses import DatabaseResponses

    database = opened(f"sqlite:///{tmp_path / 'kept.db'}")
    store = DatabaseResponses(database, 10)
    for owner in ("ann", "bob"):
        store.put(owner, "r1", 1.0, value(f"zqxmarker{owner}"))

    def is_on_disk(word: bytes) -> bool:
        return any(word in file.read_bytes() for file in tmp_path.iterdir())

    assert is_on_disk(b"zqxmarkerann")
    assert store.clear("ann") == 1
    assert not is_on_disk(b"zqxmarkerann") and is_on_disk(b"zqxmarkerbob")
    database.close()
