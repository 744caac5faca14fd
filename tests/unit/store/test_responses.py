"""The store of responses: each key its own, a bounded number, on disk if asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.store.responses import MAX_BYTES, ResponseStore, Stored


@pytest.fixture
def store() -> Iterator[ResponseStore]:
    one = ResponseStore("", most=3, most_bytes=1000)
    yield one
    one.close()


def value(text: str) -> Stored:
    return Stored(text.encode(), b"[]")


def test_what_is_put_is_there_for_its_owner_alone(store: ResponseStore) -> None:
    store.put("ann", "r1", 1.0, value("a"))
    assert store.get("ann", "r1") == value("a")
    assert store.get("bob", "r1") is None
    assert not store.delete("bob", "r1")
    assert store.delete("ann", "r1")
    assert store.get("ann", "r1") is None
    assert not store.delete("ann", "r1")


def test_a_second_time_replaces(store: ResponseStore) -> None:
    store.put("ann", "r1", 1.0, value("a"))
    store.put("ann", "r1", 1.0, value("b"))
    assert store.get("ann", "r1") == value("b")


def test_the_oldest_of_a_key_make_room(store: ResponseStore) -> None:
    store.put("bob", "b", 0.0, value("b"))
    for i in range(5):
        store.put("ann", f"r{i}", 7.0, value(str(i)))
    kept = [i for i in range(5) if store.get("ann", f"r{i}") is not None]
    assert len(kept) == 3 and 4 in kept
    assert store.get("bob", "b") is not None


def test_bytes_of_a_key_are_bounded_where_nothing_else_is_said() -> None:
    store = ResponseStore("", most=9)
    fits = Stored(b"x" * (MAX_BYTES - 2), b"[]")
    store.put("ann", "fits", 0.0, fits)
    store.put("ann", "not", 1.0, Stored(fits.response + b"x", b"[]"))
    assert store.get("ann", "not") is None and store.get("ann", "fits") == fits
    store.close()


def test_bytes_are_bounded_too(store: ResponseStore) -> None:
    for i in range(3):
        store.put("ann", f"r{i}", float(i), value("x" * 450))
    assert [store.get("ann", f"r{i}") is not None for i in range(3)] == [False, True, True]
    store.put("ann", "large", 9.0, value("x" * 2000))
    assert store.get("ann", "large") is None


def test_a_file_outlives_the_process(tmp_path: Path) -> None:
    path = str(tmp_path / "responses.db")
    first = ResponseStore(path, most=3)
    first.put("ann", "r1", 1.0, value("你好"))
    first.close()
    second = ResponseStore(path, most=3)
    assert second.get("ann", "r1") == value("你好")
    second.close()


def test_many_threads_put_at_once() -> None:
    store = ResponseStore("", most=1000)
    threads = [
        threading.Thread(
            target=lambda n=n: [store.put("ann", f"{n}-{i}", 1.0, value("x")) for i in range(20)]
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [store.get("ann", f"{n}-{i}") for n in range(8) for i in range(20)]
    store.close()
    assert all(one == value("x") for one in found)
