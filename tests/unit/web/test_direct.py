"""The direct way to a view, and where Flask's is taken."""

from __future__ import annotations

from typing import Any, cast

import pytest
from flask import has_request_context
from flask.testing import FlaskClient

from proxy.config import ApiKey
from proxy.web.direct import Application
from proxy.web.reply import Plain
from tests.fakes import ScriptedDriver, make_app

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def app() -> Application:
    return cast(Application, make_app(ScriptedDriver()))


def seen(app: Application, path: str) -> list[bool]:
    """Whether the view of a path is called within Flask's request, call by call."""
    calls: list[bool] = []
    view = app.direct[path]

    def watched(*args: Any) -> Any:
        calls.append(has_request_context())
        return view(*args)

    app.direct[path] = watched
    return calls


def texts(answer: Any) -> str:
    return str(answer.json["choices"][0]["message"]["content"])


def test_a_completion_is_answered_without_a_request_of_flask(app: Application) -> None:
    calls = seen(app, "/v1/chat/completions")
    assert texts(app.test_client().post("/v1/chat/completions", json=CHAT)) == "Hello"
    assert calls == [False]


def test_a_prefix_of_the_routes_counts() -> None:
    app = cast(Application, make_app(ScriptedDriver(), api_prefix="/llm"))
    calls = seen(app, "/llm/v1/chat/completions")
    assert texts(app.test_client().post("/llm/v1/chat/completions", json=CHAT)) == "Hello"
    assert calls == [False]


def test_other_methods_go_the_way_of_flask(app: Application) -> None:
    client: FlaskClient = app.test_client()
    assert client.get("/v1/chat/completions").status_code == 405
    assert client.options("/v1/chat/completions").status_code == 200


def test_with_a_hook_for_all_routes_flask_answers_as_well() -> None:
    app = cast(Application, make_app(ScriptedDriver(), cors_origins=("https://a.example",)))
    calls = seen(app, "/v1/chat/completions")
    answer = app.test_client().post(
        "/v1/chat/completions", json=CHAT, headers={"Origin": "https://a.example"}
    )
    assert texts(answer) == "Hello" and not calls
    assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True])
def test_both_ways_say_the_same(path: str, stream: bool) -> None:
    apps = make_app(ScriptedDriver()), make_app(ScriptedDriver())
    apps[1].after_request_funcs[None] = [lambda response: response]
    asked = {**CHAT, "max_tokens": 5, "stream": stream}
    direct, flask = (
        app.test_client().post(path, json=asked, headers={"X-Request-Id": "7"}) for app in apps
    )
    assert direct.status == flask.status == "200 OK"
    assert [name for name, _ in direct.headers] == [name for name, _ in flask.headers]
    assert direct.headers["X-Request-Id"] == "7"
    assert direct.content_type == flask.content_type
    for answer in (direct, flask):
        assert answer.content_length == (None if stream else len(answer.data))


def test_a_defect_is_told_in_the_log_alone(
    app: Application, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("a secret")

    app.direct["/v1/chat/completions"] = broken
    answer = app.test_client().post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 500
    assert b"a secret" not in answer.data and "a secret" in caplog.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"", "401 UNAUTHORIZED"),
        ({"X-Api-Key": "wrong"}, b"{}", "401 UNAUTHORIZED"),
        ({"X-Api-Key": "secret-2"}, b"[", "400 BAD REQUEST"),
        ({"X-Api-Key": "secret-2", "Content-Type": "a/b"}, b"", "415 UNSUPPORTED MEDIA TYPE"),
        ({"X-Api-Key": "secret-2"}, b" " * 2048, "413 REQUEST ENTITY TOO LARGE"),
    ],
)
def test_both_ways_refuse_alike(
    path: str, headers: dict[str, str], body: bytes, status: str
) -> None:
    keys = tuple(ApiKey(name=f"k{n}", secret=f"secret-{n}") for n in range(3))
    answers = []
    for hooked in (False, True):
        app = make_app(ScriptedDriver(), file_keys=keys, max_body=1024)
        if hooked:
            app.after_request_funcs[None] = [lambda response: response]
        sent = {"Content-Type": "application/json", "X-Request-Id": "7", **headers}
        answers.append(app.test_client().post(path, data=body, headers=sent))
    direct, flask = answers
    assert direct.status == flask.status == status
    assert direct.data == flask.data
    assert [name for name, _ in direct.headers] == [name for name, _ in flask.headers]


@pytest.mark.parametrize("status", [429, 499, 503])
def test_a_refusal_has_the_status_line_that_flask_would_send(status: int) -> None:
    told: list[str] = []
    Plain(b"{}", "application/json", [], status)({}, lambda line, headers: told.append(line))
    assert told == [Plain(b"{}", "application/json", [], status).reply().status]
