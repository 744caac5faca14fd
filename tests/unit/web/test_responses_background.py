"""Responses in the background end in a state that their client can see, whatever happens."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask import Flask
from flask.testing import FlaskClient

from proxy.backends.driver import Capabilities
from proxy.cancel import Cancel
from proxy.config import Secret
from proxy.core.events import Batch, Finished, Started, TextDelta
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import Cancelled
from proxy.store import responses as stored
from proxy.web import background
from proxy.web.shares import Shares
from tests.fakes import CAPS, ScriptedDriver, ScriptedRun, client, make_app, wait_until

ROOT = Path(__file__).resolve().parents[3]
BODY = {"input": "Hi", "background": True}


class Held(ScriptedDriver):
    """Says a word, then nothing until `go_on` is set or the request is cancelled."""

    def __init__(self) -> None:
        super().__init__(caps=msgspec.structs.replace(CAPS, slots=64))
        self.go_on = threading.Event()

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        run = super().stream(task, slot, caps, cancel)
        held = self.go_on

        class Slow(ScriptedRun):
            def __iter__(self) -> Iterator[Batch]:
                yield [Started(slot=0), TextDelta("Hel")]
                while not held.wait(0.01):
                    if cancel.cancelled:
                        raise Cancelled("nobody waits for it any more")
                yield [TextDelta("lo"), Finished("stop", Usage(1, 2, 0), slot=0)]

        slow = Slow(())
        slow.closed = run.closed
        return slow


def status(api: FlaskClient, made: Any, **how: Any) -> str:
    known = api.get(f"/v1/responses/{made['id']}", **how).json
    return str(known.get("status")) if known else ""


def ended(api: FlaskClient, made: Any) -> Any:
    wait_until(lambda: status(api, made) not in ("queued", "in_progress"))
    return api.get(f"/v1/responses/{made['id']}").json


def test_a_request_that_is_refused_after_parsing_fails_with_the_reason() -> None:
    api = client()
    asked = {**BODY, "tool_choice": "required"}
    refused: Any = api.post("/v1/responses", json={**asked, "background": False})
    assert refused.status_code == 400
    made = ended(api, api.post("/v1/responses", json=asked).json)
    assert made["status"] == "failed"
    assert made["error"]["message"] == refused.json["error"]["message"]


def test_a_defect_fails_the_response_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ScriptedDriver):
        def stream(self, *_: Any) -> ScriptedRun:
            raise KeyError("a secret detail")

    api = client(Broken())
    with caplog.at_level(logging.ERROR, "slotproxy.responses"):
        made = ended(api, api.post("/v1/responses", json=BODY).json)
    assert (made["status"], made["error"]["message"]) == ("failed", "internal error")
    logged = [one for one in caplog.records if one.name == "slotproxy.responses"]
    assert len(logged) == 1 and logged[0].exc_info


def test_status_goes_from_queued_to_in_progress_to_completed() -> None:
    driver = Held()
    api = client(driver)
    made: Any = api.post("/v1/responses", json=BODY).json
    assert made["status"] == "queued"
    wait_until(lambda: status(api, made) == "in_progress")
    driver.go_on.set()
    assert ended(api, made)["status"] == "completed"


def test_a_cancelled_response_stays_cancelled() -> None:
    driver = Held()
    api = client(driver)
    made: Any = api.post("/v1/responses", json=BODY).json
    wait_until(lambda: status(api, made) == "in_progress")
    told: Any = api.post(f"/v1/responses/{made['id']}/cancel").json
    assert told["status"] == "cancelled"
    wait_until(lambda: driver.runs[0].closed.is_set())
    assert status(api, made) == "cancelled"


def test_a_deleted_response_stays_deleted() -> None:
    driver = Held()
    api = client(driver)
    made: Any = api.post("/v1/responses", json=BODY).json
    wait_until(lambda: len(driver.runs) == 1)
    assert api.delete(f"/v1/responses/{made['id']}").status_code == 200
    driver.go_on.set()
    wait_until(lambda: driver.runs[0].closed.is_set())
    assert api.get(f"/v1/responses/{made['id']}").status_code == 404


def app_with(file: Path, driver: ScriptedDriver | None = None) -> Flask:
    return make_app(driver or ScriptedDriver(), response_store=str(file))


def test_a_response_of_a_process_that_is_gone_is_told_as_failed(tmp_path: Path) -> None:
    file = tmp_path / "responses.sqlite"
    api = app_with(file, Held()).test_client()
    made: Any = api.post("/v1/responses", json=BODY).json
    other = app_with(file).test_client()
    with sqlite3.connect(file) as db:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        (writer,) = db.execute("select writer from response").fetchone()
        host, _, rest = writer.split(":")
        db.execute("update response set writer = ?", (f"{host}:{dead.pid}:{rest}",))
    known: Any = other.get(f"/v1/responses/{made['id']}").json
    assert (known["status"], known["error"]["message"]) == ("failed", background.LOST)
    exported: Any = other.get("/v1/data").json
    assert [one["status"] for one in exported["responses"]] == ["failed"]


def test_a_writer_of_another_host_is_lost_when_it_gives_no_sign_of_life(tmp_path: Path) -> None:
    now = [1000.0]
    store = stored.ResponseStore(str(tmp_path / "r"), 10, clock=lambda: now[0])
    store.open("", "r1", 1.0, stored.Stored(b"{}", b"[]"))
    with sqlite3.connect(tmp_path / "r") as db:
        db.execute("update response set writer = 'elsewhere:1:0'")
    for later, lost in ((stored.LEASE - 1, False), (2.0, True)):
        now[0] += later
        kept = store.get("", "r1")
        assert kept is not None and kept.lost is lost
    store.close()


def test_another_process_cancels_a_response_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "BEAT", 0.02)
    # Two stores of one process would take each other for an earlier life of it.
    monkeypatch.setattr(stored.writers, "new_name", lambda: f"{uuid.uuid4().hex}:1:1")
    driver = Held()
    api = app_with(tmp_path / "r", driver).test_client()
    other = app_with(tmp_path / "r").test_client()
    made: Any = api.post("/v1/responses", json=BODY).json
    wait_until(lambda: status(other, made) == "in_progress")
    told: Any = other.post(f"/v1/responses/{made['id']}/cancel").json
    assert told["status"] == "cancelled"
    wait_until(lambda: driver.runs[0].closed.is_set())
    assert status(api, made) == "cancelled"


# DELETE /v1/data


def test_deleted_data_stay_deleted_though_a_response_was_being_made() -> None:
    driver = Held()
    api = client(driver)
    made: Any = api.post("/v1/responses", json=BODY).json
    wait_until(lambda: len(driver.runs) == 1)
    assert api.delete("/v1/data").status_code == 200
    wait_until(lambda: driver.runs[0].closed.is_set())
    assert api.get(f"/v1/responses/{made['id']}").status_code == 404
    assert api.get("/v1/data").json["responses"] == []  # type: ignore[index]


def test_deleting_data_ends_streams_that_would_be_stored_and_no_others() -> None:
    driver = Held()
    api = client(driver, api_key=(Secret("one"), Secret("two")))

    def stream(key: str, **body: Any) -> Iterator[bytes]:
        asked = {"input": "Hi", "stream": True, **body}
        return iter(api.post("/v1/responses", json=asked, headers=bearer(key)).response)

    streams = [stream("one"), stream("one", store=False), stream("two")]
    for one in streams:
        next(one)
    assert api.delete("/v1/data", headers=bearer("one")).status_code == 200
    assert b"response.completed" not in b"".join(streams[0])
    driver.go_on.set()
    assert b"response.completed" in b"".join(streams[1])
    assert b"response.completed" in b"".join(streams[2])
    kept = [api.get("/v1/data", headers=bearer(key)).json["responses"] for key in ("one", "two")]  # type: ignore[index]
    assert [len(one) for one in kept] == [0, 1]


def test_what_began_before_data_were_deleted_is_not_stored_by_another_process(
    tmp_path: Path,
) -> None:
    now = [1000.0]
    first, second = (
        stored.ResponseStore(str(tmp_path / "r"), 10, clock=lambda: now[0]) for _ in range(2)
    )
    first.clear("ann")
    now[0] += 1
    value = stored.Stored(b"{}", b"[]")
    second.put("ann", "before", 1.0, value, begun=999.0)
    second.put("bob", "other", 1.0, value, begun=999.0)
    second.put("ann", "after", 1.0, value, begun=1000.5)
    assert first.get("ann", "before") is None
    assert first.get("ann", "after") and first.get("bob", "other")
    first.close()
    second.close()


# A store that cannot be used


def test_an_answer_that_cannot_be_stored_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stored, "BUSY", 0.05)
    api = app_with(tmp_path / "r").test_client()
    other = sqlite3.connect(tmp_path / "r", isolation_level=None)
    other.execute("begin immediate")
    made: Any = api.post("/v1/responses", json={"input": "Hi"})
    assert (made.status_code, made.json["status"]) == (200, "completed")
    assert "could not be stored" in caplog.text
    refused: Any = api.post("/v1/responses", json=BODY)
    assert (refused.status_code, refused.json["error"]["code"]) == (503, "store_unavailable")
    other.execute("rollback")
    other.close()
    assert api.post("/v1/responses", json=BODY).status_code == 200


# Another process holds the write lock until the loop has gone on for a while: a loop that waited
# for it would never let it go.
SCRIPT = """
from gevent import monkey
monkey.patch_all()
import gevent, sys
from gevent import subprocess
from proxy.store import responses
from proxy.store.responses import ResponseStore, Stored

