"""An unusable database is a 503 that shows no statement; when it is back, requests work again."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from proxy.errors import StoreUnavailable
from proxy.store import database as module
from proxy.store import outage
from proxy.store.conversations import ConversationStore
from proxy.store.database import Database
from proxy.store.database_responses import DatabaseResponses
from proxy.store.responses import Stored

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
    """Fails twice, with one log line that has only the reason."""
    caplog.clear()
    talks = ConversationStore(database)
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as refused:
            talks.create("ann", SECRET)
        assert (refused.value.status, refused.value.message) == (503, outage.MESSAGE)
        assert refused.value.retry_after
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    lines = [line for line in lines if reason in line]  # apps of other tests may log, too
    assert len(lines) == 1
    assert "insert" not in lines[0].lower() and SECRET not in lines[0]


def test_locked_file_is_unavailable(
    file: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("begin immediate")
        fails(database, caplog, "database is locked")
        assert ConversationStore(database).recent("ann") == (), "reading still works"
    assert ConversationStore(database).create("ann").title == ""


def test_missing_folder_is_unavailable(
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


def test_restored_backup_is_used_at_once(file: Path, database: Database) -> None:
    """The file is replaced by another one, while connections to the old one are open."""
    talks = ConversationStore(database)
    backup = file.with_name("backup.db")
    with closing(sqlite3.connect(file)) as now, closing(sqlite3.connect(backup)) as then:
        now.backup(then)
    talks.create("ann", "after the backup")
    assert len(talks.recent("ann")) == 1
    for leftover in file.parent.glob("kept.db-*"):
        leftover.unlink()
    backup.replace(file)
    assert talks.recent("ann") == ()


def bound(database: Database, pages: int) -> None:
    """Let SQLite take its disk for full at so many pages, or at its current ones."""
    with database.engine.connect() as connection:
        connection.execute(text(f"pragma max_page_count = {pages}")).all()


def test_full_disk_is_reported(
    file: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    bound(database, 1)
    talks = ConversationStore(database)
    with pytest.raises(StoreUnavailable):
        for _ in range(100):
            talks.create("ann", SECRET * 100)
    assert "full" in caplog.text and SECRET not in caplog.text
    bound(database, 1_000_000)
    assert talks.create("ann").title == ""


def test_corrupt_database_file_is_reported(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_bytes(b"no database at all" * 100)
    made = Database(f"sqlite:///{file}")
    with pytest.raises(StoreUnavailable):
        made.upgrade()
    assert "not a database" in caplog.text
    made.close()


def test_exhausted_connection_pool_is_unavailable(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    taken = [database.engine.connect() for _ in range(module.CONNECTIONS)]
    fails(database, caplog, "no database connection became free")
    for connection in taken:
        connection.close()
    assert ConversationStore(database).create("ann").title == ""


def test_wrong_statement_is_not_reported_as_unavailable(database: Database) -> None:
    with pytest.raises(OperationalError, match="no such table"), database.begin() as connection:
        connection.execute(text("select * from unknown"))


AWAY = ["57P01", "53300", "08006", "25006", "40P01", "28P01", "3D000", "42501", "XX001", None]


@pytest.mark.parametrize("state", [*AWAY, "42P01", "23505", "22P02"])
def test_postgres_errors_are_classified(state: str | None) -> None:
    psycopg = pytest.importorskip("psycopg")
    kind = psycopg.errors.lookup(state) if state else psycopg.OperationalError
    assert (outage.outage(kind("why")) is not None) == (state in AWAY)


def test_responses_return_when_their_file_is_back(file: Path, database: Database) -> None:
    store = DatabaseResponses(database, 10)
    store.put("ann", "r1", 1.0, Stored(b"{}", b"[]"))
    away = file.parent.rename(file.parent.with_name("away"))
    for work in (
        lambda: store.put("ann", "r2", 2.0, Stored(b"{}", b"[]")),
        lambda: store.put("ann", "r2", 2.0, Stored(b"{}", b"[]"), making=True),
        lambda: store.get("ann", "r1"),
        lambda: store.ids("ann"),
        lambda: store.change_open("ann", "r1", b"{}", over=True),
        lambda: store.change("ann", "r1", lambda stored: stored),
        lambda: store.delete("ann", "r1"),
        lambda: store.clear("ann"),
    ):
        with pytest.raises(StoreUnavailable):
            work()
    store.close_open("ann", "r2")
    away.rename(file.parent)
    assert store.beat() == [], "what could not be opened is not made"
    store.put("ann", "r3", 3.0, Stored(b"{}", b"[]"))
    assert store.ids("ann") == ["r1", "r3"]


def test_failed_commit_leaves_no_transaction(database: Database) -> None:
    store = DatabaseResponses(database, 100)
    store.put("ann", "r0", 0.0, Stored(b"{}", b"[]"))
    bound(database, 1)
    large = Stored(b"x" * 100_000, b"[]")
    for number in (1, 2):
        with pytest.raises(StoreUnavailable) as refused:
            store.put("ann", f"r{number}", 1.0, large)
        assert "full" in refused.value.detail
    bound(database, 1_000_000)
    store.put("ann", "r3", 3.0, large)
    assert store.ids("ann") == ["r0", "r3"]


def test_waiters_share_the_failure_of_an_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each of them would try again, one after the other."""
    from proxy.app.storage import LazyServices
    from proxy.config import Settings

    keeping = LazyServices(Settings(data=str(tmp_path)), None, None)
    tries: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def upgrade(_: Database) -> None:
        tries.append(1)
        begun.set()
        assert go_on.wait(60)
        raise StoreUnavailable("it is away")

    monkeypatch.setattr(Database, "upgrade", upgrade)
    talks = keeping.conversations
    if talks is None:
        pytest.skip("the extra `knowledge` is not installed")
    lock, came = keeping._lock, threading.Semaphore(0)

    class Counted:
        def __enter__(self) -> None:
            came.release()
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    monkeypatch.setattr(keeping, "_lock", Counted())
    with ThreadPoolExecutor(6) as pool:
        waits = [pool.submit(lambda: talks.recent("ann")) for _ in range(6)]
        for _ in waits:
            assert came.acquire(timeout=60)
        assert begun.wait(60)
        go_on.set()
    assert all(isinstance(wait.exception(), StoreUnavailable) for wait in waits)
    assert len(tries) == 1
    monkeypatch.undo()
    assert talks.recent("ann") == ()
