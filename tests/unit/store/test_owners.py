"""Owners of stored data: key names, which stay right when the order of keys changes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from flask.testing import FlaskClient

from proxy.config import keys as api_keys
from proxy.config.keys import ApiKey, Secret
from tests.fakes import client

ANNA, BORIS, CARLA = (Secret(f"sk-{name}") for name in ("anna", "boris", "carla"))


def key_file(*lines: str) -> tuple[ApiKey, ...]:
    return api_keys.read("\n".join(lines), "keys.txt")


def served(folder: Path, *lines: str) -> FlaskClient:
    return client(data=str(folder), file_keys=key_file(*lines))


def files(to: FlaskClient, secret: str) -> list[str]:
    answer = to.get("/v1/files", headers={"Authorization": f"Bearer {secret}"})
    assert answer.json is not None
    return [file["filename"] for file in answer.json["data"]]


def upload(to: FlaskClient, secret: str, name: str) -> None:
    data = {"purpose": "assistants", "file": (BytesIO(b"private notes"), name)}
    answer = to.post("/v1/files", data=data, headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 200, answer.json


def test_deleted_key_leaves_its_files_to_nobody(tmp_path: Path) -> None:
    upload(served(tmp_path, ANNA, BORIS), ANNA, "anna.txt")
    assert files(served(tmp_path, BORIS), BORIS) == []
    assert files(served(tmp_path, "# a comment", BORIS, ANNA), ANNA) == ["anna.txt"]
