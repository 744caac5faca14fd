"""The direct route to a view, and when Flask's is used."""

from __future__ import annotations

from typing import Any

import pytest
from flask import has_request_context
from flask.testing import FlaskClient
from werkzeug.test import create_environ

from proxy.config import ApiKey, Secret
from proxy.web.fastpath import Application
from tests.fakes import ScriptedDriver, make_own_app, services_of

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def seen(app: Application, path: str) -> list[bool]:
    """For each call of the view of `path`, whether it runs within a Flask request."""
    calls: list[bool] = []
    view = app.direct[path]

    def watched(*args: Any) -> Any:
        calls.append(has_request_context())
        return view(*args)

    app.direct[path] = watched
    return calls


def texts(answer: Any) -> str:
    return str(answer.json["choices"][0]["message"]["content"])


@pytest.mark.parametrize("prefix", ["", "/llm"])
def test_completion_bypasses_flask(prefix: str) -> None:
    app = make_own_app(ScriptedDriver(), api_prefix=prefix)
    calls = seen(app, f"{prefix}/v1/chat/completions")
    assert texts(app.test_client().post(f"{prefix}/v1/chat/completions", json=CHAT)) == "Hello"
    assert calls == [False]


@pytest.mark.parametrize("leaves", [False, True])
def test_whole_answer_is_counted_once_it_is_sent_or_its_client_left(leaves: bool) -> None:
    app = make_own_app(ScriptedDriver())
    running = services_of(app).observer.running_requests
    environ = create_environ("/v1/chat/completions", method="POST", json=CHAT)
    environ["slotproxy.is_last"] = lambda: None
    application: Any = app
    body = application(environ, lambda *_: None)
    assert leaves or b"Hello" in b"".join(body)
    assert len(running()) == 1
    body.close()
    assert not running()


def test_other_methods_use_flask() -> None:
    client: FlaskClient = make_own_app(ScriptedDriver()).test_client()
    assert client.get("/v1/completions").status_code == 405
    assert client.options("/v1/completions").status_code == 200


def test_request_hooks_disable_the_direct_route() -> None:
    app = make_own_app(ScriptedDriver(), cors_origins=("https://a.example",))
    calls = seen(app, "/v1/chat/completions")
    answer = app.test_client().post(
        "/v1/chat/completions", json=CHAT, headers={"Origin": "https://a.example"}
    )
    assert texts(answer) == "Hello" and not calls
    assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True])
def test_direct_and_flask_answers_are_identical(path: str, stream: bool) -> None:
    apps = make_own_app(ScriptedDriver()), make_own_app(ScriptedDriver())
    apps[1].after_request_funcs[None] = [lambda response: response]
    body = {**CHAT, "max_tokens": 5, "stream": stream}
    direct, flask = (
        app.test_client().post(path, json=body, headers={"X-Request-Id": "7"}) for app in apps
    )
    assert direct.status == flask.status == "200 OK"
    assert [name for name, _ in direct.headers] == [name for name, _ in flask.headers]
    assert direct.headers["X-Request-Id"] == "7"
    assert direct.content_type == flask.content_type
    for answer in (direct, flask):
        assert answer.content_length == (None if stream else len(answer.data))


@pytest.fixture(scope="module")
def ways() -> tuple[FlaskClient, FlaskClient]:
    """Two apps: one with the direct route, one that a hook forces to use Flask's."""
    keys = tuple(ApiKey(name=f"k{n}", secret=Secret(f"secret-{n}")) for n in range(3))
    direct, hooked = (
        make_own_app(ScriptedDriver(), file_keys=keys, max_body=1024, wrong_keys=0)
        for _ in range(2)
    )
    hooked.after_request_funcs[None] = [lambda response: response]
    return direct.test_client(), hooked.test_client()


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
def test_direct_and_flask_errors_are_identical(
    ways: tuple[FlaskClient, FlaskClient],
    path: str,
    headers: dict[str, str],
    body: bytes,
    status: str,
) -> None:
    sent = {"Content-Type": "application/json", "X-Request-Id": "7", **headers}
    direct, flask = (way.post(path, data=body, headers=sent) for way in ways)
    assert direct.status == flask.status == status
    assert direct.data == flask.data
    assert [name for name, _ in direct.headers] == [name for name, _ in flask.headers]
