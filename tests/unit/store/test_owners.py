"""Whose the kept data are: of a key's name, and of nobody else when keys change their places."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from io import BytesIO
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")

from flask.testing import FlaskClient

from proxy import api_keys
from proxy.api_keys import ApiKey, Secret
from proxy.store.database import Database
from proxy.store.responses import ResponseStore, Stored
from tests.fakes import client

ANNA, BORIS, CARLA = (Secret(f"sk-{name}") for name in ("anna", "boris", "carla"))


def key_file(*lines: str) -> tuple[ApiKey, ...]:
    return api_keys.read("\n".join(lines), "keys.txt")


def served(folder: Path, *lines: str) -> FlaskClient:
    return client(data=str(folder), file_keys=key_file(*lines))


def files(to: FlaskClient, secret: str) -> list[str]:
    answer = to.get("/v1/files", headers={"Authorization": f"Bearer {secret}"})
    assert answer.json is not None
    return [one["filename"] for one in answer.json["data"]]


def upload(to: FlaskClient, secret: str, name: str) -> None:
    data = {"purpose": "assistants", "file": (BytesIO(b"private notes"), name)}
    answer = to.post("/v1/files", data=data, headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 200, answer.json


def test_a_deleted_key_leaves_its_files_to_nobody(tmp_path: Path) -> None:
    upload(served(tmp_path, ANNA, BORIS), ANNA, "anna.txt")
    assert files(served(tmp_path, BORIS), BORIS) == []
    assert files(served(tmp_path, "# a comment", BORIS, ANNA), ANNA) == ["anna.txt"]


def old(url: str, *owners: str) -> None:
    """A database of the version before, with a row of each owner in every table."""
    database = Database(url)
    database.upgrade("0004")
    with database.begin() as connection:
        for i, owner in enumerate(owners):
            for row in (
                f"knowledge_base values ('b{i}', '{owner}', 'n{i}', '', '', 0, false, null)",
                f"document values ('d{i}', 'b{i}', '{owner}', 'd.txt', 1, 'ready', '', 1, 0, 0, 1,"
                " 0, '', '', 0)",
                f"job values ('j{i}', 'b{i}', '{owner}', 'rebuild', 1, false, 0)",
                f"conversation values ('c{i}', '{owner}', '', '{{}}', 0, 0)",
                f"feedback values ('{owner}', 'm{i}', 1, '', 0)",
                f"openai_file values ('f{i}', '{owner}', 'f.txt', 'assistants', 1, 0, null)",
                f"openai_vector_store values ('b{i}', '{owner}', '{{}}', null, 0)",
                f"openai_vector_store_file values ('b{i}', 'f{i}', '{owner}', '', '', '{{}}', '',"
                " 1, 1, 0)",
                f"openai_file_batch values ('x{i}', 'b{i}', '{owner}', 0, false)",
            ):
                connection.exec_driver_sql(f"insert into {row}")
    database.close()


TABLES = ("knowledge_base", "document", "job", "conversation", "feedback", "openai_file")
TABLES += ("openai_vector_store", "openai_vector_store_file", "openai_file_batch")


def owners(url: str, keys: tuple[ApiKey, ...]) -> list[str]:
    """The owners of all tables, in the order of the rows; every table has the same."""
    database = Database(url, api_keys.renamed(keys))
    database.upgrade()
    found = []
    with database.begin() as connection:
        for table in TABLES:
            order = "message_id" if table == "feedback" else "1" if table != "job" else "id"
            column = "owner, message_id" if table == "feedback" else "*"
            rows = connection.exec_driver_sql(f"select {column} from {table} order by {order}")
            found.append([row.owner for row in rows])
    database.close()
    assert all(one == found[0] for one in found)
    return found[0]


def test_old_names_by_place_become_names_of_keys_once(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    old(url, "keys.txt:1", "keys.txt:2", "named", "keys.txt:9", "")
    keys = key_file(ANNA, BORIS, f"named {CARLA}")
    anna, boris, _ = keys
    now = [anna.name, boris.name, "named", "keys.txt:9", ""]
    assert owners(url, keys) == now
    assert f"keys.txt:1 owned in openai_file now belongs to {anna.name}" in caplog.text
    assert "what keys.txt:9 owns was left" in caplog.text
    assert ANNA not in caplog.text
    # Later starts change nothing, whatever stands at the old places by then.
    assert owners(url, key_file(BORIS, *["#"] * 7, CARLA)) == now


def test_a_start_without_keys_gives_old_data_to_nobody_later(url: str) -> None:
    old(url, "key-1")
    assert owners(url, ()) == ["key-1"]
    assert owners(url, (api_keys.unnamed(BORIS, "key-1"),)) == ["key-1"]


def test_a_key_named_like_a_place_keeps_what_is_under_it(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    old(url, "key-1", "key-2")
    flags = tuple(api_keys.unnamed(key, f"key-{n}") for n, key in enumerate((ANNA, BORIS), 1))
    assert owners(url, (*flags, ApiKey("key-1", CARLA))) == ["key-1", flags[1].name]
    assert "was left" not in caplog.text


def test_the_files_of_an_earlier_version_are_there_for_their_key(tmp_path: Path) -> None:
    old(f"sqlite:///{tmp_path / 'slotproxy.db'}", "keys.txt:1", "keys.txt:2")
    with served(tmp_path, ANNA, BORIS) as to:
        for i, secret in enumerate((ANNA, BORIS)):
            headers = {"Authorization": f"Bearer {secret}"}
            found = to.get("/v1/files", headers=headers).json
            assert found is not None and [one["id"] for one in found["data"]] == [f"f{i}"]


def test_stored_responses_are_renamed_once(tmp_path: Path) -> None:
    path = str(tmp_path / "responses.sqlite")
    before = ResponseStore(path, 10)
    before.put("key-1", "r1", 1.0, Stored(b"{}", b"[]"))
    before.put("ann", "r2", 1.0, Stored(b"{}", b"[]"))
    before.close()
    with closing(sqlite3.connect(path)) as db:  # as versions without names by digest left it
        db.execute("pragma user_version = 0")
    for now, found in (("key-new", True), ("key-newer", False)):
        store = ResponseStore(path, 10, renamed={"key-1": now})
        assert (store.get(now, "r1") is not None) is found
        assert store.get("key-new", "r1") and store.get("ann", "r2")
        assert store.get("key-1", "r1") is None
        store.close()
