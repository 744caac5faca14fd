"""A real gateway in front of an Ollama server, found by its address alone: chats of every API get
as much context as they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.ollama_server import NAME, OllamaFake
from tools.processes import Gateway

from .conftest import StartGateway


@pytest.fixture
def ollama() -> Iterator[OllamaFake]:
    server = OllamaFake(trained=16_384)
    yield server
    server.close()


def post(gateway: Gateway, path: str, words: int, **more: Any) -> requests.Response:
    messages = [{"role": "user", "content": "word " * words}]
    body = {"model": NAME, "messages": messages, "stream": False, **more}
    return requests.post(gateway.url + path, json=body, timeout=100)


def test_long_chats_are_answered_and_longer_ones_refused(
    gateway: StartGateway, ollama: OllamaFake
) -> None:
    ours = gateway("--llama-api", ollama.url)
    answers: dict[str, Callable[[Any], str]] = {
        "/v1/chat/completions": lambda body: body["choices"][0]["message"]["content"],
        "/v1/messages": lambda body: body["content"][0]["text"],
        "/api/chat": lambda body: body["message"]["content"],
    }
    for path, text in answers.items():
        answer = post(ours, path, 5000, max_tokens=64)
        assert answer.status_code == 200, answer.text
        assert text(answer.json()) == "Hello"
    assert (len(ollama.loads), ollama.cut) == (1, 0)
    assert ollama.loads[0] >= 5000 * 5 // 4
    refused = post(ours, "/v1/chat/completions", 20_000)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert (max(ollama.loads), ollama.cut) == (16_384, 0)


def test_the_table_bounds_the_context(
    gateway: StartGateway, ollama: OllamaFake, tmp_path: Path
) -> None:
    file = tmp_path / "slotproxy.toml"
    file.write_text(f'[[backend]]\nurl = "{ollama.url}"\nctx_size = 8192\n', encoding="utf-8")
    ours = gateway("--config", str(file))
    assert post(ours, "/v1/chat/completions", 10, max_tokens=30_000).status_code == 200
    assert ollama.loads == [8192]
