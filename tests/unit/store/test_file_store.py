"""Rows of OpenAI's files and vector stores: visible to their owner, deleted with their base."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")
pytest.importorskip("alembic", reason="the extra `knowledge` is not installed")

from msgspec.structs import replace
from sqlalchemy import delete, insert

from proxy.store.database import Database
from proxy.store.file_store import Attached, Batch, FileStore, StoredFile, StoredVectorStore
from proxy.store.tables import BASE

ONE = StoredFile(file_id="file-1", filename="a.txt", purpose="assistants", size=3, created=1.0)
TWO = StoredFile(
    file_id="file-2", filename="b.txt", purpose="batch", size=3, created=2.0, expires=10.0
)
PUT = Attached(
    base_id="vs_1",
    file_id="file-1",
    document_id="doc_1",
    batch_id="",
    attributes={"x": 1, "y": True},
    tokens=800,
    overlap=400,
    created=3.0,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    one = Database(f"sqlite:///{tmp_path}/kept.sqlite")
    one.upgrade()
    with one.begin() as db:
        values = {"info": "", "embedding_model": "", "created": 1.0, "temporary": False}
        db.execute(insert(BASE).values(id="vs_1", owner="me", name="n", **values))
    yield one
    one.close()


@pytest.fixture
def files(database: Database) -> FileStore:
    store = FileStore(database)
    store.put("me", TWO, BytesIO(b"two"))
    store.put("me", ONE, BytesIO(b"one"))
    return store


def test_files_are_visible_to_their_owner_only(files: FileStore) -> None:
    assert files.all("me") == [ONE, TWO]
    assert files.get("me", "file-2") == TWO
    assert list(files.content("file-1")) == [b"one"]
    assert files.expired("me", 10.0) == [TWO] and files.expired("me", 9.0) == []
    assert files.all("you") == [] and files.get("you", "file-1") is None
    assert files.delete("you", "file-1") is False
    assert files.delete("me", "file-1") is True and list(files.content("file-1")) == []


def test_vector_store_record_is_replaced(files: FileStore) -> None:
    kept = StoredVectorStore("vs_1", {"a": "b"}, 3, 5.0)
    files.put_store("me", kept)
    files.put_store("me", replace(kept, active=6.0))
    assert files.get_store("me", "vs_1") == replace(kept, active=6.0)
    files.put_store("you", replace(kept, active=7.0))  # not theirs to change
    assert files.get_store("me", "vs_1") == replace(kept, active=6.0)
    assert files.get_store("you", "vs_1") is None


def test_files_of_a_vector_store_are_listed(files: FileStore) -> None:
    files.attach("me", PUT)
    files.attach("me", replace(PUT, document_id="doc_2", attributes={}))
    assert files.attached("me", "vs_1") == [replace(PUT, document_id="doc_2", attributes={})]
    assert files.attachments("me", "file-1") == files.attached("me", "vs_1")
    assert files.attached("you", "vs_1") == files.attachments("you", "file-1") == []
    files.detach("you", "vs_1", "file-1")
    assert files.attachments("me", "file-1") != []
    files.detach("me", "vs_1", "file-1")
    assert files.attachments("me", "file-1") == []


def test_vector_store_is_deleted_with_its_base(files: FileStore, database: Database) -> None:
    files.put_store("me", StoredVectorStore("vs_1", {}, None, 5.0))
    files.attach("me", PUT)
    files.put_batch("me", Batch("vsfb_1", "vs_1", 4.0))
    files.put_batch("me", Batch("vsfb_1", "vs_1", 4.0, cancelled=True))
    assert files.batch("me", "vsfb_1") == Batch("vsfb_1", "vs_1", 4.0, cancelled=True)
    with database.begin() as db:
        db.execute(delete(BASE))
    assert files.get_store("me", "vs_1") is None and files.batch("me", "vsfb_1") is None
    assert files.attached("me", "vs_1") == []
    assert files.all("me") == [ONE, TWO]  # files are visible only to their owner
