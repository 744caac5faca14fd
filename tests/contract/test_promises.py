"""Promises of the documentation that fit into no other file of tests, stated from outside: see
docs/promises.md."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from proxy.backends.driver import Capabilities
from proxy.backends.openai.driver import OpenAIServer
from proxy.config.keys import Secret
from proxy.core.task import Task
from proxy.runtime.cancel import Cancel
from tests.contract.test_verbatim import APIS
from tests.fakes import (
    CAPS,
    ScriptedDriver,
    ScriptedRun,
    client,
    make_app,
    say,
    services_of,
    wait_until,
)
from tests.openai_server import OpenAIServerFake
from tests.unit.hosting import fakes
from tests.unit.web.account_client import KEYS, Http

QUESTION, ANSWER, SESSION, KEY = "harbour-7731", "lantern-4490", "talk-5528", "sk-secret-9174"
HEADERS = {"Authorization": f"Bearer {KEY}", "X-Session-ID": SESSION}
LARGE = msgspec.structs.replace(CAPS, n_ctx=100_000, infill=True)


def _text(answer: Any) -> str:
    return str(answer.get_data(as_text=True))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", APIS)
def test_log_has_no_text_of_a_conversation_no_session_and_no_key(
    api: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    driver = ScriptedDriver(say(ANSWER), LARGE)
    http = client(driver, api_key=(Secret(KEY),), log_level="debug")
    path, body = APIS[api]
    answer = http.post(path, json={**body(QUESTION), "stream": stream}, headers=HEADERS)
    assert ANSWER in _text(answer)
    answer.close()
    assert QUESTION in str(driver.tasks)
    wait_until(lambda: "scripted" in caplog.text, 10)  # the request has its line
    wrong = "sk-wrong-3308"
    refused = http.post(path, json=body(QUESTION), headers={"Authorization": f"Bearer {wrong}"})
    assert refused.status_code == 401
    for secret in (QUESTION, ANSWER, SESSION, KEY, wrong):
        assert secret not in caplog.text


@pytest.mark.parametrize(
    "named",
    [
        {"headers": {"X-Session-ID": SESSION}},
        {"headers": {"X-Claude-Code-Session-Id": SESSION}},
        {"headers": {"session-id": SESSION}},
        {"body": {"prompt_cache_key": SESSION}},
        {"body": {"conversation": SESSION}},
        {"body": {"metadata": {"user_id": f"user_1_account__session_{SESSION}"}}},
    ],
    ids=str,
)
def test_name_of_a_session_reaches_no_backend(named: dict[str, Any]) -> None:
    """A server with OpenAI's API, which gets every other field that it may know."""
    body = {"messages": [{"role": "user", "content": QUESTION}], **named.get("body", {})}
    with OpenAIServerFake("Hello") as server:
        http = make_app(cast(Any, OpenAIServer(server.url, timeout=10))).test_client()
        answer = http.post("/v1/chat/completions", json=body, headers=named.get("headers", {}))
        assert answer.status_code == 200, _text(answer)
        assert QUESTION in str(server.bodies)
        assert SESSION not in str(server.bodies)


def test_nothing_of_a_chat_is_on_disk(tmp_path: Path) -> None:
    """Neither in the ledger nor anywhere else in the data folder."""
    app = make_app(ScriptedDriver(say(ANSWER), LARGE), data=str(tmp_path))
    http = app.test_client()
    body: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}]}

    def on_disk() -> set[str]:
        data = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        return {text for text in (QUESTION, ANSWER) if text.encode() in data}

    for stream in (False, True):
        sent = {**body, "store": True, "stream": stream}
        answer = http.post("/v1/chat/completions", json=sent)
        assert ANSWER in _text(answer)
        assert answer.headers["x-slotproxy-warning"] == "store is ignored"
    assert ANSWER in _text(http.post("/v1/responses", json={"input": QUESTION, "store": False}))
    assert http.get("/v1/usage").status_code == 200
    assert on_disk() == set()
    assert ANSWER in _text(http.post("/v1/responses", json={"input": QUESTION}))
    assert on_disk() == {QUESTION, ANSWER}, "this test sees the stored text"


