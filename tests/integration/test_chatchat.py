"""Langchain-Chatchat's API for a client shaped as its own, on a real server behind a real gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.chatchat import Chatchat
from tests.integration.conftest import StartGateway
from tools.processes import Gateway, ModelServer

HISTORY = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]


@pytest.fixture(scope="module")
def served(
    start_server: object, tiny_model: object, module_gateway: StartGateway
) -> Iterator[Gateway]:
    server: ModelServer = start_server("llama-2023", model=tiny_model)  # type: ignore[operator]
    flags = ("--chatchat", "--slots", "2", "--chat-template", "chatml")
    yield module_gateway(*flags, "--llama-api", server.url)


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
