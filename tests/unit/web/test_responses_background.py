"""Background responses always end in a state that their client can see."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from proxy.config import Secret
from proxy.store import records
from proxy.web import background
from tests.fakes import ScriptedDriver, ScriptedRun, client, make_app, wait_until
from tests.unit.web.test_pages_chat import Held

BODY = {"input": "Hi", "background": True}


def status(api: FlaskClient, made: Any, **how: Any) -> str:
    known = api.get(f"/v1/responses/{made['id']}", **how).json
    return str(known.get("status")) if known else ""


def ended(api: FlaskClient, made: Any) -> Any:
    wait_until(lambda: status(api, made) not in ("queued", "in_progress"))
    return api.get(f"/v1/responses/{made['id']}").json


def test_background_request_refused_after_parsing_fails_with_the_reason() -> None:
    api = client()
    body = {**BODY, "tool_choice": "required"}
    refused: Any = api.post("/v1/responses", json={**body, "background": False})
    assert refused.status_code == 400
    made = ended(api, api.post("/v1/responses", json=body).json)
    assert made["status"] == "failed"
    assert made["error"]["message"] == refused.json["error"]["message"]


def test_unexpected_exception_fails_the_response_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(ScriptedDriver):
        def stream(self, *_: Any) -> ScriptedRun:
            raise KeyError("a secret detail")

    api = client(Broken())
    with caplog.at_level(logging.ERROR, "slotproxy.responses"):
        made = ended(api, api.post("/v1/responses", json=BODY).json)
    assert (made["status"], made["error"]["message"]) == ("failed", "internal error")
    logged = [record for record in caplog.records if record.name == "slotproxy.responses"]
    assert len(logged) == 1 and logged[0].exc_info


def test_status_goes_from_queued_to_in_progress_to_completed() -> None:
    driver = Held(slots=64)
    api = client(driver)
    made: Any = api.post("/v1/responses", json=BODY).json
    assert made["status"] == "queued"
    wait_until(lambda: status(api, made) == "in_progress")
    driver.go_on.set()
    assert ended(api, made)["status"] == "completed"


def test_cancelled_response_stays_cancelled() -> None:
    driver = Held(slots=64)
    api = client(driver)
    made: Any = api.post("/v1/responses", json=BODY).json
    wait_until(lambda: status(api, made) == "in_progress")
    reply: Any = api.post(f"/v1/responses/{made['id']}/cancel").json
    assert reply["status"] == "cancelled"
    wait_until(lambda: driver.runs[0].closed.is_set())
    assert status(api, made) == "cancelled"


@pytest.mark.parametrize("path", ["/v1/responses/{}", "/v1/data"])
def test_deleted_response_stays_deleted(path: str) -> None:
    driver = Held(slots=64)
    api = client(driver)
    made: Any = api.post("/v1/responses", json=BODY).json
    wait_until(lambda: len(driver.runs) == 1)
    assert api.delete(path.format(made["id"])).status_code == 200
    if path != "/v1/data":  # which ends the answer
        driver.go_on.set()
    wait_until(lambda: driver.runs[0].closed.is_set())
    assert api.get(f"/v1/responses/{made['id']}").status_code == 404
    assert api.get("/v1/data").json["responses"] == []


def app_with(file: Path, driver: ScriptedDriver | None = None) -> Flask:
    return make_app(driver or ScriptedDriver(), data=str(file.parent))


def test_response_of_lost_process_is_reported_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "BEAT", 60.0)  # the writer counts as dead but is alive
    file = tmp_path / "slotproxy.db"
    api = app_with(file, Held(slots=64)).test_client()
    made: Any = api.post("/v1/responses", json=BODY).json
    other = app_with(file).test_client()
    with sqlite3.connect(file) as db:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        (writer,) = db.execute("select writer from stored_response").fetchone()
        host, _, rest = writer.split(":")
        db.execute("update stored_response set writer = ?", (f"{host}:{dead.pid}:{rest}",))
    known: Any = other.get(f"/v1/responses/{made['id']}").json
    assert (known["status"], known["error"]["message"]) == ("failed", background.LOST)
    exported: Any = other.get("/v1/data").json
    assert [response["status"] for response in exported["responses"]] == ["failed"]


def test_response_can_be_cancelled_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "BEAT", 0.02)
    # Two stores of one process would mistake each other for an earlier run.
    monkeypatch.setattr(records, "new_name", lambda: f"{uuid.uuid4().hex}:1:1")
    driver = Held(slots=64)
    api = app_with(tmp_path / "slotproxy.db", driver).test_client()
    other = app_with(tmp_path / "slotproxy.db").test_client()
    made: Any = api.post("/v1/responses", json=BODY).json
    wait_until(lambda: status(other, made) == "in_progress")
    reply: Any = other.post(f"/v1/responses/{made['id']}/cancel").json
    assert reply["status"] == "cancelled"
    wait_until(lambda: driver.runs[0].closed.is_set())
    assert status(api, made) == "cancelled"


# DELETE /v1/data


def test_data_deletion_ends_only_streams_that_would_be_stored() -> None:
    driver = Held(slots=64)
    api = client(driver, api_key=(Secret("one"), Secret("two")))

    def stream(key: str, **body: Any) -> Iterator[bytes]:
        fields = {"input": "Hi", "stream": True, **body}
        return api.post("/v1/responses", json=fields, headers=bearer(key)).iter_encoded()

    streams = [stream("one"), stream("one", store=False), stream("two")]
    for events in streams:
        next(events)
    assert api.delete("/v1/data", headers=bearer("one")).status_code == 200
    assert b"response.completed" not in b"".join(streams[0])
    driver.go_on.set()
    assert b"response.completed" in b"".join(streams[1])
    assert b"response.completed" in b"".join(streams[2])
    stored = [api.get("/v1/data", headers=bearer(key)).json["responses"] for key in ("one", "two")]
    assert [len(responses) for responses in stored] == [0, 1]


# Shares


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def taken(take: Callable[[], bool]) -> int:
    count = 0
    while take():
        count += 1
    return count


def test_one_key_cannot_fill_the_background_queue() -> None:
    driver = Held(slots=64)
    api = client(driver, api_key=(Secret("one"), Secret("two")))

    def ask(key: str) -> int:
        return api.post("/v1/responses", json=BODY, headers=bearer(key)).status_code

    assert taken(lambda: ask("one") == 200) == background.MOST_JOBS // 2
    assert ask("two") == 200
    driver.go_on.set()
    end = time.monotonic() + 60
    while ask("one") != 200:  # places are released
        assert time.monotonic() < end
        time.sleep(0.01)
