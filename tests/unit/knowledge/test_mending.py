"""What the index has lost, or never had, is made again of the chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")
pytest.importorskip("apsw", reason="the extra `knowledge` is not installed")

from proxy.errors import BadRequest
from proxy.knowledge.index import Index, open_shelf
from proxy.knowledge.mending import mend
from proxy.knowledge.values import Base, Chunk, Document
from proxy.store.database import Database
from proxy.store.knowledge import KnowledgeStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    """Two documents of two chunks each, one of them still being read."""
    database = Database(f"sqlite:///{tmp_path}/kept.sqlite")
    database.upgrade()
    rows = KnowledgeStore(database)
    rows.add_base("me", Base("vs_1", "n", created=1.0))
    for number, name in enumerate(("done", "open")):
        rows.add_document(
            "me", Document(name, "vs_1", f"{name}.txt", 1, created=number), BytesIO(b"x")
        )
        claimed = rows.claim("reader", 1.0, 0.0)
        assert claimed is not None and claimed[1].id == name
        chunks = [
            Chunk(f"{name}{i}", name, "vs_1", i, f"passage {i} of what is {name}") for i in range(2)
        ]
        rows.progress(claimed[1], "reader", chunks, 0.5, 1.0)
        if name == "done":
            rows.finish(claimed[1], "reader")
    yield rows
    database.close()


def by_length(model: str, texts: Sequence[str]) -> list[list[float]]:
    return [[1.0, float(len(text))] for text in texts]


def test_a_lost_index_is_made_again(store: KnowledgeStore, tmp_path: Path) -> None:
    shelf = open_shelf(file=tmp_path / "index.db")
    index = Index(shelf)
    assert mend(store, index) == 1
    found = index.search(["vs_1"], "passage", 5)
    assert {one.chunk_id for one in found} == {"done0", "done1"}
    assert mend(store, index) == 0
    index.remove_chunks(["done1"])
    assert mend(store, index) == 1
    assert index.census() == {"done": (2, 0)}
    # An embedding backend is named from now on.
    embedding = Index(shelf, by_length)
    assert mend(store, embedding) == 1
    assert embedding.census() == {"done": (2, 2)}
    assert mend(store, embedding) == mend(store, Index(shelf)) == 0
    shelf.close()


def test_without_the_backend_it_waits(store: KnowledgeStore) -> None:
    def refuses(model: str, texts: Sequence[str]) -> list[list[float]]:
        raise BadRequest("not now")

    shelf = open_shelf()
    assert mend(store, Index(shelf, refuses)) == 0
    shelf.close()
