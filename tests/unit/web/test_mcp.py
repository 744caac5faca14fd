"""POST /mcp on a scripted backend: messages, the tools of a key, and refusals."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from proxy.apis.mcp import routes as mcp_routes
from proxy.apis.mcp import server as mcp_server
from proxy.config import AgentConfig
from proxy.core.request import Tool
from proxy.dialogue.run import Dialogues
from proxy.errors import BackendDown
from proxy.runtime.cancel import Cancel
from tests.extras import need
from tests.fakes import ScriptedDriver, client, make_app, say, services_of
from tests.thorough import share

from .account_client import Http, keyed

SETTINGS: dict[str, Any] = {"tools": ("calculator", "time")}


@pytest.fixture(scope="module")
def http() -> FlaskClient:
    return client(ScriptedDriver(say("Hello.")), **SETTINGS)


def post(
    http: FlaskClient, method: str = "", headers: Mapping[str, str] | None = None, **fields: Any
) -> TestResponse:
    message = {"jsonrpc": "2.0", "id": 1, "method": method, **fields}
    return http.post("/mcp", json=message, headers=headers)


def call(http: FlaskClient, name: str, **arguments: Any) -> Any:
    params = {"name": name, "arguments": arguments}
    return post(http, "tools/call", params=params).json["result"]


@pytest.mark.parametrize("method", ["resources/list", "resources/templates/list", "prompts/list"])
def test_method_that_is_not_offered_is_an_error_that_names_those_that_are(
    http: FlaskClient, method: str
) -> None:
    answer = post(http, method)
    assert (answer.status_code, answer.json["error"]["code"]) == (200, mcp_server.NO_METHOD)
    assert "tools/list" in answer.json["error"]["message"]
    assert set(mcp_server.initialized({}, "1", "")["capabilities"]) == {"tools"}


@pytest.mark.parametrize(
    ("wanted", "spoken"),
    [("2025-06-18", "2025-06-18"), ("2030-01-01", mcp_server.VERSIONS[0]), (None, "2025-11-25")],
)
def test_revision_is_negotiated(http: FlaskClient, wanted: str | None, spoken: str) -> None:
    answer = post(http, "initialize", params={"protocolVersion": wanted})
    assert answer.json["result"]["protocolVersion"] == spoken
    assert answer.headers[mcp_server.SESSION]


@pytest.mark.parametrize(
    "message", [{"method": "notifications/initialized"}, {"id": 1, "result": {}}]
)
def test_notifications_and_answers_are_accepted_without_a_body(
    http: FlaskClient, message: Mapping[str, Any]
) -> None:
    answer = http.post("/mcp", json={"jsonrpc": "2.0", **message})
    assert (answer.status_code, answer.data) == (202, b"")
    assert "Content-Type" not in answer.headers


@pytest.mark.parametrize(
    "message",
    [
        {"id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "id": 1, "method": {}, "result": {}},
        {"jsonrpc": "2.0", "id": {}, "method": "ping"},
        {"jsonrpc": "2.0", "id": "x" * (mcp_server.LONGEST_ID + 1), "method": "ping"},
        {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []},
        {"jsonrpc": "2.0", "method": "initialize"},
        [{"jsonrpc": "2.0", "id": 1, "method": "ping"}],
        "ping",
    ],
)
def test_wrong_messages_are_refused(http: FlaskClient, message: Any) -> None:
    answer = http.post("/mcp", json=message)
    assert answer.status_code == 400
    assert answer.json["error"]["code"] == mcp_server.INVALID_REQUEST


@pytest.mark.parametrize("header", ["MCP-Protocol-Version", mcp_server.SESSION])
def test_wrong_headers_are_refused(http: FlaskClient, header: str) -> None:
    answer = post(http, "ping", headers={header: "no such"})
    assert answer.status_code == 400
    assert header in answer.json["error"]["message"]


def test_pages_of_other_sites_are_refused(http: FlaskClient) -> None:
    assert post(http, "ping", headers={"Host": "evil.example"}).status_code == 403
    assert post(http, "ping", headers={"Origin": "http://evil.example"}).status_code == 403
    assert post(http, "ping", headers={"Origin": "http://localhost"}).status_code == 200


def test_tools_are_listed_and_called(http: FlaskClient) -> None:
    names = [tool["name"] for tool in post(http, "tools/list").json["result"]["tools"]]
    assert names[:4] == ["chat", "models", "calculator", "time"]
    assert call(http, "calculator", expression="6*7") == mcp_server.content("42")
    assert call(http, "chat", message="Hi") == mcp_server.content("Hello.")
    assert not call(http, "models")["isError"]


def test_failures_of_tools_are_results(http: FlaskClient) -> None:
    assert call(http, "calculator", expression="1/0")["isError"]
    assert "message" in call(http, "chat")["content"][0]["text"]
    unknown = call(http, "chat", message="Hi", colour="red")
    assert "colour" in unknown["content"][0]["text"]
    down = client(ScriptedDriver([BackendDown("gone")]), wait_for_backend=0.0)
    assert call(down, "chat", message="Hi")["isError"]


@pytest.mark.parametrize(
    "params", [{"name": "none"}, {"name": 1}, {"name": "time", "arguments": 1}]
)
def test_calls_to_unknown_tools_are_errors(http: FlaskClient, params: Any) -> None:
    error = post(http, "tools/call", params=params).json["error"]
    assert error["code"] == mcp_server.INVALID_PARAMS


@pytest.fixture
def admins(tmp_path: Path) -> Http:
    return keyed(ScriptedDriver(say("Hello.")), tmp_path, **SETTINGS)


def ask(http: Http, key: str, method: str, **params: Any) -> Any:
    return http.post("/mcp", key, jsonrpc="2.0", id=1, method=method, params=params)


def call_with(http: Http, key: str, name: str, **arguments: Any) -> Any:
    return ask(http, key, "tools/call", name=name, arguments=arguments)


def test_key_is_offered_what_it_may_use(admins: Http) -> None:
    assert ask(admins, admins.make(allowed_routes=["chat"])["key"], "ping").status_code == 403
    key = admins.make(allowed_routes=["mcp"], allowed_tools=["time"], models=["other"])["key"]
    tools = ask(admins, key, "tools/list").json["result"]["tools"]
    assert [tool["name"] for tool in tools] == ["chat", "models", "time"]
    wrong = call_with(admins, key, "calculator", expression="1").json
    assert wrong["error"]["code"] == mcp_server.INVALID_PARAMS
    assert call_with(admins, key, "models").json["result"]["content"][0]["text"] == ""
    said = call_with(admins, key, "chat", message="Hi").json["result"]
    assert said["isError"]
    assert "models" in said["content"][0]["text"]


def test_calls_count_against_the_limits_of_the_key(admins: Http) -> None:
    key = admins.make(rpm_limit=2, tpm_limit=100)["key"]
    results = [call_with(admins, key, "time").json["result"] for _ in range(3)]
    assert [result["isError"] for result in results] == [False, False, True]
    refused = call_with(admins, key, "time")
    assert "requests a minute" in refused.json["result"]["content"][0]["text"]
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-remaining-tokens"] == "100"
    assert not call_with(admins, key, "models").json["result"]["isError"]


class WaitingTool:
    """A tool that ends with its time limit only if its caller ends the wait."""

    tool = Tool("wait", "Waits", {"type": "object"})

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        self.began.set()
        assert self.go.wait(60)
        return "done"


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> tuple[Flask, WaitingTool]:
    """An application with this tool alone."""
    app, tool = make_app(ScriptedDriver(), **SETTINGS), WaitingTool()
    monkeypatch.setattr(Dialogues, "published", lambda *_: {"wait": tool})
    return app, tool


def test_calls_that_run_in_parallel_are_bounded(
    admins: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = WaitingTool()
    monkeypatch.setattr(Dialogues, "published", lambda *_: {"wait": tool})
    key = admins.make(max_parallel_requests=1)["key"]

    def fails() -> bool:
        return bool(call_with(Http(admins.app), key, "wait").json["result"]["isError"])

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fails)
        assert tool.began.wait(60)
        assert fails()
        tool.go.set()
        assert not first.result(60)
    assert not fails()


def test_call_has_the_time_limit_of_tools(
    waiting: tuple[Flask, WaitingTool], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, tool = waiting
    monkeypatch.setattr(services_of(app).dialogues, "bounds", AgentConfig(tool_timeout=0.05))
    result = call(app.test_client(), "wait")
    tool.go.set()
    assert result["isError"]
    assert "timed out after 0.05 seconds" in result["content"][0]["text"]


STREAM = {"Accept": "application/json, text/event-stream"}


def streamed(
    http: FlaskClient, name: str, progress_token: str | int = "p1", **arguments: Any
) -> list[Any]:
    """The messages of a stream with the progress of a call."""
    meta = {"progressToken": progress_token}
    params = {"name": name, "arguments": arguments, "_meta": meta}
    answer = post(http, "tools/call", headers=STREAM, params=params)
    assert answer.content_type.startswith("text/event-stream"), answer.text
    lines = answer.text.splitlines()
    return [msgspec.json.decode(line[6:]) for line in lines if line.startswith("data: ")]


def test_text_of_a_model_is_told_as_it_is_written() -> None:
    need("knowledge", "mcp")
    import mcp_types as types

    http = client(ScriptedDriver(say("Hel", "lo", ".")), **SETTINGS)
    *notices, last = streamed(http, "chat", message="Hi", max_tokens=9)
    assert last == mcp_server.answer(1, mcp_server.content("Hello."))
    for message in notices:
        types.ProgressNotification.model_validate(message, by_name=False)
    params = [notice["params"] for notice in notices]
    assert "".join(param["message"] for param in params) == "Hello."
    assert [param["progress"] for param in params] == [1, 2, 3]
    assert {(param["progressToken"], param["total"]) for param in params} == {("p1", 9)}


def test_stream_of_a_call_that_fails_ends_with_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = client(ScriptedDriver([*say("Hel")[:2], BackendDown("gone")]), continue_broken=False)
    *_, last = streamed(broken, "chat", message="Hi")
    assert last["result"]["isError"]
    *_, last = streamed(client(ScriptedDriver(), **SETTINGS), "calculator", expression="1/0")
    assert last["result"]["isError"]


@pytest.mark.parametrize("token", ["p1", 0, ""])
def test_stream_ticks_while_a_tool_runs(
    token: str | int, waiting: tuple[Flask, WaitingTool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_routes, "SECOND", 0.01)
    app, tool = waiting
    encode = mcp_server.progress

    def progress(token: Any, done: int, message: str, total: int = 0) -> Any:
        if done == 3:
            tool.go.set()
        return encode(token, done, message, total)

    monkeypatch.setattr(mcp_server, "progress", progress)
    *notices, last = streamed(app.test_client(), "wait", token)
    assert [notice["params"]["progress"] for notice in notices][:3] == [1, 2, 3]
    assert notices[0]["params"]["progressToken"] == token
    assert last["result"] == mcp_server.content("done")


@pytest.mark.parametrize("way", ["notification", "end of the session"])
def test_cancelled_stream_has_no_result(way: str, waiting: tuple[Flask, WaitingTool]) -> None:
    app, tool = waiting
    session = {mcp_server.SESSION: "mine"}
    params = {"name": "wait", "arguments": {}, "_meta": {"progressToken": 1}}
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(
            post, app.test_client(), "tools/call", headers={**STREAM, **session}, params=params
        )
        assert tool.began.wait(60)
        other = app.test_client()
        if way == "notification":
            body = {"method": "notifications/cancelled", "params": {"requestId": 1}}
            body["jsonrpc"] = "2.0"
            assert other.post("/mcp", json=body, headers=session).status_code == 202
        else:
            assert other.delete("/mcp", headers={mcp_server.SESSION: "other"}).status_code == 204
            assert other.delete("/mcp", headers=session).status_code == 204
        assert "result" not in call.result(60).text
    tool.go.set()


def test_end_of_a_named_session_is_answered_without_a_body(http: FlaskClient) -> None:
    answer = http.delete("/mcp", headers={mcp_server.SESSION: "mine"})
    assert (answer.status_code, answer.data) == (204, b"")
    assert "Content-Type" not in answer.headers
    assert http.delete("/mcp").status_code == 400


@pytest.mark.parametrize("token", [1.5, True, [], "x" * 257])
def test_wrong_progress_tokens_are_refused(http: FlaskClient, token: Any) -> None:
    params = {"name": "time", "_meta": {"progressToken": token}}
    error = post(http, "tools/call", headers=STREAM, params=params).json["error"]
    assert error["code"] == mcp_server.INVALID_PARAMS


def test_client_that_takes_no_streams_gets_json(http: FlaskClient) -> None:
    params = {"name": "time", "_meta": {"progressToken": 1}}
    answer = post(http, "tools/call", params=params).json
    assert answer is not None and "result" in answer


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
METHODS = ["initialize", "ping", "tools/list", "tools/call", "notifications/cancelled"]
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["chat", "models", "calculator", "time"]) | JSON_VALUES,
        "arguments": st.fixed_dictionaries(
            {},
            optional={
                "message": JSON_VALUES,
                "model": JSON_VALUES,
                "max_tokens": JSON_VALUES,
                "expression": JSON_VALUES,
            },
        )
        | JSON_VALUES,
        "_meta": st.fixed_dictionaries({"progressToken": JSON_VALUES}) | JSON_VALUES,
        "protocolVersion": JSON_VALUES,
        "requestId": JSON_VALUES,
    },
)
MESSAGES = JSON_VALUES | st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0") | JSON_VALUES},
    optional={
        "id": st.integers(0, 3) | JSON_VALUES,
        "method": st.sampled_from(METHODS) | JSON_VALUES,
        "params": PARAMS | JSON_VALUES,
        "result": JSON_VALUES,
        "error": JSON_VALUES,
    },
)


@given(
    message=MESSAGES,
    session=st.none() | st.text(max_size=20).filter(lambda text: text.isprintable()),
    streams=st.booleans(),
)
@settings(max_examples=share(500), deadline=None)
def test_every_message_gets_an_answer_of_the_protocol(
    http: FlaskClient, message: Any, session: str | None, streams: bool
) -> None:
    headers = dict(STREAM) if streams else {}
    if session is not None and session.isascii():
        headers[mcp_server.SESSION] = session
    got = http.post("/mcp", data=msgspec.json.encode(message), headers=headers)
    assert got.status_code in (200, 202, 400), got.text
    if got.status_code == 202:
        assert not got.data
    elif got.content_type.startswith("application/json"):
        assert got.json is not None and got.json["jsonrpc"] == "2.0"
        assert ("result" in got.json) != ("error" in got.json)
    else:
        *_, last = (line for line in got.text.splitlines() if line.startswith("data: "))
        assert "result" in msgspec.json.decode(last[6:])
