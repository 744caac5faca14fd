"""What is captured of requests: both sides, without keys and files, bounded, for their owners."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sqlite3
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.driver import Capabilities
from proxy.backends.http import ConnectionPool
from proxy.config import ApiKey
from proxy.config.data_folder import CAPTURES
from proxy.config.keys import Secret
from proxy.core.task import Task
from proxy.errors import UpstreamFault
from proxy.observe import captures as module
from proxy.observe import captures_redact
from proxy.observe.captures import Kept
from proxy.observe.captures_redact import MOST, is_plain, redacted, without_files
from proxy.observe.captures_store import (
    NEWEST,
    PAGES,
    About,
    Block,
    Ring,
    _zstd,
    entry_of,
    joined,
    packed,
)
from proxy.runtime.cancel import Cancel
from tests.fakes import ScriptedDriver, ScriptedRun, make_app, say, services_of
from tests.unit.backends.rawserver import RawServer, head
from tests.unit.web.ledger.test_usage_routes import ADMIN, ANN, KEYS

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}
PICTURE = b"\x89PNG" + bytes(range(256)) * 8


def app_with(driver: ScriptedDriver, tmp_path: Path, **settings: Any) -> Flask:
    settings = {"capture": "all", "file_keys": KEYS, "admins": ("root",), **settings}
    return make_app(driver, data=str(tmp_path), ledger_days=0, **settings)


def post(app: Flask, headers: dict[str, str] = ANN, **sent: Any) -> Any:
    """An answer that was read and closed, as servers do."""
    return app.test_client().post(CHAT, **sent, headers=headers, buffered=True)


def ask(app: Flask, headers: dict[str, str] = ANN, **fields: Any) -> str:
    """The id of an answered request."""
    answer = post(app, headers, json=HELLO | fields)
    assert answer.status_code == 200
    return str(answer.headers["x-request-id"])


def capture_of(app: Flask, name: str, headers: dict[str, str] = ANN) -> Any:
    """The answer to a request for a capture."""
    return app.test_client().get(f"/v1/requests/{name}/capture", headers=headers)


@pytest.mark.parametrize("stream", [False, True])
def test_client_side_is_what_was_sent_and_got(stream: bool, tmp_path: Path) -> None:
    app = app_with(ScriptedDriver(say("Hel", "lo")), tmp_path)
    answer = post(app, json=HELLO | {"stream": stream})
    data = answer.data
    capture = capture_of(app, answer.headers["x-request-id"]).get_json()
    assert (capture["request"], capture["status"], capture["key"]) == (f"POST {CHAT}", 200, "ann")
    assert json.loads(capture["sent"]["text"]) == HELLO | {"stream": stream}
    assert capture["received"] == {"text": data.decode(), "missing": 0}
    assert capture["headers"]["authorization"] == "[key]"
    assert ANN["Authorization"].split()[1] not in json.dumps(capture)


@pytest.mark.parametrize(
    ("driver", "fields", "status"),
    [
        (ScriptedDriver(say("Hi")), {"temperature": "hot"}, 400),
        (ScriptedDriver([UpstreamFault("it broke")]), {}, 502),
    ],
)
def test_failed_requests_are_captured_and_only_they_if_so_set(
    driver: ScriptedDriver, fields: dict[str, Any], status: int, tmp_path: Path
) -> None:
    app = app_with(driver, tmp_path, capture="failed")
    answer = post(app, json=HELLO | fields)
    assert answer.status_code == status
    capture = capture_of(app, answer.headers["x-request-id"]).get_json()
    assert capture["status"] == status
    assert json.loads(capture["received"]["text"]) == answer.get_json()
    driver.script = say("Hi")
    assert capture_of(app, ask(app)).status_code == 404
    left = app.test_client().post(CHAT, json=HELLO | {"stream": True}, headers=ANN, buffered=False)
    left.close()
    assert capture_of(app, left.headers["x-request-id"]).status_code == 404, "its client left"


def test_invalid_json_is_captured(tmp_path: Path) -> None:
    app = app_with(ScriptedDriver(), tmp_path)
    answer = post(app, data=b'{"messages": [')
    capture = capture_of(app, answer.headers["x-request-id"]).get_json()
    assert capture["status"] == 400 and capture["sent"]["text"] == '{"messages": ['


def test_requests_without_a_valid_key_are_not_captured(tmp_path: Path) -> None:
    app = app_with(ScriptedDriver(), tmp_path)
    answer = post(app, {"Authorization": "Bearer no"}, json=HELLO)
    assert answer.status_code == 401
    assert capture_of(app, answer.headers["x-request-id"], ADMIN).status_code == 404
    assert not (tmp_path / CAPTURES).exists()


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"X-Slotproxy-Capture": "off"}, {}),
        ({"X-Slotproxy-Capture": "no"}, {}),
        ({"X-Slotproxy-Capture": "maybe"}, {}),
        ({"X-Slotproxy-Capture": ""}, {}),
        ({}, {"capture": "no"}),
        ({}, {"capture": None}),
        ({}, {"capture": {"on": True}}),
        ({}, {"capture": False}),
        ({}, {"capture": False, "stream": True}),
        ({}, {"capture": False, "temperature": "hot"}),
    ],
)
def test_request_opts_out(headers: dict[str, str], fields: Any, tmp_path: Path) -> None:
    app = app_with(ScriptedDriver(), tmp_path)
    answer = post(app, ANN | headers, json=HELLO | fields)
    assert answer.data and "x-slotproxy-warning" not in answer.headers
    assert capture_of(app, answer.headers["x-request-id"]).status_code == 404
    assert not (tmp_path / CAPTURES).exists()
    assert capture_of(app, ask(app)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "fields"),
    [({"X-Slotproxy-Capture": "ON"}, {}), ({}, {"capture": True}), ({}, {"capture": "yes"})],
)
def test_only_a_clear_yes_is_captured(headers: dict[str, str], fields: Any, tmp_path: Path) -> None:
    app = app_with(ScriptedDriver(), tmp_path)
    answer = post(app, ANN | headers, json=HELLO | fields)
    assert capture_of(app, answer.headers["x-request-id"]).status_code == 200


def test_keys_of_others_are_in_no_capture(tmp_path: Path) -> None:
    keys = (*KEYS, ApiKey("eve", Secret("no-usual-key")))
    app = app_with(ScriptedDriver(), tmp_path, file_keys=keys)
    text = "Keys:\nsk-bob-0123456789\tno-usual-key\nbearer abcdefghijkl and a risk-averse sk-SK"
    headers = ANN | {"X-Other-Token": "of-this-header"}
    said = [{"role": "user", "content": f"{text} of-this-header"}]
    answer = post(app, headers, json={"messages": said})
    sent = capture_of(app, answer.headers["x-request-id"]).get_json()["sent"]["text"]
    shown = "Keys:\n[key]\t[key]\nbearer [key] and a risk-averse sk-SK [key]"
    assert json.loads(sent)["messages"][0]["content"] == shown


def test_off_by_default_and_on_for_one_key(tmp_path: Path) -> None:
    keys = (*KEYS, ApiKey("eve", Secret("sk-eve-0123456789"), options={"capture": "all"}))
    app = app_with(ScriptedDriver(), tmp_path, capture="off", file_keys=keys)
    eve = {"Authorization": "Bearer sk-eve-0123456789"}
    assert capture_of(app, ask(app)).status_code == 404
    assert capture_of(app, ask(app, eve), eve).status_code == 200
    for headers, mode in ((ANN, "off"), (eve, "all")):
        listed = app.test_client().get("/v1/requests", headers=headers).get_json()
        assert listed["capture"] == mode


def test_nothing_watches_without_keys_and_captures(tmp_path: Path) -> None:
    app = make_app(ScriptedDriver())
    assert services_of(app).captures is None and "wsgi_app" not in vars(app)
    answer = app.test_client().get("/v1/requests/any/capture")
    assert answer.status_code == 404 and "captured" in answer.get_json()["error"]["message"]


def test_owners_read_theirs_and_administrators_all_into_the_audit(tmp_path: Path) -> None:
    app = app_with(ScriptedDriver(), tmp_path)
    client, name, other = app.test_client(), ask(app), ask(app, ADMIN)
    assert capture_of(app, other).status_code == 404
    assert capture_of(app, name, ADMIN).get_json()["key"] == "ann"
    assert capture_of(app, other, ADMIN).status_code == 200
    changes = client.get("/v1/audit", headers=ADMIN).get_json()["data"]
    assert [(c["actor"], c["action"], c["subject"], c["details"]) for c in changes] == [
        ("root", "read capture", name, {"key": "ann"})
    ]
    assert client.get(f"/v1/requests/{name}", headers=ANN).get_json()["captured"] is True
    assert client.delete(f"/v1/requests/{other}/capture", headers=ANN).status_code == 404
    gone = client.delete(f"/v1/requests/{name}/capture", headers=ANN).get_json()
    assert gone == {"id": name, "object": "request.capture.deleted", "deleted": 1}
    assert client.get(f"/v1/requests/{name}", headers=ANN).get_json()["captured"] is False


def test_captures_are_exported_and_deleted_with_a_keys_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_with(ScriptedDriver(), tmp_path)
    client, name, other = app.test_client(), ask(app), ask(app, ADMIN)
    assert capture_of(app, name).status_code == 200
    exported = client.get("/v1/data", headers=ANN).get_json()["captures"]
    assert [capture["id"] for capture in exported] == [name]
    monkeypatch.setattr("proxy.apis.data.routes.MOST_CAPTURES", 0)
    assert client.get("/v1/data", headers=ANN).get_json()["captures"] == []
    late = ask(app)  # not stored yet
    assert client.delete("/v1/data", headers=ANN).get_json()["deleted"]["captures"] == 2
    for gone in (name, late):
        assert capture_of(app, gone).status_code == 404
    assert capture_of(app, other, ADMIN).status_code == 200
    assert name.encode() not in b"".join(p.read_bytes() for p in tmp_path.glob(f"{CAPTURES}*"))


class Asking(ScriptedDriver):
    """Asks a backend over HTTP, too, as drivers do."""

    pool: ConnectionPool
    paths: tuple[str, ...] = ("/tokenize", "/completion")

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        for path in self.paths:
            sent = {"prompt": task.prompt, "stream": True}
            self.pool.ask("POST", path, sent, timeout=5, cancel=cancel)
        return super().stream(task, slot, caps, cancel)


def test_backend_side_and_prompt(tmp_path: Path) -> None:
    reply = b'data: {"content": "Hi", "key": "backend-secret"}\n\n'
    whole = head(len(reply)) + reply
    driver = Asking(say("Hi"))
    with RawServer([whole, whole]) as server:
        secret = {"Authorization": "Bearer backend-secret"}
        driver.pool = ConnectionPool(server.url, headers=secret)
        app = app_with(driver, tmp_path)
        capture = capture_of(app, ask(app)).get_json()
        driver.pool.close()
    (call,) = capture["calls"]
    assert (call["request"], call["status"]) == ("POST /completion", 200)
    assert json.loads(call["sent"]["text"])["prompt"] == driver.tasks[0].text
    assert call["received"]["text"] == 'data: {"content": "Hi", "key": "[key]"}\n\n'
    assert "backend-secret" not in json.dumps(capture)


def test_number_of_calls_is_bounded(tmp_path: Path) -> None:
    driver = Asking(say("Hi"))
    driver.paths = ("/completion",) * (module.CALLS + 2)
    with RawServer([head(0)] * len(driver.paths)) as server:
        driver.pool = ConnectionPool(server.url)
        app = app_with(driver, tmp_path)
        capture = capture_of(app, ask(app)).get_json()
        driver.pool.close()
    assert (len(capture["calls"]), capture["more_calls"]) == (module.CALLS, 2)


@pytest.mark.parametrize(("bound", "value"), [("MOST_HELD", 10), ("MOST_WAITING", 0)])
def test_what_does_not_fit_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    app = app_with(ScriptedDriver(), tmp_path)
    captures = services_of(app).captures
    assert captures is not None
    monkeypatch.setattr(module, bound, value)
    name = ask(app)
    assert captures.dropped == 1
    monkeypatch.undo()
    assert capture_of(app, name).status_code == 404
    assert capture_of(app, ask(app)).status_code == 200


def test_page_asks_again_with_the_rights_of_its_key(tmp_path: Path) -> None:
    options = {"allowed_routes": "pages,status"}
    keys = (*KEYS, ApiKey("eve", Secret("sk-eve-0123456789"), options=options))
    app = app_with(ScriptedDriver(), tmp_path, file_keys=keys)
    client, eve = app.test_client(), {"Authorization": "Bearer sk-eve-0123456789"}

    def again(route: str, headers: dict[str, str] = ANN) -> Any:
        path = "/pages/api/requests/again"
        query = {"route": route}
        return client.post(path, query_string=query, json=HELLO, headers=headers, buffered=True)

    answer = again(CHAT)
    assert answer.get_json()["choices"][0]["message"]["content"] == "Hello"
    assert capture_of(app, answer.headers["x-request-id"]).get_json()["request"] == f"POST {CHAT}"
    assert again(CHAT, eve).get_json()["error"]["code"] == "route_forbidden"
    for route in ("/key/generate", "../v1/chat/completions", ""):
        assert again(route).get_json()["error"]["param"] == "route"


def test_damaged_file_disturbs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / CAPTURES).write_bytes(b"no database" * 1000)
    app = app_with(ScriptedDriver(), tmp_path)
    name = ask(app)
    request = app.test_client().get(f"/v1/requests/{name}", headers=ANN)
    assert request.get_json()["captured"] is False
    captures = services_of(app).captures
    assert captures is not None and captures.dropped == 1


# -- what is kept of a body


def kept_of(data: bytes, *secrets: bytes) -> dict[str, Any]:
    text, missing = redacted((data, 0), secrets)
    return {"text": text.decode(errors="replace"), "missing": missing}


def test_files_become_type_size_and_digest() -> None:
    text = base64.b64encode(PICTURE).decode()
    digest = hashlib.sha256(PICTURE).hexdigest()[:16]
    sent = json.dumps(
        {
            "image_url": f"data:image/png;base64,{text}",
            "text": f"see ![](data:image/png;base64,{text}) and go on",
            "data": text,
            "short": "aGVsbG8=",
        }
    ).encode()
    for body in (sent, sent.replace(b"/", b"\\/")):
        kept = json.loads(without_files(body))
        note = f"[image/png, {len(PICTURE)} bytes, sha256 {digest}]"
        assert kept["image_url"] == note
        assert kept["text"] == f"see ![]({note}) and go on"
        assert kept["data"] == f"[base64, {len(PICTURE)} bytes, sha256 {digest}]"
        assert kept["short"] == "aGVsbG8="


@pytest.mark.parametrize(
    "secret",
    [
        b'{"headers": {"Authorization": "Bearer abcdefgh12345"}}',
        b'{"api_key": "abcdefgh12345"}',
        b'{"x-api-key" : "abcdefgh12345"}',
        b'{"arguments": "{\\"api_key\\": \\"abcdefgh12345\\"}"}',
        b'{"url": "https://me:abcdefgh12345@example.org/mcp"}',
        b'{"text": "say Bearer abcdefgh12345 then"}',
        b'{"text": "use sk-abcdefgh12345abcdefgh12345 please"}',
        b'{"text": "mine is abcdefgh12345"}',
    ],
)
def test_keys_are_removed(secret: bytes) -> None:
    kept = kept_of(secret, b"mine is abcdefgh12345")["text"]
    assert "abcdefgh12345" not in kept
    json.loads(kept)


def test_ordinary_text_stays_as_it_is() -> None:
    text = json.dumps(
        {"content": "The task-force of me@example.org met: password reset, a bearer of news."}
    )
    assert kept_of(text.encode(), b"short") == {"text": text, "missing": 0}


PIECES = (
    b'"x-Api_Key" : "abc 123"',
    b'{\\"access-token\\": \\"abc123\\"}',
    b'"AUTHORIZATION": "Basic abc"',
    b'"authorization_token":"abc"',
    b'"Client_Secret": "abc"',
    b'\\"password\\":\\"abc',
    b"\\nBearer abcdefgh12",
    b"sk-abcdefgh12",
    b"https://me:abc@example.org",
    b"data:image/png;base64,QUJD",
    b'"' + b"QUJD" * 300,
    b"no-usual-key",
    b"sk-known",
    b"RIFF\0",
    *(b'"', b"\\", b" ", b": ", b"sk", b"-", b"@", b"token", b"bearer", b"Pass", b"word"),
)


@given(
    st.lists(st.lists(st.sampled_from(PIECES), max_size=5).map(b"".join), min_size=1, max_size=4)
)
def test_what_is_hidden_in_a_body_is_hidden_among_others(texts: list[bytes]) -> None:
    secrets = [b"no-usual-key", b"sk-known", b"short"]

    def plainly(text: bytes) -> bytes:
        text = without_files(text)
        for secret in secrets[:2]:
            text = text.replace(secret, b"[key]")
        for pattern in dict.fromkeys(captures_redact._PATTERNS.values()):
            text = re.sub(pattern, rb"\1[key]", text)
        return text

    hidden = [plainly(text) for text in texts]
    assert [redacted((text, 0), secrets) for text in texts] == [(text, 0) for text in hidden]
    assert hidden == texts or not is_plain(b"".join(texts), secrets)


@pytest.mark.parametrize("piece", PIECES)
def test_each_text_of_which_something_is_hidden_is_seen_alone(piece: bytes) -> None:
    secrets = [b"no-usual-key", b"sk-known"]
    assert redacted((piece, 0), secrets) == (piece, 0) or not is_plain(piece, secrets)


def test_secret_that_lies_across_two_parts_of_a_long_text_is_seen() -> None:
    for before in range(captures_redact.STEP - 20, captures_redact.STEP + 1):
        text = b"a b " * (before // 4) + b" " * (before % 4) + b"No-Usual-Key" + b" c" * 9000
        assert not is_plain(text, [b"No-Usual-Key"])
        assert is_plain(text, [b"some-other-key"])


@pytest.mark.parametrize(
    "piece",
    [b'"', b"\\", b"a", b"sk-", b"data:", b";a=b", b'"api_key', b"bearer ", b"://a@", b";base64,"],
)
def test_time_is_linear_for_hostile_bodies(piece: bytes) -> None:
    data = b'data:a/b":' + piece * (MOST // len(piece)) + b'"api_key@ sk- bearer authorization'
    began = time.process_time()
    kept_of(data)
    is_plain(data[: MOST - 1], ())
    assert time.process_time() - began < 5  # usually a fifth of a second


def test_long_bodies_are_cut_and_say_so() -> None:
    kept = Kept()
    for more in (0, 0, 0, module.KEEP):
        kept.add(b"word " * (MOST // 5) + b"x" * more)
        text, missing = redacted(kept.joined())
        assert len(text) <= MOST
        assert missing == kept.size - len(text)
    assert missing > module.KEEP
    assert kept_of(b"RIFF\0\0\0\0")["text"].startswith("[binary, 8 bytes, sha256 ")


def test_keys_behind_a_zero_are_hidden() -> None:
    text, _ = redacted((b"word " * 1000 + b"\0 sk-abcdefgh12 no-usual-key", 0), [b"no-usual-key"])
    assert text.endswith(b"\0 [key] [key]")


# -- the ring


def about(name: str, key: str, ended: float, calls: int) -> About:
    headers, line = msgspec.Raw(b"{}"), "POST /"
    return About(name, key, ended, 200, line, 0, headers, [(line, 200)] * calls)


def block(*names: str, key: str = "ann", at: float | None = None) -> Block:
    at = time.time() if at is None else at
    sides = ("sent", "received", "asked", "answered")
    bodies = {name: [(f"{name} {side}".encode(), 0) for side in sides] for name in names}
    entries = [entry_of(about(name, key, at, 1), bodies[name]) for name in names]
    return packed(entries, joined(entries))


def ids(ring: Ring, **chosen: str) -> list[str]:
    below, names = NEWEST, list[str]()
    while below:
        below, captures = ring.find(below, **chosen)
        names += [capture["id"] for capture in captures]
    return names


def test_ring_is_private_and_bounded(tmp_path: Path) -> None:
    file = tmp_path / "new" / "captures.db"
    ring = Ring(file, 1 << 18, 60)
    for turn in range(60):
        noise = base64.b64encode(os.urandom(12288))
        two = [about(f"{name}{turn}", "ann", time.time(), 0) for name in "ab"]
        entries = [entry_of(capture, [(noise, 0)] * 2) for capture in two]
        ring.write([packed(entries, joined(entries)), block(f"c{turn}")])
    names = ids(ring, key="ann")
    assert 9 < len(names) < 60 and names[:3] == ["c59", "b59", "a59"]
    assert ids(ring, request="c59") == ["c59"] and ids(ring, request="c0") == []
    assert file.stat().st_size < 1 << 19
    for path in file.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_pages_of_the_ring_in_memory_are_bounded(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "captures.db", 1 << 20, 60)
    ring.write([block("r0")])
    assert ring._connection is not None
    (kept,) = ring._connection.execute("PRAGMA cache_size").fetchone()
    assert kept == -PAGES / 1024  # negative: KiB


def test_a_file_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "captures.db", 1 << 20, 60)
    ring.write([block("r0")])
    for file in tmp_path.iterdir():
        file.unlink()
    ring.write([block("r1")])
    assert ids(ring, key="ann") == ["r1"]


def test_old_captures_are_deleted(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "captures.db", 1 << 20, 60)
    ring.write([block("r0", "r1", at=time.time() - 61)])
    assert ids(ring, key="ann") == ids(ring, request="r0") == []
    ring.write([block("r2", "r3")])
    assert ids(ring, key="ann") == ["r3", "r2"]


def test_captures_that_are_packed_together_are_deleted_alone(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "captures.db", 1 << 20, 60)
    ring.write([block("r0", "r1", "r2"), block("r1", key="bob")])
    assert ring.delete(request="r1", key="ann") == 1
    assert ids(ring, key="ann") == ["r2", "r0"] and ids(ring, request="r1") == ["r1"]
    _, (left,) = ring.find(request="r2", key="ann")
    sides = [side[name]["text"] for side in (left, *left["calls"]) for name in ("sent", "received")]
    assert sides == ["r2 sent", "r2 received", "r2 asked", "r2 answered"]
    assert ids(ring, request="r2", key="bob") == []
    with sqlite3.connect(tmp_path / "captures.db") as db:
        (data,) = db.execute("SELECT data FROM pack").fetchone()
    db.close()
    assert b"r1" not in _zstd().decompress(data)
    assert ring.delete(key="ann") == 2
    assert ids(ring, key="ann") == [] and ids(ring, key="bob") == ["r1"]
    ring.write([block("r3")])  # its number may be one that was deleted
    assert ids(ring, key="ann") == ["r3"]


def test_stop_waits_for_captures_that_are_being_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_with(ScriptedDriver(say("Hi")), tmp_path)
    captures = services_of(app).captures
    assert captures is not None
    write, writing, may_write = captures.ring.write, threading.Event(), threading.Event()

    def slow(batches: Any) -> None:
        writing.set()
        assert may_write.wait(60)
        write(batches)

    monkeypatch.setattr(captures.ring, "write", slow)
    name = ask(app)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(captures.flush)
        assert writing.wait(60)
        closed = pool.submit(captures.close)
        time.sleep(0.1)
        assert not closed.done()
        may_write.set()
        closed.result(60)
        assert ids(captures.ring, request=name) == [name]


def test_export_reads_a_few_at_a_time(tmp_path: Path) -> None:
    app = app_with(ScriptedDriver(), tmp_path)
    captures = services_of(app).captures
    assert captures is not None
    captures.ring.write([block("r0", "r1", "r2"), block("r3", key="bob"), block("r4", "r5")])
    read = captures.find(4, key="ann")
    newest = next(read)["id"]
    captures.ring.write([block("later")])
    assert [newest, *(capture["id"] for capture in read)] == ["r5", "r4", "r2", "r1"]
    assert [capture["id"] for capture in captures.find(3)] == ["later", "r5", "r4"]


def test_ids_are_values_and_never_paths_or_statements(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "captures.db", 1 << 20, 60)
    name = "../../'; DROP TABLE capture; --"
    ring.write([block(name)])
    assert ids(ring, request=name) == [name]
    ring.close()
    assert [path.name for path in tmp_path.iterdir()] == ["captures.db"]


def test_crash_while_writing_leaves_whole_captures(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "captures.db", 1 << 20, 60)
    ring.write([block("r0", "r1")])

    def dying() -> Any:
        yield block("half")
        raise OSError

    with pytest.raises(OSError):
        ring.write(dying())
    assert ids(ring, key="ann") == ["r1", "r0"]
    with sqlite3.connect(tmp_path / "captures.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_captures_of_an_earlier_version_are_dropped_from_the_pages_of_the_file(
    tmp_path: Path,
) -> None:
    with sqlite3.connect(tmp_path / "captures.db") as db:
        db.execute("CREATE TABLE block (number INTEGER PRIMARY KEY, at REAL, data BLOB)")
        db.execute("INSERT INTO block (data) VALUES ('what was captured before')")
    db.close()
    ring = Ring(tmp_path / "captures.db", 1 << 20, 60)
    ring.write([block("r0")])
    assert ids(ring, key="ann") == ["r0"]
    assert b"captured before" not in (tmp_path / "captures.db").read_bytes()


def test_requests_with_the_same_checksum_are_told_apart(tmp_path: Path) -> None:
    same = "plumless", "buckeroo"  # for zlib.crc32
    ring = Ring(tmp_path / "captures.db", 1 << 20, 60)
    ring.write([block(same[0]), block(same[1])])
    assert [ids(ring, request=name) for name in same] == [[same[0]], [same[1]]]
    assert ring.delete("ann", same[0]) == 1
    assert ids(ring, key="ann") == [same[1]]
