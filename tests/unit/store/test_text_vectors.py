"""Vectors of texts that were indexed before, kept in a database."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")

from sqlalchemy import select

from proxy.store import knowledge
from proxy.store.database import Database
from proxy.store.knowledge import ENTRY, KnowledgeStore, TextVectors
from proxy.store.records import Base
from proxy.store.tables import TEXT_VECTOR


def with_bases(database: Database, **owners: str) -> KnowledgeStore:
    store = KnowledgeStore(database)
    for base, owner in owners.items():
        store.add_base(owner, Base(id=base, name=base))
    return store


def test_base_made_anew_finds_vectors_after_a_restart(url: str) -> None:
    database = Database(url)
    database.upgrade()
    store = with_bases(database, old="ann")
    kept = TextVectors(database)
    kept.keep("old", {b"1": b"one", b"2": b""})
    kept.keep("old", {b"1": b"one"})  # two workers may embed the same text
    store.delete_base("ann", "old")
    kept.keep("old", {b"3": b"three"})  # its base was deleted
    database.close()

    database = Database(url)
    with_bases(database, new="ann", other="bob")
    kept = TextVectors(database)
    assert kept.recall("new", [b"1", b"2", b"3"]) == {b"1": b"one", b"2": b""}
    assert kept.recall("other", [b"1"]) == {}
    assert kept.recall("none", [b"1"]) == {}
    database.close()


def test_vectors_of_one_owner_are_deleted(database: Database) -> None:
    store = with_bases(database, a="ann", b="bob")
    kept = TextVectors(database)
    for base in ("a", "b"):
        kept.keep(base, {b"1": b"one"})
    store.delete_vectors("ann")
    assert kept.recall("a", [b"1"]) == {}
    assert kept.recall("b", [b"1"]) == {b"1": b"one"}


def test_longest_unused_vectors_beyond_the_bound_are_deleted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_bases(database, a="ann", b="bob")
    monkeypatch.setattr(knowledge, "MOST", 16 * (ENTRY + 4))
    kept = TextVectors(database)

    def at(hour: float) -> None:
        monkeypatch.setattr(time, "time", lambda: hour * 2 * knowledge.RECENT)

    def held(owner: str) -> list[bytes]:
        query = select(TEXT_VECTOR.c.digest).where(TEXT_VECTOR.c.owner == owner)
        return sorted(row.digest for row in database.rows(query))

    keys = [bytes([number]) for number in range(40)]
    at(1)
    kept.keep("a", dict.fromkeys(keys[:2], b"1234"))
    at(2)
    kept.keep("b", dict.fromkeys(keys[:2], b"1234"))
    at(3)
    kept.recall("a", keys[:2])  # used again
    for number, key in enumerate(keys[2:14]):
        at(4 + number)
        kept.keep("a", {key: b"1234"})
    assert held("bob") == []  # unused for longest
    assert held("ann") == keys[:14]
    for number, key in enumerate(keys[14:]):
        at(20 + number)
        kept.keep("a", {key: b"1234"})
        assert len(held("ann")) <= 16
    assert held("ann")[-14:] == keys[-14:]
