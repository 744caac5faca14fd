"""Langchain-Chatchat's API for a client shaped as its own, real server and real gateway."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.chatchat import Chatchat
from tests.integration.conftest import StartGateway, StartServer
from tools.processes import Gateway, ModelServer

FLAGS = ("--chatchat", "--slots", "2", "--chat-template", "chatml")
HISTORY = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]


@pytest.fixture(scope="module")
def server(start_server: StartServer, tiny_model: Path) -> ModelServer:
    return start_server("llama-2023", model=tiny_model)


@pytest.fixture(scope="module")
def served(server: ModelServer, module_gateway: StartGateway) -> Gateway:
    return module_gateway(*FLAGS, "--llama-api", server.url)


@pytest.fixture
def api(served: Gateway) -> Iterator[Chatchat]:
    client = Chatchat(served.url)
    yield client
    client.close()


def test_each_chunk_of_a_chat_is_one_document(api: Chatchat) -> None:
    documents = list(api.chat_chat("你好", history=HISTORY, max_tokens=24))
    assert len(documents) > 1
    assert all(type(one["text"]) is str for one in documents)
    assert len({one["chat_history_id"] for one in documents}) == 1
    (whole,) = api.chat_chat("你好", history=HISTORY, max_tokens=24, stream=False)
    assert whole["text"] == "".join(one["text"] for one in documents) != ""


def test_the_form_of_the_modification_for_chatglm_cpp(api: Chatchat) -> None:
    value = {
        "messages": [{"role": "user", "content": "你好"}],
        "stream": False,
        "model": "openai-api",
        "temperature": 0.95,
        "max_tokens": 24,
    }
    (whole,) = api.stream("/chat/chat", value)
    assert whole["text"] and whole["chat_history_id"]
    pieces = list(api.stream("/chat/chat", {**value, "stream": True}))
    assert "".join(one["text"] for one in pieces)


def test_each_chunk_is_one_document_on_waitress_too(
    server: ModelServer, gateway: StartGateway
) -> None:
    api = Chatchat(gateway(*FLAGS, "--server", "waitress", "--llama-api", server.url).url)
    documents = list(api.chat_chat("你好", max_tokens=24))
    assert len(documents) > 1
    api.close()


def test_a_client_that_leaves_frees_its_slot(
    old_server: ModelServer, gateway: StartGateway
) -> None:
    api = Chatchat(gateway(*FLAGS, "--llama-api", old_server.url).url)

    def in_flight() -> int:
        (backend,) = api.get("/v1/backends")["data"]
        return int(backend["in_flight"])

    stream = api.chat_chat("a", max_tokens=2000)
    next(stream)
    assert in_flight() == 1
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    end = time.monotonic() + 10
    while in_flight():
        assert time.monotonic() < end, "it still writes"
        time.sleep(0.02)
    api.close()


def test_a_key_in_the_address_is_all_its_client_needs(
    server: ModelServer, gateway: StartGateway
) -> None:
    locked = gateway(*FLAGS, "--api-key", "sesame", "--llama-api", server.url).url
    outside = Chatchat(locked)
    (refused,) = outside.chat_chat("你好")
    assert refused["code"] == 401 and refused["msg"]
    assert outside.post("/llm_model/list_running_models", {}) == {**refused, "data": {}}
    outside.close()
    inside = Chatchat(locked.replace("http://", "http://any:sesame@"))
    assert list(inside.post("/llm_model/list_running_models", {})["data"])
    inside.close()
