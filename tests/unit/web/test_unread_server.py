"""A server of several models that was off when slotproxy started: nobody knows its models."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient

from proxy.app.compose import backend_of
from proxy.backends.pools import Backend
from proxy.config import ApiKey, BackendConfig, Secret, Settings
from tests.apps import app_on
from tests.fakes import CAPS, ScriptedDriver, services_of, wait_until
from tests.openai_server import OpenAIServerFake

OFF = "http://127.0.0.1:9/v1"
HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
KEYS = tuple(ApiKey(name, Secret(f"sk-{name}")) for name in ("admin", "ann"))
REASON = "is not responding: connection refused"
MAY = f"may have the model 'rich', but {REASON}"


def off(*others: Backend, **settings: Any) -> FlaskClient:
    """A gateway before a server that is off, and others."""
    made = Settings(
        llama_api=(),
        backend=(BackendConfig(url=OFF),),
        data="",
        local_embeddings=False,
        **settings,
    )
    (config,) = made.backends
    client = app_on([backend_of(made, config), *others], made).test_client()
    registry = services_of(client.application).gateway.registry
    wait_until(lambda: registry.settled)
    return client


@pytest.fixture(scope="module")
def to() -> Iterator[FlaskClient]:
    others = [
        Backend(
            name,
            f"test://{name}",
            ScriptedDriver(caps=msgspec.structs.replace(CAPS, models=(name,))),
        )
        for name in ("qwen3", "tiny")
    ]
    client = off(*others, file_keys=KEYS, admins=("admin",))
    yield client
    services_of(client.application).gateway.registry.close()


def headers(name: str = "admin") -> dict[str, str]:
    return {"Authorization": f"Bearer sk-{name}"}


def get(to: FlaskClient, path: str, name: str = "admin") -> Any:
    return to.get(path, headers=headers(name)).json


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("admin", f"127.0.0.1:9 {MAY}; slotproxy doctor says what to do"),
        ("ann", f"backend-1 {MAY}"),
    ],
)
def test_a_model_that_it_may_have_is_503_with_the_reason(
    to: FlaskClient, name: str, where: str
) -> None:
    for answer in (
        to.post("/v1/chat/completions", json={**HI, "model": "rich"}, headers=headers(name)),
        to.get("/v1/models/rich", headers=headers(name)),
    ):
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "5"
        assert answer.json is not None
        assert answer.json["error"]["message"] == f"the backend {where}"


def test_models_that_are_there_answer(to: FlaskClient) -> None:
    for model, served in (("tiny", "tiny"), ("claude-x", "qwen3"), ("", "qwen3")):
        answer = to.post("/v1/chat/completions", json={**HI, "model": model}, headers=headers())
        assert answer.json is not None
        assert answer.json["model"] == served


def test_lists_have_no_model_for_it(to: FlaskClient) -> None:
    backends = {row["id"]: row["model"] for row in get(to, "/v1/backends")["data"]}
    assert backends == {"127.0.0.1:9": None, "qwen3": "qwen3", "tiny": "tiny"}
    assert {row["model"] for row in get(to, "/v1/slots")["backends"]} == {"qwen3", "tiny"}
    assert {row["id"] for row in get(to, "/v1/models")["data"]} == {"qwen3", "tiny"}


@pytest.mark.parametrize(("name", "shown"), [("admin", "127.0.0.1:9"), ("ann", "backend-1")])
def test_pages_list_the_server_with_the_reason(to: FlaskClient, name: str, shown: str) -> None:
    for path in ("/pages/api/models", "/pages/api/chat/models"):
        assert get(to, path, name)["unread"] == [{"name": shown, "why": f"the backend {REASON}"}]


def test_chat_page_lists_no_phantom_model_while_nothing_answers() -> None:
    client = off()
    listed = client.get("/pages/api/chat/models").json
    assert listed is not None
    assert listed["models"] == []
    assert [server["name"] for server in listed["unread"]] == ["127.0.0.1:9"]
    services_of(client.application).gateway.registry.close()


def test_restart_of_a_server_with_several_models_loses_no_request() -> None:
    """Its list of models was read before, and is not believed any more."""
    pages = {"GET /v1/models": {"data": [{"id": "rich"}, {"id": "poor"}]}}
    with OpenAIServerFake("Hello", pages=pages) as server, ThreadPoolExecutor(8) as clients:
        server._handler.protocol_version = "HTTP/1.0"  # no connection outlives it
        settings = Settings(
            llama_api=(server.url,), data="", local_embeddings=False, health_interval=3600.0
        )
        (config,) = settings.backends
        client = app_on([backend_of(settings, config)], settings).test_client()
        registry = services_of(client.application).gateway.registry
        wait_until(lambda: set(registry.models()) == {"rich", "poor"} and registry.ready)

        def ask(model: str) -> Any:
            other = client.application.test_client()
            return other.post("/v1/chat/completions", json={**HI, "model": model}).text

        wait_until(lambda: "Hello" in ask("rich"))
        server.close()
        answers = [clients.submit(ask, model) for model in ("rich", "poor") * 4]
        time.sleep(1)
        assert [answer.result() for answer in answers if answer.done()] == []
        server.start()
        assert all("Hello" in answer.result(60) for answer in answers)
        registry.close()
