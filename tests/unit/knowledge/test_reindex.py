"""Missing parts of the index are rebuilt from the chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import pytest

from proxy.errors import BadRequest
from proxy.knowledge.index import Index
from proxy.knowledge.index.sqlite import SqliteShelf
from proxy.knowledge.ingest import reindex_missing
from proxy.store.database import Database
from proxy.store.knowledge import KnowledgeStore
from proxy.store.records import Base, Chunk, Document


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    """A store with two documents of two chunks each; one is still being read."""
    database = Database(f"sqlite:///{tmp_path}/kept.sqlite")
    database.upgrade()
    rows = KnowledgeStore(database)
    rows.add_base("me", Base(id="vs_1", name="n", created=1.0))
    for number, name in enumerate(("done", "open")):
        rows.add_document(
            "me",
            Document(id=name, base_id="vs_1", filename=f"{name}.txt", size=1, created=number),
            BytesIO(b"x"),
        )
        claimed = rows.claim("reader", 1.0, 0.0)
        assert claimed is not None and claimed[1].id == name
        chunks = [
            Chunk(
                id=f"{name}{i}",
                document_id=name,
                base_id="vs_1",
                number=i,
                text=f"passage {i} of what is {name}",
            )
            for i in range(2)
        ]
        rows.progress(claimed[1], "reader", chunks, 0.5, 1.0)
        if name == "done":
            rows.finish(claimed[1], "reader")
    yield rows
    database.close()


def by_length(model: str, texts: Sequence[str]) -> list[list[float]]:
    return [[1.0, float(len(text))] for text in texts]


def test_lost_vector_index_is_rebuilt(store: KnowledgeStore, tmp_path: Path) -> None:
    shelf = SqliteShelf(tmp_path / "index.db")
    index = Index(shelf)
    assert reindex_missing(store, index) == 1
    hits = index.search(["vs_1"], "passage", 5)
    assert {hit.chunk_id for hit in hits} == {"done0", "done1"}
    assert reindex_missing(store, index) == 0
    index.shelf.drop(chunks=["done1"])
    assert reindex_missing(store, index) == 1
    assert index.shelf.census() == {"done": (2, 0)}
    # From now on an embedding backend is configured.
    embedding = Index(shelf, by_length)
    assert reindex_missing(store, embedding) == 1
    assert embedding.shelf.census() == {"done": (2, 2)}
    assert reindex_missing(store, embedding) == reindex_missing(store, Index(shelf)) == 0
    shelf.close()


def test_indexing_waits_for_the_embedding_backend(store: KnowledgeStore, tmp_path: Path) -> None:
    def refuses(model: str, texts: Sequence[str]) -> list[list[float]]:
        raise BadRequest("not now")

    shelf = SqliteShelf(tmp_path / "index.db")
    assert reindex_missing(store, Index(shelf, refuses)) == 0
    shelf.close()
