"""Stored responses of earlier versions, in a SQLite file of their own, come into the database."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")

from proxy.errors import StoreUnavailable
from proxy.store import former_responses, outage
from proxy.store.database import Database
from proxy.store.database_responses import DatabaseResponses
from proxy.store.former_responses import move_from_file
from proxy.store.responses import Stored
from tests.fakes import make_app

# As those versions made them.
FIRST = """
create table response (
  owner text not null,
  id text not null,
  created real not null,
  response blob not null,
  items blob not null,
  primary key (owner, id)
) without rowid;
create index response_created on response (owner, created);
"""
LAST = """
create table if not exists response (
  owner text not null,
  id text not null,
  created real not null,
  response blob not null,
  items blob not null,
  writer text not null default '',
  touched real not null default 0,
  primary key (owner, id)
) without rowid;
create index if not exists response_created on response (owner, created);
create table if not exists cleared (owner text primary key, at real not null) without rowid;
"""
ROWS = [
    ("key-1", "resp_1", 1.0, '{"id":"resp_1","output":"你好"}'.encode(), b'[{"x":"\\u0000"}]'),
    ("key-1", "resp_2", 2.0, b'{"id":"' + b"x" * 200_000 + b'"}', b"[]"),
    ("ann", "resp_3", 3.0, b'{"id":"resp_3","status":"completed","output":[]}', b"[]"),
]


def old_file(file: Path, schema: str = LAST, version: int = 1) -> Path:
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("pragma journal_mode = wal").fetchall()
        db.executescript(schema)
        db.executemany(
            "insert into response (owner, id, created, response, items) values (?, ?, ?, ?, ?)",
            ROWS,
        )
        db.execute(f"pragma user_version = {version}")
    return file


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(outage, "_logged", {})
    return tmp_path / "responses.sqlite"


def kept(database: Database, *owners: str) -> list[tuple[str, str, Stored | None]]:
    store = DatabaseResponses(database, 100)
    return [(one, key, store.get(one, key)) for one in owners for key in store.ids(one)]


def rows(**renamed: str) -> list[tuple[str, str, Stored]]:
    return [(renamed.get(row[0], row[0]), row[1], Stored(row[3], row[4])) for row in ROWS]


@pytest.mark.parametrize("schema", [FIRST, LAST])
def test_a_file_is_moved_whole_and_goes(database: Database, file: Path, schema: str) -> None:
    old_file(file, schema)
    move_from_file(file, database, {})
    assert kept(database, "key-1", "ann") == rows()
    assert not [one for one in file.parent.iterdir() if one.name.startswith(file.name)]
    move_from_file(file, database, {})  # there is none any more


def test_owners_by_place_get_their_names_if_the_file_has_old_ones(
    database: Database, file: Path
) -> None:
    names = {"key-1": "key-new", "ann": "ann"}
    old_file(file, version=0)
    move_from_file(file, database, names)
    assert kept(database, "key-new", "ann") == rows(**{"key-1": "key-new"})


def test_owners_of_a_file_with_names_stay(database: Database, file: Path) -> None:
    old_file(file, version=1)
    move_from_file(file, database, {"key-1": "key-new"})
    assert kept(database, "key-1", "ann") == rows()


def test_what_was_being_made_by_a_dead_process_is_lost(database: Database, file: Path) -> None:
    old_file(file)
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute(
            "update response set writer = 'elsewhere:1:0', touched = 5.0 where id = 'resp_3'"
        )
    move_from_file(file, database, {})
    assert kept(database, "ann") == [("ann", "resp_3", Stored(ROWS[2][3], b"[]", lost=True))]


def test_nothing_is_lost_if_the_process_ends_before_the_file_is_emptied(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(_: sqlite3.Connection) -> None:
        raise KeyboardInterrupt

    old_file(file)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(former_responses, "_drop", end)
        move_from_file(file, database, {})
    assert kept(database, "key-1", "ann") == rows()
    move_from_file(file, database, {})
    assert kept(database, "key-1", "ann") == rows() and not file.exists()


def test_nothing_is_lost_if_the_database_is_unavailable(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise StoreUnavailable("it is away")

    old_file(file)
    with monkeypatch.context() as patch, pytest.raises(StoreUnavailable):
        patch.setattr(former_responses, "insert_into", away)
        move_from_file(file, database, {})
    assert kept(database, "key-1", "ann") == []
    move_from_file(file, database, {})
    assert kept(database, "key-1", "ann") == rows()


def test_several_workers_move_a_file_once(
    url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_file(file)
    looking: list[None] = []
    at_once: list[int] = []
    opened = former_responses._opened

    @contextmanager
    def counted(path: Path) -> Iterator[sqlite3.Connection | None]:
        with opened(path) as old:
            looking.append(None)
            at_once.append(len(looking))
            yield old
            looking.pop()

    # Who opens a SQLite file that another deletes gets "disk I/O error", about once in ten times.
    monkeypatch.setattr(former_responses, "_opened", counted)
    databases = [Database(url) for _ in range(4)]
    databases[0].upgrade()
    failed: list[BaseException] = []

    def move(one: Database) -> None:
        try:
            move_from_file(file, one, {})
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=move, args=[one]) for one in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and max(at_once) == 1
    assert kept(databases[0], "key-1", "ann") == rows()
    for one in databases:
        one.close()


def test_a_file_that_is_no_database_is_left_alone_and_named(
    database: Database, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreUnavailable):
        move_from_file(file, database, {})
    assert f"{file}: DatabaseError: file is not a database" in caplog.text
    assert file.exists()


def test_a_file_without_responses_is_left_alone(database: Database, file: Path) -> None:
    file.touch()
    move_from_file(file, database, {})
    assert file.exists()


def test_responses_of_the_data_folder_are_served_from_its_database(
    tmp_path: Path, file: Path
) -> None:
    old_file(file)
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("update response set owner = ''")
    api = make_app(data=str(tmp_path)).test_client()
    told: Any = api.get("/v1/responses/resp_3").json
    assert told["id"] == "resp_3" and not file.exists()
    assert len(api.get("/v1/data").json["responses"]) == 3
