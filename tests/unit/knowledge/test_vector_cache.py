"""Vectors of chunks that were indexed before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("apsw", reason="the extra `knowledge` is not installed")
pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")
pytest.importorskip("sqlite_vec", reason="the extra `knowledge` is not installed")

from proxy.knowledge.index.index import Index, VectorCache
from proxy.knowledge.index.records import IndexEntry
from proxy.knowledge.index.sqlite import SqliteShelf
from proxy.knowledge.service import Knowledge
from proxy.store.database import Database
from proxy.store.knowledge import KnowledgeStore, TextVectors


class CountingModel:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def made(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        self.asked += texts
        return [(1.0, float(len(text))) if text else () for text in texts]

    def embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        return [list(vector) for vector in self.made(texts)]


class Fixture:
    """Knowledge whose vectors are kept, and the model that makes them."""

    def __init__(self, folder: Path) -> None:
        self.model = CountingModel()
        self.database = Database(f"sqlite:///{folder / 'kept.db'}")
        self.database.upgrade()
        self.vectors = TextVectors(self.database)
        shelf = SqliteShelf(folder / "index.db")
        self.index = Index(shelf, self.model.embed, cache=self.cache("m 1"))
        store = KnowledgeStore(self.database)
        self.knowledge = Knowledge(store, self.index, lambda: None, 1 << 20)

    def cache(self, model: str) -> VectorCache:
        return VectorCache(self.vectors, model)

    def base(self, owner: str) -> str:
        return self.knowledge.create(owner, "b").id


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Fixture]:
    fixture = Fixture(tmp_path)
    yield fixture
    fixture.index.close()
    fixture.database.close()


def test_rebuilt_base_asks_its_model_for_nothing(made: Fixture) -> None:
    entries = [IndexEntry(str(n), "d", f"the passage {n}") for n in range(9)]
    first = made.base("ann")
    made.index.add(first, entries)
    made.knowledge.delete("ann", first)
    second = made.base("ann")
    made.index.add(second, [*entries, IndexEntry("9", "d", "a new one")])
    assert made.model.asked == [*(one.text for one in entries), "a new one"]
    assert made.index.census() == {"d": (10, 10)}


def test_edited_chunk_does_not_wait_for_the_cache(made: Fixture) -> None:
    base = made.base("ann")
    for wait in (True, False):
        made.index.add(base, [IndexEntry("1", "d", "the passage")], wait=wait)
    assert made.model.asked == ["the passage"] * 2


def test_owners_and_models_do_not_share_vectors(made: Fixture) -> None:
    ann, bob = made.base("ann"), made.base("bob")
    for base, model in ((ann, "m 1"), (bob, "m 1"), (ann, "m 2"), (ann, "m 1")):
        vectors = made.cache(model).completed(base, ["x", "xy", "x", ""], made.model.made)
        assert vectors == [(1, 1), (1, 2), (1, 1), ()]
    assert made.model.asked == ["x", "xy", ""] * 3


def test_vectors_of_deleted_data_are_deleted(made: Fixture) -> None:
    for owner in ("ann", "bob"):
        made.cache("m").completed(made.base(owner), ["x"], made.model.made)
    made.knowledge.delete_all("ann")
    for owner in ("ann", "bob"):
        made.cache("m").completed(made.base(owner), ["x"], made.model.made)
    assert made.model.asked == ["x"] * 3
