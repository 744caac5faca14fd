from __future__ import annotations

import threading
from io import BytesIO
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from proxy.errors import NotFound, StoreUnavailable
from proxy.store import sqlite
from proxy.store.conversations import ConversationStore
from proxy.store.database import Database
from proxy.store.knowledge import KnowledgeStore
from proxy.store.records import Document
from proxy.store.revisions import newest_revision
from proxy.store.tables import ALEMBIC_VERSION, CONVERSATION, metadata


def test_new_database_has_the_tables_of_its_models(url: str) -> None:
    database = Database(url)
    database.upgrade()
    database.upgrade()  # again: nothing to do
    with database.begin() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": _ours})
        assert compare_metadata(context, metadata) == []
    database.close()


@pytest.mark.parametrize("revision", ["0001", "0020"])
def test_tables_of_an_older_version_are_refused_with_what_to_do(url: str, revision: str) -> None:
    database = Database(url)
    try:
        database.upgrade()
        with database.begin() as db:
            db.execute(text(f"update alembic_version set version_num = '{revision}'"))
        with pytest.raises(StoreUnavailable) as caught:
            database.upgrade()
        assert f"revision {revision}: start slotproxy 0.1" in (caught.value.detail or "")
        assert database.revision() == revision
    finally:
        database.close()


def test_tables_of_the_version_before_are_upgraded(url: str) -> None:
    database = Database(url)
    try:
        database.upgrade()
        with database.begin() as db:
            db.execute(text("update alembic_version set version_num = '0021'"))
            db.execute(text("create table text_vector (owner varchar)"))
        database.upgrade()
        assert database.revision() == newest_revision()
        assert not inspect(database.engine).has_table("text_vector")
    finally:
        database.close()


def _ours(thing: object, name: str, kind: str, reflected: bool, other: object) -> bool:
    return kind != "table" or name in metadata.tables


def test_several_processes_can_upgrade_at_once(url: str) -> None:
    failed: list[BaseException] = []

    def upgrade() -> None:
        database = Database(url)
        try:
            database.upgrade()
        except BaseException as error:
            failed.append(error)
        database.close()

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'kept.db'}")
    database.upgrade()
    with database.begin() as writing:
        writing.exec_driver_sql("insert into conversation values ('c', 'o', '', '{}', 0, 0, 0)")
        with database.begin() as reading:
            found = reading.exec_driver_sql("select count(*) from conversation").scalar()
            assert found == 0
    database.close()


def test_new_and_current_tables_need_no_alembic(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alembic.command.upgrade", None)
    database = Database(url)
    database.upgrade()
    database.upgrade()
    database.close()


def test_interrupted_creation_is_no_later_version(url: str) -> None:
    database = Database(url)
    try:
        with database.begin() as db:
            CONVERSATION.create(db)
            ALEMBIC_VERSION.create(db)
        database.upgrade()
        assert database.revision() == newest_revision()
    finally:
        database.close()


def test_tables_of_a_later_version_are_left_alone(url: str) -> None:
    database = Database(url)
    try:
        database.upgrade()
        with database.begin() as db:
            db.execute(text("update alembic_version set version_num = '9999'"))
        with pytest.raises(StoreUnavailable) as caught:
            database.upgrade()
        assert "9999" in (caught.value.detail or "")
        assert database.revision() == "9999"
    finally:
        database.close()


def test_insert_under_a_deleted_parent_is_not_found(url: str) -> None:
    """Another request may delete a base or conversation between the check and the insert."""
    database = Database(url)
    database.upgrade()
    try:
        knowledge, talks = KnowledgeStore(database), ConversationStore(database)
        document = Document(id="doc_1", base_id="vs_gone", filename="a.txt", size=1)
        with pytest.raises(NotFound, match="deleted in the meantime"):
            knowledge.add_document("ann", document, BytesIO(b"x"))
        with pytest.raises(NotFound):
            talks.add("ann", "conv_gone", "user", "Hi", None)
        assert knowledge.documents("ann", "vs_gone") == []
    finally:
        database.close()


def test_text_with_nul_is_stored_and_found(url: str) -> None:
    """PostgreSQL has no NUL; JSON and URLs do."""
    database = Database(url)
    database.upgrade()
    try:
        talks = ConversationStore(database)
        talk = talks.create("ann", "a\0b", {"files": "a\0b"})
        said = talks.add("ann", talk.id, "user", "Hi\0there", None, extra={"x": "\0"})
        assert talks.message("ann", said.id).content in ("Hi\0there", "Hi\ufffdthere")
        assert [one.id for one in talks.recent("ann", "Hi\0there")] == [talk.id]
        assert KnowledgeStore(database).document("ann", "doc\0") is None
    finally:
        database.close()


def test_database_error_shows_no_values(url: str) -> None:
    database = Database(url)
    with pytest.raises(DBAPIError) as failed, database.begin() as connection:
        connection.execute(text("select nothing from nowhere where x = :x"), {"x": "secret"})
    assert "nowhere" in str(failed.value) and "secret" not in str(failed.value)
    database.close()


def test_pages_kept_by_a_connection_are_bounded(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'data.db'}")
    with database.begin() as connection:
        kept = connection.execute(text("pragma cache_size")).scalar()
        assert kept == -sqlite.PAGE_CACHE / 1024  # negative: KiB
    database.close()


def test_connection_used_last_is_used_next(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'data.db'}")
    first, second = (database.engine.connect() for _ in "ab")
    last = second.connection.dbapi_connection
    first.close()
    second.close()
    with database.begin() as connection:
        assert connection.connection.dbapi_connection is last
    database.close()
