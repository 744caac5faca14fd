from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from proxy.errors import NotFound, StoreUnavailable
from proxy.store.conversations import ConversationStore
from proxy.store.database import PAGE_CACHE, Database
from proxy.store.knowledge import KnowledgeStore
from proxy.store.records import Document
from proxy.store.revisions import NEWEST
from proxy.store.tables import CONVERSATION, LEDGER, LEDGER_MEASURE, REVISION, SHARED
from tests.fakes import at_once


def _set_revision(database: Database, revision: str) -> None:
    with database.begin() as db:
        db.execute(text(f"update alembic_version set version_num = '{revision}'"))


@pytest.mark.parametrize(
    ("revision", "reason"),
    [
        ("0001", "revision 0001: start slotproxy 0.1"),
        ("0020", "revision 0020: start slotproxy 0.1"),
        ("9999", "revision 9999, and this slotproxy knows those up to"),
    ],
)
def test_tables_of_another_version_are_left_alone(
    database: Database, revision: str, reason: str
) -> None:
    _set_revision(database, revision)
    with pytest.raises(StoreUnavailable) as caught:
        database.upgrade()
    assert reason in (caught.value.detail or "")
    assert database.revision() == revision


def test_tables_of_the_version_before_are_upgraded(database: Database) -> None:
    _set_revision(database, "0021")
    with database.begin() as db:
        db.execute(text("create table text_vector (owner varchar)"))
    database.upgrade()
    assert database.revision() == NEWEST
    assert not inspect(database.engine).has_table("text_vector")


def test_older_tables_get_those_of_shared_conversations(database: Database) -> None:
    """As the tables of a new database, and again after an interruption."""
    with database.begin() as db:
        db.execute(text("drop table shared_conversation"))
    for _ in range(2):
        _set_revision(database, "0022")
        database.upgrade()
    new = inspect(database.engine)
    columns = {column["name"]: column["nullable"] for column in new.get_columns(SHARED.name)}
    assert columns == {column.name: column.nullable for column in SHARED.columns}
    assert {index["name"] for index in new.get_indexes(SHARED.name)} == {
        index.name for index in SHARED.indexes
    }
    store = ConversationStore(database)
    talk = store.create("ann").id
    link = store.shared.add("ann", talk, "Title", [{"role": "user"}]).id
    assert store.shared.read(link).messages == [{"role": "user"}]
    store.delete("ann", talk)
    with pytest.raises(NotFound):
        store.shared.read(link)


def test_older_tables_get_that_of_measures(database: Database) -> None:
    """As the table of a new database, and again after an interruption."""
    with database.begin() as db:
        db.execute(text("drop table ledger_measure"))
    for _ in range(2):
        _set_revision(database, "0023")
        database.upgrade()
    new = inspect(database.engine)
    columns = {column["name"]: column["nullable"] for column in new.get_columns("ledger_measure")}
    assert columns == {column.name: column.nullable for column in LEDGER_MEASURE.columns}
    key = new.get_pk_constraint("ledger_measure")["constrained_columns"]
    assert key == [column.name for column in LEDGER_MEASURE.primary_key]


def test_older_ledgers_get_a_column_of_tags_and_lose_one(database: Database) -> None:
    """As the table of a new database, and again after an interruption."""
    with database.begin() as db:
        db.execute(text("alter table ledger_row drop column tags"))
        db.execute(text("alter table ledger_row add column blocks varchar not null default ''"))
    for _ in range(2):
        _set_revision(database, "0024")
        database.upgrade()
    new = inspect(database.engine)
    columns = {column["name"]: column["nullable"] for column in new.get_columns(LEDGER.name)}
    assert columns == {column.name: column.nullable for column in LEDGER.columns}


def test_several_processes_can_upgrade_at_once(url: str) -> None:
    def upgrade(process: int) -> None:
        database = Database(url)
        try:
            database.upgrade()
        finally:
            database.close()

    at_once(upgrade, 4)


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'kept.db'}")
    database.upgrade()
    with database.begin() as writing:
        writing.exec_driver_sql("insert into conversation values ('c', 'o', '', '{}', 0, 0, 0)")
        with database.begin() as reading:
            count = reading.exec_driver_sql("select count(*) from conversation").scalar()
            assert count == 0
    database.close()


def test_interrupted_creation_is_no_later_version(unmade: Database) -> None:
    with unmade.begin() as db:
        CONVERSATION.create(db)
        REVISION.create(db)
    unmade.upgrade()
    assert unmade.revision() == NEWEST


def test_insert_under_a_deleted_parent_is_not_found(database: Database) -> None:
    """Another request may delete a base or conversation between the check and the insert."""
    knowledge, talks = KnowledgeStore(database), ConversationStore(database)
    document = Document(id="doc_1", base_id="vs_gone", filename="a.txt", size=1)
    with pytest.raises(NotFound, match="deleted in the meantime"):
        knowledge.add_document("ann", document, BytesIO(b"x"))
    with pytest.raises(NotFound):
        talks.add("ann", "conv_gone", "user", "Hi", None)
    assert knowledge.documents("ann", "vs_gone") == []


def test_text_with_nul_is_stored_and_found(database: Database) -> None:
    """PostgreSQL has no NUL; JSON and URLs do."""
    talks = ConversationStore(database)
    talk = talks.create("ann", "a\0b", {"files": "a\0b"})
    said = talks.add("ann", talk.id, "user", "Hi\0there", None, extra={"x": "\0"})
    assert talks.message("ann", said.id).content in ("Hi\0there", "Hi\ufffdthere")
    assert [hit.id for hit in talks.recent("ann", "Hi\0there")] == [talk.id]
    assert KnowledgeStore(database).document("ann", "doc\0") is None


def test_database_error_shows_no_values(unmade: Database) -> None:
    with pytest.raises(DBAPIError) as failed, unmade.begin() as connection:
        connection.execute(text("select nothing from nowhere where x = :x"), {"x": "secret"})
    assert "nowhere" in str(failed.value) and "secret" not in str(failed.value)


def test_pages_kept_by_a_connection_are_bounded(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'data.db'}")
    with database.begin() as connection:
        pages = connection.execute(text("pragma cache_size")).scalar()
        assert pages == -PAGE_CACHE / 1024  # negative: KiB
    database.close()