responses.BUSY = 30.0
store = ResponseStore(sys.argv[1], 100)
HOLD = '''
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("begin immediate")
print("held", flush=True)
sys.stdin.readline()
db.execute("commit")
'''
holder = subprocess.Popen(
    [sys.executable, "-c", HOLD, sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE
)
holder.stdout.readline()
work = [gevent.spawn(store.put, "me", f"r{n}", 1.0, Stored(b"x" * 1000, b"[]")) for n in range(9)]
for _ in range(20):
    gevent.sleep(0.01)
assert not any(one.ready() for one in work), "nobody had to wait"
holder.stdin.write(b"\\n")
holder.stdin.flush()
gevent.joinall(work, raise_error=True)
assert len(store.ids("me")) == 9
holder.wait()
print("apart")
"""


def test_the_event_loop_does_not_wait_for_another_process_that_writes(tmp_path: Path) -> None:
    pytest.importorskip("gevent", reason="gevent is not installed")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path / "r")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "apart\n", done.stderr


def test_a_file_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "r") as db:
        db.executescript(
            "create table response (owner text not null, id text not null, created real not null,"
            " response blob not null, items blob not null, primary key (owner, id)) without rowid;"
            "insert into response values ('ann', 'r1', 1.0, '{}', '[]');"
        )
    store = stored.ResponseStore(str(tmp_path / "r"), 10)
    kept = store.get("ann", "r1")
    assert kept is not None and not kept.lost
    store.close()


# Shares


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def taken(take: Callable[[], bool]) -> int:
    count = 0
    while take():
        count += 1
    return count


def test_each_key_finds_places_though_others_took_all_they_could() -> None:
    shares = Shares(64)
    assert [taken(lambda k=key: shares.take(k)) for key in "abcd"] == [32, 16, 8, 4]  # type: ignore[misc]
    shares.give("a")
    assert shares.take("d")


def test_who_is_alone_has_all_places() -> None:
    shares = Shares(5, alone=True)
    assert taken(lambda: shares.take("")) == 5


def test_one_key_cannot_fill_the_background() -> None:
    driver = Held()
    api = client(driver, api_key=(Secret("one"), Secret("two")))

    def ask(key: str) -> int:
        return api.post("/v1/responses", json=BODY, headers=bearer(key)).status_code

    assert taken(lambda: ask("one") == 200) == background.MOST_JOBS // 2
    assert ask("two") == 200
    driver.go_on.set()
    end = time.monotonic() + 10
    while ask("one") != 200:  # places come back
        assert time.monotonic() < end
        time.sleep(0.01)
