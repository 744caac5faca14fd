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
from proxy.store.tables import CONVERSATION, REVISION
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


def _shape(database: Database) -> dict[str, object]:
    """What the database itself says about its tables."""
    there = inspect(database.engine)
    return {
        name: (
            {column["name"]: column["nullable"] for column in there.get_columns(name)},
            there.get_pk_constraint(name)["constrained_columns"],
            sorted(str(index["name"]) for index in there.get_indexes(name)),
            [key["referred_table"] for key in there.get_foreign_keys(name)],
        )
        for name in there.get_table_names()
    }


@pytest.mark.parametrize(
    ("revision", "older"),
    [
        ("0021", ["create table text_vector (owner varchar)"]),
        ("0022", ["drop table shared_conversation"]),
        ("0023", ["drop table ledger_measure"]),
        ("0024", ["alter table ledger_row drop column tags"]),
        ("0025", ["alter table ledger_row add column blocks varchar not null default ''"]),
        ("0026", [f"create table {name} (id int)" for name in ("account_team_member", "feedback")]),
    ],
)
def test_older_tables_become_those_of_a_new_database(
    database: Database, revision: str, older: list[str]
) -> None:
    """Also after an interruption, behind which the steps run again."""
    new = _shape(database)
    with database.begin() as db:
        for statement in older:
            db.execute(text(statement))
    assert _shape(database) != new
    for _ in range(2):
        _set_revision(database, revision)
        database.upgrade()
        assert (_shape(database), database.revision()) == (new, NEWEST)
    store = ConversationStore(database)
    talk = store.create("ann").id
    link = store.shared.add("ann", talk, "Title", [{"role": "user"}]).id
    store.delete("ann", talk)
    with pytest.raises(NotFound):
        store.shared.read(link)


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
