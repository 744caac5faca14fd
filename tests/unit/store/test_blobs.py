"""Files stored in pieces: unchanged, on both databases, deleted with their owner."""

from __future__ import annotations

from io import BytesIO

from sqlalchemy import func, select

from proxy.store.database import Database
from proxy.store.file_store import PIECE, FileStore, StoredFile
from proxy.store.knowledge import KnowledgeStore
from proxy.store.records import Base, Document
from proxy.store.tables import CONTENTS, ORIGINAL

LONG = bytes(range(256)) * (PIECE // 256) * 2 + b"\0 and the rest"
DOCUMENT = Document(id="doc_1", base_id="vs_1", filename="a.txt", size=len(LONG), created=1.0)
FILE = StoredFile(
    file_id="file-1", filename="a.txt", purpose="assistants", size=len(LONG), created=1.0
)


def test_file_and_its_document_have_separate_bytes(database: Database) -> None:
    rows, files = KnowledgeStore(database), FileStore(database)
    rows.add_base("me", Base(id="vs_1", name="n"))
    files.put("me", FILE, BytesIO(LONG))
    assert rows.add_file("you", DOCUMENT, "file-1") is False
    assert rows.document("you", "doc_1") is None
    assert rows.add_file("me", DOCUMENT, "file-1") is True
    assert files.delete("me", "file-1")
    assert b"".join(rows.original("doc_1")) == LONG
    assert rows.delete_document("me", "doc_1")
    for table in (ORIGINAL, CONTENTS):
        with database.begin() as db:
            assert db.execute(select(func.count()).select_from(table)).scalar() == 0


def test_read_of_deleted_document_ends(database: Database) -> None:
    files = FileStore(database)
    files.put("me", FILE, BytesIO(LONG))
    reading = files.content("file-1")
    assert next(reading) == LONG[:PIECE]
    assert files.delete("me", "file-1")
    assert list(reading) == []
