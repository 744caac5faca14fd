"""Files in pieces: as they were, on both databases, gone with what they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")
pytest.importorskip("alembic", reason="the extra `knowledge` is not installed")

from sqlalchemy import delete, func, select, text

from proxy.knowledge.values import Base, Document
from proxy.store.database import Database
from proxy.store.files import File, FileStore
from proxy.store.knowledge import KnowledgeStore
from proxy.store.pieces import PIECE
from proxy.store.tables import BASE, CONTENTS, FILES, ORIGINAL

LONG = bytes(range(256)) * (PIECE // 256) * 2 + b"\0 and the rest"
DOCUMENT = Document("doc_1", "vs_1", "a.txt", len(LONG), created=1.0)
FILE = File("file-1", "a.txt", "assistants", len(LONG), 1.0)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    one = Database(url)
    one.upgrade()
    KnowledgeStore(one).add_base("me", Base("vs_1", "n", created=1.0))
    yield one
    one.close()


@pytest.mark.parametrize("data", [b"", b"x", LONG[:PIECE], LONG], ids=len)
def test_what_was_kept_comes_back_in_pieces(database: Database, data: bytes) -> None:
    rows = KnowledgeStore(database)
    rows.add_document("me", DOCUMENT, BytesIO(data))
    found = list(rows.original("doc_1"))
    assert b"".join(found) == data and len(found) == -(-len(data) // PIECE)


def test_a_file_becomes_a_document_and_each_has_its_own_bytes(database: Database) -> None:
    rows, files = KnowledgeStore(database), FileStore(database.engine)
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


def test_pieces_go_with_a_whole_base(database: Database) -> None:
    KnowledgeStore(database).add_document("me", DOCUMENT, BytesIO(LONG))
    with database.begin() as db:
        db.execute(delete(BASE))
        assert db.execute(select(func.count()).select_from(ORIGINAL)).scalar() == 0


def test_one_that_is_deleted_while_it_is_read_ends(database: Database) -> None:
    files = FileStore(database.engine)
    files.put("me", FILE, BytesIO(LONG))
    reading = files.content("file-1")
    assert next(reading) == LONG[:PIECE]
    assert files.delete("me", "file-1")
    assert list(reading) == []


def test_files_of_an_older_version_are_cut(url: str) -> None:
    database = Database(url)
    database.upgrade("0002")
    with database.begin() as db:
        db.execute(
            text(
                "insert into knowledge_base (id, owner, name, info, embedding_model, created,"
                " temporary) values ('vs_1', 'me', 'n', '', '', 1, false)"
            )
        )
        values = {"number": DOCUMENT.size, "data": LONG}
        db.execute(
            text(
                "insert into document (id, base_id, owner, filename, size, status, error, done,"
                " chunks, created, chunk_size, chunk_overlap, job_id, reader, beat) values"
                " ('doc_1', 'vs_1', 'me', 'a.txt', :number, 'ready', '', 1, 0, 1, 9, 0, '', '', 0)"
            ),
            values,
        )
        db.execute(text("insert into document_original (id, data) values ('doc_1', :data)"), values)
        db.execute(FILES.insert().values(owner="me", **_fields(FILE)))
        db.execute(
            text(
                "insert into openai_file_content (file_id, owner, data)"
                " values ('file-1', 'me', :data)"
            ),
            values,
        )
    database.upgrade()
    assert b"".join(KnowledgeStore(database).original("doc_1")) == LONG
    assert b"".join(FileStore(database.engine).content("file-1")) == LONG
    database.close()


def _fields(file: File) -> dict[str, object]:
    return {name: getattr(file, name) for name in file.__struct_fields__}
