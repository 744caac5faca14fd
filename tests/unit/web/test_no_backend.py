"""Routes of a gateway whose last backend was removed from the configuration."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from flask.testing import FlaskClient

from proxy.backends.pools import Backend
from proxy.config import BackendConfig
from proxy.runtime.cancel import Cancel
from proxy.scheduling.lease import Outcome
from proxy.scheduling.state import SlotRequest
from tests.fakes import CAPS, ScriptedDriver, make_app, services_of, wait_until

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def make_none(config: BackendConfig) -> Backend:
    raise AssertionError(f"{config.name} is not to be made")


@pytest.fixture(scope="module")
def empty() -> Iterator[FlaskClient]:
    app = make_app(ScriptedDriver())
    registry = services_of(app).gateway.registry
    registry.reload([], make_none)
    wait_until(lambda: not registry.backends)
    yield app.test_client()
    registry.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/chat/completions", {**CHAT, "model": "scripted"}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/embeddings", {"input": "hi"}),
        ("/v1/rerank", {"query": "hi", "documents": ["ho"]}),
        ("/v1/messages", {**CHAT, "max_tokens": 5}),
        ("/v1/messages/count_tokens", CHAT),
        ("/v1/responses", {"input": "hi"}),
        ("/api/chat", {**CHAT, "model": "any"}),
        ("/api/generate", {"prompt": "hi", "model": "any"}),
        ("/api/embed", {"input": "hi", "model": "any"}),
        ("/completion", {"prompt": "hi"}),
        ("/tokenize", {"content": "hi"}),
        ("/detokenize", {"tokens": [1]}),
        ("/apply-template", CHAT),
        ("/embedding", {"prompt": "hi"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_api_routes_answer_503_without_backends(
    empty: FlaskClient, path: str, body: object
) -> None:
    reply = empty.post(path, json=body)
    # Anthropic uses 529 for it.
    assert reply.status_code == (529 if "/messages" in path else 503), reply.text
    assert "no backend is configured" in reply.text


@pytest.mark.parametrize("path", ["/", "/props"])
def test_pages_answer_503_without_backends(empty: FlaskClient, path: str) -> None:
    reply = empty.get(path, headers={"Accept": "text/html"})
    assert reply.status_code == 503
    assert "no backend is configured" in reply.text


@pytest.mark.parametrize("path", ["/v1/models", "/api/tags", "/v1/backends", "/slots", "/metrics"])
def test_model_lists_are_empty_without_backends(empty: FlaskClient, path: str) -> None:
    assert empty.get(path).status_code in (200, 404)
    assert "scripted" not in empty.get(path).text


def test_pages_are_shown_while_a_backend_drains() -> None:
    """Models of a draining backend are no longer offered or requested."""
    models = ("scripted", "another", "leaving-model")
    app = make_app(
        *(ScriptedDriver(caps=msgspec.structs.replace(CAPS, models=(name,))) for name in models)
    )
    gateway = services_of(app).gateway
    registry = gateway.registry
    assert "leaving-model" in app.test_client().get("/", headers={"Accept": "text/html"}).text
    lease = gateway.scheduler.acquire(SlotRequest(model="leaving-model"), Cancel())
    backend = registry.borrow(lease.backend)
    assert backend is not None
    stay = [BackendConfig(name=name, url="http://127.0.0.1:1") for name in ("b0", "b1")]
    for config in stay:
        registry.backends[config.name].config = config
    registry.reload(stay, make_none)
    assert backend.leaving and "b2" in registry.backends
    page = app.test_client().get("/", headers={"Accept": "text/html"})
    assert page.status_code == 200
    assert "leaving-model" not in page.text
    assert "scripted" in page.text and "another" in page.text
    lease.release(Outcome(end="whole"))
    registry.give_back(backend)
    registry.close()
