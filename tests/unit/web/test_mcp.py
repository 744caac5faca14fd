"""POST /mcp on a scripted backend: messages, the tools of a key, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from proxy.core.request import Tool
from proxy.dialects import mcp_server
from proxy.dialogue.events import Bounds
from proxy.errors import BackendDown
from proxy.runtime.cancel import Cancel
from tests.extras import need
from tests.fakes import ScriptedDriver, client, make_app, say, services_of

from .account_client import KEYS, Http

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


def test_answers_are_of_the_protocol(http: FlaskClient) -> None:
    need("knowledge", "mcp")
    import mcp_types as types

    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}}
    for method, kind in (
        ("initialize", types.InitializeResult),
        ("ping", types.EmptyResult),
        ("tools/list", types.ListToolsResult),
    ):
        answer = post(http, method, params=params).json
        kind.model_validate(types.JSONRPCResponse.model_validate(answer).result, by_name=False)
    result = call(http, "calculator", expression="6*7")
    parsed = types.CallToolResult.model_validate(result, by_name=False)
    assert not parsed.is_error
    wrong = post(http, "prompts/list").json
    assert types.JSONRPCError.model_validate(wrong).error.code == mcp_server.NO_METHOD


@pytest.mark.parametrize(
    ("asked", "spoken"),
    [("2025-06-18", "2025-06-18"), ("2030-01-01", mcp_server.VERSIONS[0]), (None, "2025-11-25")],
)
def test_revision_is_negotiated(http: FlaskClient, asked: str | None, spoken: str) -> None:
    answer = post(http, "initialize", params={"protocolVersion": asked})
    assert answer.json["result"]["protocolVersion"] == spoken
    assert answer.headers[mcp_server.SESSION]


def test_notifications_have_no_answer(http: FlaskClient) -> None:
    message = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    answer = http.post("/mcp", json=message)
    assert (answer.status_code, answer.data) == (202, b"")


@pytest.mark.parametrize(
    "message",
    [
        {"id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "id": {}, "method": "ping"},
        {"jsonrpc": "2.0", "id": "x" * (mcp_server.LONGEST_ID + 1), "method": "ping"},
        {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []},
        [{"jsonrpc": "2.0", "id": 1, "method": "ping"}],
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


def test_there_is_no_stream_of_the_server(http: FlaskClient) -> None:
    assert http.get("/mcp").status_code == 405
    assert http.delete("/mcp").status_code == 405


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


def test_key_is_offered_what_it_may_use(tmp_path: Path) -> None:
    settings = {"file_keys": KEYS, "admins": ("ops",), "data": str(tmp_path), **SETTINGS}
    http = Http(make_app(ScriptedDriver(say("Hello.")), **settings))
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert http.post("/mcp", http.make(allowed_routes=["chat"])["key"], **ping).status_code == 403
    key = http.make(allowed_routes=["mcp"], allowed_tools=["time"], models=["other"])["key"]

    def ask(method: str, **params: Any) -> Any:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return http.post("/mcp", key, **message).json

    names = [tool["name"] for tool in ask("tools/list")["result"]["tools"]]
    assert names == ["chat", "models", "time"]
    wrong = ask("tools/call", name="calculator", arguments={"expression": "1"})
    assert wrong["error"]["code"] == mcp_server.INVALID_PARAMS
    assert ask("tools/call", name="models")["result"]["content"][0]["text"] == ""
    said = ask("tools/call", name="chat", arguments={"message": "Hi"})["result"]
    assert said["isError"]
    assert "models" in said["content"][0]["text"]


def test_calls_count_against_the_limits_of_the_key(tmp_path: Path) -> None:
    settings = {"file_keys": KEYS, "admins": ("ops",), "data": str(tmp_path), **SETTINGS}
    http = Http(make_app(ScriptedDriver(say("Hello.")), **settings))
    key = http.make(rpm_limit=2, tpm_limit=100)["key"]

    def ask(name: str) -> Any:
        params = {"name": name, "arguments": {}}
        return http.post("/mcp", key, jsonrpc="2.0", id=1, method="tools/call", params=params)

    assert [ask("time").json["result"]["isError"] for _ in range(3)] == [False, False, True]
    refused = ask("time")
    assert "requests a minute" in refused.json["result"]["content"][0]["text"]
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-remaining-tokens"] == "100"
    assert not ask("models").json["result"]["isError"]


class WaitingTool:
    """A tool that ends with its time limit only if its caller ends the wait."""

    tool = Tool("wait", "Waits", {"type": "object"})

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        self.began.set()
        assert self.go.wait(60)
        return "done"


def test_calls_that_run_in_parallel_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"file_keys": KEYS, "admins": ("ops",), "data": str(tmp_path), **SETTINGS}
    app = make_app(ScriptedDriver(say("Hello.")), **settings)
    tool = WaitingTool()
    dialogues = services_of(app).dialogues
    monkeypatch.setattr(dialogues, "published", lambda owner, caller: {"wait": tool})
    key = Http(app).make(max_parallel_requests=1)["key"]

    def ask() -> Any:
        params = {"name": "wait", "arguments": {}}
        answer = Http(app).post(
            "/mcp", key, jsonrpc="2.0", id=1, method="tools/call", params=params
        )
        return answer.json["result"]

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask)
        assert tool.began.wait(60)
        refused = ask()
        tool.go.set()
        assert not first.result(60)["isError"]
    assert refused["isError"]
    assert not ask()["isError"]


def test_call_has_the_time_limit_of_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(ScriptedDriver(say("Hello.")), **SETTINGS)
    tool = WaitingTool()
    dialogues = services_of(app).dialogues
    monkeypatch.setattr(dialogues, "published", lambda owner, caller: {"wait": tool})
    monkeypatch.setattr(dialogues, "_bounds", Bounds(tool_seconds=0.05))
    result = call(app.test_client(), "wait")
    tool.go.set()
    assert result["isError"]
    assert "timed out after 0.05 seconds" in result["content"][0]["text"]