def test_state_of_slots_has_no_text_of_a_conversation() -> None:
    http = client(ScriptedDriver(say(ANSWER), LARGE), metrics=True)
    body = {"messages": [{"role": "user", "content": QUESTION}]}
    assert ANSWER in _text(http.post("/v1/chat/completions", json=body, headers=HEADERS))
    for path in ("/v1/slots", "/slots", "/v1/backends", "/metrics", "/pages/api/status"):
        answer = http.get(path)
        assert answer.status_code == 200, path
        for secret in (QUESTION, ANSWER, SESSION):
            assert secret not in _text(answer)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 302),
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/v1/models", 401),
        ("GET", "/nowhere", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/embeddings", 405),
        ("POST", "/v1/chat/completions", 400),
        ("POST", "/v1/messages", 400),
        ("POST", "/api/chat", 400),
        ("POST", "/mcp", 400),
        ("OPTIONS", "/v1/models", 200),
    ],
)
def test_every_response_names_its_request_and_its_time(method: str, path: str, status: int) -> None:
    http = client(file_keys=KEYS, admins=("ops",))
    headers = {} if status in (302, 401) else {"Authorization": "Bearer sk-ops"}
    if path == "/":
        headers["Accept"] = "text/html"
    answer = http.open(path, method=method, data=b"{" if method == "POST" else b"", headers=headers)
    assert answer.status_code == status
    assert answer.headers["x-request-id"]
    assert int(answer.headers["openai-processing-ms"]) >= 0
    assert float(answer.headers["x-slotproxy-overhead-ms"]) >= 0


class Counted(ScriptedDriver):
    """Tells how many requests were with the server at the same time."""

    def __init__(self, slots: int) -> None:
        super().__init__(caps=msgspec.structs.replace(CAPS, slots=slots))
        self.most = self._now = 0
        self._lock = threading.Lock()

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        run = super().stream(task, slot, caps, cancel)
        steps = run._script
        pause = threading.Event()
        run._script = [*steps[:1], lambda: pause.wait(0.02), self._left, *steps[1:]]
        return run

    def _left(self) -> None:
        with self._lock:
            self._now -= 1


def test_server_never_gets_more_requests_than_it_has_slots() -> None:
    driver = Counted(slots=3)
    app = make_app(driver)
    bodies = [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "n": 2}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}),
        ("/v1/completions", {"prompt": ["Hi", "Ho"], "stream": True}),
        ("/api/generate", {"prompt": "Hi"}),
    ]

    def post(number: int) -> int:
        path, body = bodies[number % len(bodies)]
        answer = app.test_client().post(path, json=body)
        answer.get_data()
        return answer.status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(post, range(32))) == {200}
    assert driver.most == 3


LOOKS = (
    "/livez /readyz /health /v1/models /models /api/tags /api/ps /running /v1/backends /v1/slots"
    " /v1/models/on-demand /metrics /status /v1/usage"
).split()


@pytest.mark.parametrize("path", LOOKS)
def test_looking_at_models_starts_none(path: str) -> None:
    app = make_app(ScriptedDriver(), metrics=True)
    host = services_of(app).host
    fake = fakes.fake()
    host.hosting.connect = lambda config, url, check: fake(url, check)
    model = host.add(fakes.config(name="on-demand"))
    try:
        app.test_client().get(path).get_data()
        assert model.status == "unloaded"
    finally:
        model.close()
        model.join(60)


def test_record_of_changes_cannot_be_changed(tmp_path: Path) -> None:
    http = Http(make_app(ScriptedDriver(), file_keys=KEYS, admins=("ops",), data=str(tmp_path)))
    made = http.make(key_alias="laptop", admin=True)
    http.admin("/key/block", key=made["key"])

    def record() -> list[Any]:
        return list(http.get("/v1/audit", "sk-ops").json["data"])

    before = record()
    headers = {"Authorization": "Bearer sk-ops"}
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in ("/v1/audit", f"/v1/audit/{before[0]['number']}"):
            assert http.client.open(path, method=method, headers=headers).status_code in (404, 405)
    http.client.delete("/v1/data", headers=headers)
    http.admin("/key/delete", keys=[made["key"]])
    assert record()[-len(before) :] == before
    assert len(record()) == len(before) + 1
