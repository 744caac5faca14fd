"""Vectors of chunks that were indexed before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("apsw", reason="the extra `knowledge` is not installed")
pytest.importorskip("sqlite_vec", reason="the extra `knowledge` is not installed")

from proxy.knowledge.index import Index, IndexEntry, vector_cache
from proxy.knowledge.index.sqlite import SqliteShelf
from proxy.knowledge.index.vector_cache import VectorCache


class CountingModel:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def made(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        self.asked += texts
        return [(1.0, float(len(text))) for text in texts]

    def embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        return [list(vector) for vector in self.made(texts)]


def test_rebuilt_base_asks_its_model_for_nothing(tmp_path: Path) -> None:
    model = CountingModel()
    index = Index(SqliteShelf(tmp_path / "index.db"), model.embed, cache=VectorCache())
    entries = [IndexEntry(str(n), "d", f"the passage {n}") for n in range(9)]
    index.add("b", entries)
    index.remove_base("b")
    index.add("b", [*entries, IndexEntry("9", "d", "a new one")])
    assert model.asked == [*(one.text for one in entries), "a new one"]
    assert index.census() == {"d": (10, 10)}
    index.close()


def test_bases_and_models_do_not_share_vectors() -> None:
    model, cache = CountingModel(), VectorCache()
    for base, name in (("a", "m"), ("b", "m"), ("a", "n"), ("a", "m")):
        assert cache.completed(base, name, ["x", "xy", "x"], model.made) == [(1, 1), (1, 2), (1, 1)]
    assert model.asked == ["x", "xy"] * 3


def test_size_of_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_cache, "KEPT", 10 * (vector_cache.ENTRY + 8))
    model, cache = CountingModel(), VectorCache()
    texts = [str(n) for n in range(20)]
    cache.completed("b", "m", texts, model.made)
    cache.completed("b", "m", texts[10:], model.made)
    assert model.asked == texts
    cache.completed("b", "m", texts[:1], model.made)
    assert model.asked == [*texts, "0"]
