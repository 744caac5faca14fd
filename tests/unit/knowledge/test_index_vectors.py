"""Vectors in SQLite."""

from __future__ import annotations

from pathlib import Path

from proxy.knowledge.index.records import IndexRow
from proxy.knowledge.index.sqlite import SqliteShelf


def test_removed_vectors_are_not_found_also_after_a_restart(tmp_path: Path) -> None:
    before = SqliteShelf(tmp_path / "index.db")
    vectors = [tuple(float(i == n) for i in range(13)) for n in range(4)]
    before.put("b", [IndexRow(str(n), "d", " x ", 1, vector) for n, vector in enumerate(vectors)])
    before.put("other", [IndexRow("o", "d", " x ", 1, vectors[0])])
    before.close()
    shelf = SqliteShelf(tmp_path / "index.db")
    shelf.drop(chunks=["0"])
    shelf.put("b", [IndexRow("1", "d1", " x ", 1, vectors[2])])  # another vector
    nearest = [hit.chunk_id for hit in shelf.nearest("b", vectors[2], None, 5)]
    assert {"1", "2"} <= set(nearest[:2]) and "0" not in nearest
    shelf.drop(base="b")
    assert shelf.nearest("b", vectors[2], None, 5) == []
    assert [hit.chunk_id for hit in shelf.nearest("other", vectors[0], None, 5)] == ["o"]
    shelf.close()
