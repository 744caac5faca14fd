"""A database that cannot be used is a 503 that names no statement; when it is back, it works."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")

from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from proxy.errors import StoreUnavailable
from proxy.store import database as module
from proxy.store import outage
from proxy.store.conversations import ConversationStore
from proxy.store.database import Database
from proxy.store.responses import ResponseStore, Stored

SECRET = "what ann wrote"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "BUSY", 0.05)
    monkeypatch.setattr(outage, "_logged", {})
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk" / "kept.db"


@pytest.fixture
def database(file: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{file}")
    made.upgrade()
    yield made
    made.close()


def fails(database: Database, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """Twice, with one line in the log, which tells why and no more."""
    caplog.clear()
    talks = ConversationStore(database)
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as told:
            talks.create("ann", SECRET)
        assert (told.value.status, told.value.message) == (503, outage.MESSAGE)
        assert told.value.retry_after
    lines = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    lines = [one for one in lines if reason in one]  # apps of other tests may log, too
    assert len(lines) == 1
    assert "insert" not in lines[0].lower() and SECRET not in lines[0]


def test_a_locked_file(file: Path, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("begin immediate")
        fails(database, caplog, "database is locked")
        assert ConversationStore(database).recent("ann") == (), "reading still works"
    assert ConversationStore(database).create("ann").title == ""


def test_a_folder_that_is_away(
    file: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    talk = ConversationStore(database).create("ann", "kept")
    away = file.parent.rename(file.parent.with_name("away"))
    fails(database, caplog, "unable to open")
    file.parent.mkdir()  # a disk's mount point
    with pytest.raises(StoreUnavailable):
        ConversationStore(database).recent("ann")
    assert list(file.parent.iterdir()) == [], "no other database is made in its place"
    file.parent.rmdir()
    away.rename(file.parent)
    assert ConversationStore(database).get("ann", talk.id).title == "kept"


def test_a_restored_backup_is_used_at_once(file: Path, database: Database) -> None:
    """The file is replaced by another one, while connections to the old one are open."""
    talks = ConversationStore(database)
    backup = file.with_name("backup.db")
    with closing(sqlite3.connect(file)) as now, closing(sqlite3.connect(backup)) as then:
        now.backup(then)
    talks.create("ann", "after the backup")
    assert len(talks.recent("ann")) == 1
    for one in file.parent.glob("kept.db-*"):
        one.unlink()
    backup.replace(file)
    assert talks.recent("ann") == ()


def test_a_full_disk(file: Path, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    def bound(pages: int) -> None:
        with database.engine.connect() as connection:
            connection.execute(text(f"pragma max_page_count = {pages}")).all()

    bound(1)  # SQLite takes it for what it has now
    talks = ConversationStore(database)
    with pytest.raises(StoreUnavailable):
        for _ in range(100):
            talks.create("ann", SECRET * 100)
    assert "full" in caplog.text and SECRET not in caplog.text
    bound(1_000_000)
    assert talks.create("ann").title == ""


def test_what_is_no_database(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_bytes(b"no database at all" * 100)
    made = Database(f"sqlite:///{file}")
    with pytest.raises(StoreUnavailable):
        made.upgrade()
    assert "not a database" in caplog.text
    made.close()


def test_no_connection_is_free(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    taken = [database.engine.connect() for _ in range(8)]
    fails(database, caplog, "no connection was free")
    for one in taken:
        one.close()
    assert ConversationStore(database).create("ann").title == ""


def test_a_wrong_statement_is_a_defect(database: Database) -> None:
    with pytest.raises(OperationalError, match="no such table"), database.begin() as connection:
        connection.execute(text("select * from unknown"))


@pytest.mark.parametrize(
    "state", ["57P01", "53300", "08006", "25006", "40P01", "28P01", "3D000", "42501", "XX001", None]
)
def test_what_postgres_says_of_itself(state: str | None) -> None:
    psycopg = pytest.importorskip("psycopg")
    kind = psycopg.errors.lookup(state) if state else psycopg.OperationalError
    assert isinstance(outage.outage(kind("why")), StoreUnavailable)


@pytest.mark.parametrize("state", ["42P01", "23505", "22P02"])
def test_what_postgres_says_of_a_statement(state: str) -> None:
    psycopg = pytest.importorskip("psycopg")
    assert outage.outage(psycopg.errors.lookup(state)("why")) is None


def test_responses_whose_file_is_away_are_there_again(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    store = ResponseStore(str(tmp_path / "disk" / "r"), 10)
    store.put("ann", "r1", 1.0, Stored(b"{}", b"[]"))
    (tmp_path / "disk").rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.put("ann", "r2", 2.0, Stored(b"{}", b"[]"))
    (tmp_path / "away").rename(tmp_path / "disk")
    store.put("ann", "r3", 3.0, Stored(b"{}", b"[]"))
    assert store.ids("ann") == ["r1", "r3"]
    store.close()


def test_a_commit_that_fails_leaves_no_transaction(tmp_path: Path) -> None:
    store = ResponseStore(str(tmp_path / "r"), 100)
    store.put("ann", "r0", 0.0, Stored(b"{}", b"[]"))
    store._do(lambda db: db.execute("pragma max_page_count = 1"), write=False)
    large = Stored(b"x" * 100_000, b"[]")
    for number in (1, 2):
        with pytest.raises(StoreUnavailable) as told:
            store.put("ann", f"r{number}", 1.0, large)
        assert "full" in told.value.detail
    store._do(lambda db: db.execute("pragma max_page_count = 1000000"), write=False)
    store.put("ann", "r3", 3.0, large)
    assert store.ids("ann") == ["r0", "r3"]
    store.close()


def test_who_waited_for_a_failed_opening_fails_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would try by itself otherwise, one after the other."""
    from proxy.config import Settings
    from proxy.keeping import Keeping

    keeping = Keeping(Settings(data=str(tmp_path)), None, None)
    tries: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def upgrade(_: Database) -> None:
        tries.append(1)
        begun.set()
        assert go_on.wait(10)
        raise StoreUnavailable("it is away")

    monkeypatch.setattr(Database, "upgrade", upgrade)
    talks = keeping.conversations
    if talks is None:
        pytest.skip("the extra `knowledge` is not installed")
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            talks.recent("ann")
        except StoreUnavailable as error:
            failed.append(error)

    lock, came = keeping._lock, threading.Semaphore(0)

    class Counted:
        def __enter__(self) -> None:
            came.release()
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    monkeypatch.setattr(keeping, "_lock", Counted())
    threads = [threading.Thread(target=ask) for _ in range(6)]
    for one in threads:
        one.start()
    for _ in threads:
        assert came.acquire(timeout=10)
    assert begun.wait(10)
    go_on.set()
    for one in threads:
        one.join(10)
    assert len(failed) == 6 and len(tries) == 1
    monkeypatch.undo()
    assert talks.recent("ann") == ()
