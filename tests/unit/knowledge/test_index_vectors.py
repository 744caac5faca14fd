"""Vectors in SQLite: preselected by signs where there are many."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("apsw", reason="the extra `knowledge` is not installed")
pytest.importorskip("sqlite_vec", reason="the extra `knowledge` is not installed")

from proxy.knowledge.index import sqlite
from proxy.knowledge.index.index import IndexBackend, unit
from proxy.knowledge.index.records import IndexRow
from proxy.knowledge.index.sqlite import SqliteShelf

MANY = 600


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[SqliteShelf]:
    one = SqliteShelf(tmp_path / "index.db")
    yield one
    one.close()


def drawn(size: int) -> list[tuple[float, ...]]:
    """Vectors like embeddings: each near one of a few directions."""
    draw = random.Random(1)
    topics = [[draw.gauss(0, 1) for _ in range(size)] for _ in range(20)]
    return [
        unit([x + draw.gauss(0, 0.6) for x in topics[number % len(topics)]])
        for number in range(MANY)
    ]


def put(shelf: IndexBackend, vectors: Sequence[tuple[float, ...]]) -> None:
    rows = [IndexRow(str(n), f"d{n % 7}", " x ", 1, vector) for n, vector in enumerate(vectors)]
    shelf.put("b", rows)
    shelf.put("other", [IndexRow("o", "d0", " x ", 1, vectors[0])])


@pytest.mark.parametrize("size", [64, 61])
@pytest.mark.parametrize("documents", [None, ["d1", "d2"]])
def test_sign_quantization_selects_like_distances(
    shelf: SqliteShelf,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    documents: list[str] | None,
) -> None:
    vectors = drawn(size)
    put(shelf, vectors)
    agreed = 0
    for asked in vectors[:40]:
        exact = shelf.nearest("b", asked, documents, 10)
        monkeypatch.setattr(sqlite, "EXACT", 0)
        chosen = shelf.nearest("b", asked, documents, 10)
        monkeypatch.undo()
        assert len(exact) == len(chosen) == 10
        assert all(one.chunk_id != "o" for one in chosen)
        if documents:
            assert {one.document_id for one in chosen} <= set(documents)
        else:
            assert chosen[0] == exact[0] and chosen[0].cosine == pytest.approx(1, abs=1e-5)
        agreed += len({one.chunk_id for one in exact} & {one.chunk_id for one in chosen})
    assert agreed >= 0.95 * 400, agreed


def test_removed_vectors_are_not_selected(
    shelf: SqliteShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "EXACT", 0)
    vectors = drawn(16)
    put(shelf, vectors)
    shelf.drop(chunks=["0"])
    shelf.put("b", [IndexRow("1", "d1", " x ", 1, vectors[2])])  # another vector
    found = [one.chunk_id for one in shelf.nearest("b", vectors[2], None, 5)]
    assert {"1", "2"} <= set(found[:2]) and "0" not in found
    shelf.drop(base="b")
    assert shelf.nearest("b", vectors[2], None, 5) == []
    assert [one.chunk_id for one in shelf.nearest("other", vectors[0], None, 5)] == ["o"]
