"""Owners of stored data: key names, which stay right when the order of keys changes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")

from flask.testing import FlaskClient

from proxy.config import keys as api_keys
from proxy.config.keys import ApiKey, Secret
from proxy.store.database import Database
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


def test_deleted_key_leaves_its_files_to_nobody(tmp_path: Path) -> None:
    upload(served(tmp_path, ANNA, BORIS), ANNA, "anna.txt")
    assert files(served(tmp_path, BORIS), BORIS) == []
    assert files(served(tmp_path, "# a comment", BORIS, ANNA), ANNA) == ["anna.txt"]


def old(url: str, *owners: str) -> None:
    """A database of the previous version, with a row of each owner in every table."""
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


TABLES = [
    "knowledge_base",
    "document",
    "job",
    "conversation",
    "feedback",
    "openai_file",
    "openai_vector_store",
    "openai_vector_store_file",
    "openai_file_batch",
]


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


def test_legacy_positional_owners_become_key_names_once(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    old(url, "keys.txt:1", "keys.txt:2", "named", "keys.txt:9", "")
    keys = key_file(ANNA, BORIS, f"named {CARLA}")
    anna, boris, _ = keys
    now = [anna.name, boris.name, "named", "keys.txt:9", ""]
    assert owners(url, keys) == now
    assert f"data of keys.txt:1 in openai_file now belongs to {anna.name}" in caplog.text
    assert "data of keys.txt:9 was left" in caplog.text
    assert ANNA not in caplog.text
    # Later starts change nothing, whichever keys have the old positions by then.
    assert owners(url, key_file(BORIS, *["#"] * 7, CARLA)) == now


def test_start_without_keys_gives_old_data_to_no_later_key(url: str) -> None:
    old(url, "key-1")
    assert owners(url, ()) == ["key-1"]
    assert owners(url, (api_keys.unnamed(BORIS, "key-1"),)) == ["key-1"]


def test_key_named_like_a_position_keeps_its_data(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    old(url, "key-1", "key-2")
    flags = tuple(api_keys.unnamed(key, f"key-{n}") for n, key in enumerate((ANNA, BORIS), 1))
    assert owners(url, (*flags, ApiKey("key-1", CARLA))) == ["key-1", flags[1].name]
    assert "was left" not in caplog.text


def test_files_of_earlier_version_belong_to_their_key(tmp_path: Path) -> None:
    old(f"sqlite:///{tmp_path / 'slotproxy.db'}", "keys.txt:1", "keys.txt:2")
    with served(tmp_path, ANNA, BORIS) as to:
        for i, secret in enumerate((ANNA, BORIS)):
            headers = {"Authorization": f"Bearer {secret}"}
            found = to.get("/v1/files", headers=headers).json
            assert found is not None and [one["id"] for one in found["data"]] == [f"f{i}"]
