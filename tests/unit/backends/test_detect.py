"""Which driver the server at an address gets, by what real servers answer."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from proxy.app.compose import backend_of
from proxy.backends.http_server import WhisperServer
from proxy.backends.llamacpp import LlamaCpp
from proxy.backends.openai.driver import OpenAIServer
from proxy.backends.pools import Backend
from proxy.backends.registry import Registry
from proxy.config import BackendConfig, Settings
from proxy.errors import BackendDown
from proxy.scheduling.scheduler import LocalScheduler
from tests.http_fakes import FakeHandler, FakeServer

MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "me"}]}
NEW = {"/props": {"default_generation_settings": {"n_ctx": 64}, "total_slots": 4}}
OLD = {"/props": {"user_name": "", "assistant_name": ""}, "/model.json": {"n_ctx": 64}}


def owned(owner: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": owner}]}


class Pages(FakeServer):
    """Answers GET with these documents, or with these statuses."""

    def __init__(self, pages: dict[str, Any]) -> None:
        self.pages = pages
        super().__init__(_Handler, server_fake=self)


class _Handler(FakeHandler):
    server_fake: Pages

    def do_GET(self) -> None:
        page = self.server_fake.pages.get(self.path, 404)
        self.send({}, page) if isinstance(page, int) else self.send(page)


def backend_at(url: str, **fields: Any) -> Backend:
    return backend_of(Settings(), BackendConfig(name="b", url=url, **fields))


def found(pages: dict[str, Any], path: str = "", **fields: Any) -> tuple[type, str]:
    """The driver for a server with these pages, and its address behind host and port."""
    with Pages(pages) as server:
        backend = backend_at(server.url + path, **fields)
        assert backend.detect is not None
        driver: Any = backend.detect(backend.driver)
        return type(driver), driver.url.removeprefix(server.url)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
@pytest.mark.parametrize(
    ("pages", "driver"),
    [
        (NEW | {"/v1/models": owned("llamacpp")}, LlamaCpp),
        ({"/props": {"role": "router"}, "/v1/models": owned("llamacpp")}, LlamaCpp),
        ({"/props": 401, "/v1/models": owned("llamacpp")}, LlamaCpp),  # it wants a key
        (OLD | {"/v1/models": owned("llamacpp")}, LlamaCpp),
        (OLD, LlamaCpp),  # PowerInfer
        ({"/": {"title": "Whisper.cpp Server"}}, WhisperServer),
        ({"/v1/models": owned("me")}, OpenAIServer),
        ({"/v1/models": owned("library")}, OpenAIServer),  # Ollama
        ({"/v1/models": {"object": "list", "data": None}}, OpenAIServer),  # Ollama without models
        ({"/v1/models": owned("llamacpp")}, OpenAIServer),  # only its /v1 can be reached
        (NEW | {"/v1/models": owned("koboldcpp")}, OpenAIServer),  # it imitates /props
        (NEW | {"/v1/models": owned("slotproxy")}, OpenAIServer),
    ],
)
def test_a_server_is_taken_for_what_it_is(pages: dict[str, Any], driver: type, path: str) -> None:
    assert found(pages, path) == (driver, "/v1" if driver is OpenAIServer else "")


def test_an_api_without_v1_is_found() -> None:
    assert found({"/models": MODELS}) == (OpenAIServer, "")
    assert found({"/v1beta/openai/models": MODELS}, "/v1beta/openai") == (
        OpenAIServer,
        "/v1beta/openai",
    )


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ({"/props": 503}, "loading its model"),
        ({"/v1/models": 401}, "rejects our API key"),
    ],
)
def test_a_server_that_cannot_be_used_says_why(pages: dict[str, Any], words: str) -> None:
    with pytest.raises(BackendDown, match=words):
        found(pages)


REFUSED = ConnectionRefusedError(111, "Connection refused")


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("http://127.0.0.1:9", REFUSED, "connection refused"),
        ("http://127.0.0.1:9", TimeoutError("timed out"), "connection timed out"),
        ("http://nobody.invalid:9", socket.gaierror(-2, "Name or service unknown"), "no such host"),
    ],
)
def test_an_address_without_a_server_says_why(
    url: str, error: OSError, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    monkeypatch.setattr(socket.socket, "connect", fails)
    backend = backend_at(url)
    registry = Registry([backend], LocalScheduler(time.monotonic), deadline=1.0)
    registry.check(backend)
    assert (backend.up, backend.error) == (False, f"the backend is not responding: {words}")


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("http://a:1", "http://a:1/v1"),
        ("http://a:1/v1", "http://a:1/v1"),
        ("http://a/b", "http://a/b"),
    ],
)
def test_the_kind_openai_needs_no_v1_either(url: str, api: str) -> None:
    backend = backend_at(url, kind="openai")
    assert backend.detect is None
    assert isinstance(backend.driver, OpenAIServer)
    assert backend.driver.url == api


def test_given_kinds_are_not_detected() -> None:
    backend = backend_at("http://a:1/v1", kind="llamacpp")
    assert backend.detect is None
    assert isinstance(backend.driver, LlamaCpp)
    assert backend.driver.url == "http://a:1"


def test_another_server_at_the_same_address_gets_its_driver() -> None:
    with Pages({"/v1/models": owned("x")}) as server:
        backend = backend_at(server.url)
        registry = Registry([backend], LocalScheduler(time.monotonic), deadline=1.0)
        registry.check(backend)
        assert (backend.up, backend.model) == (True, "m")
        assert isinstance(backend.driver, OpenAIServer)
        backend.up = False
        server.pages = {"/props": 503}
        registry.check(backend)
        assert "loading" in backend.error
        registry.close()
