"""A server of 2023 does not tell its chat template: it is read from its model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integration.asking import chat
from tests.integration.conftest import StartGateway, StartServer

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def prompt(url: str) -> str:
    answer = requests.post(f"{url}/apply-template", json={"messages": QUESTION}, timeout=60)
    return str(answer.json()["prompt"])


def answer(url: str, **fields: Any) -> dict[str, Any]:
    fields = {"messages": QUESTION, "max_tokens": 120, **fields}
    choice: dict[str, Any] = chat(url, **fields)[0]["choices"][0]
    return choice


@pytest.mark.parametrize("name", ["llama-2023", "powerinfer"])
def test_real_model_answers_without_any_flag(
    name: str, start_server: StartServer, gateway: StartGateway, smollm2_model: Path
) -> None:
    server = start_server(name, ctx=4096, model=smollm2_model)
    running = gateway("--llama-api", server.url)
    text = prompt(running.url)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    choice = answer(running.url)
    assert "Paris" in choice["message"]["content"]
    assert "USER" not in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    assert running.log.count("reports no chat template: using that of") == 1
    (backend,) = requests.get(f"{running.url}/v1/backends", timeout=60).json()["data"]
    assert backend["found"]["template_from"] == "file"
    assert str(smollm2_model) not in str(backend)
    server.kill()


def test_prompt_is_that_of_a_server_of_today_and_has_one_bos(
    start_server: StartServer, gateway: StartGateway, tiny_model: Path
) -> None:
    prompts = []
    for name in ("llama-2023", "llama-2026"):
        server = start_server(name, model=tiny_model)
        running = gateway("--llama-api", server.url, "--chat-mode", "completion")
        text = prompt(running.url)
        reply, _ = chat(running.url, messages=QUESTION, max_tokens=1)
        tokens = requests.post(f"{server.url}/tokenize", json={"content": text}, timeout=60).json()
        assert reply["usage"]["prompt_tokens"] == len(tokens["tokens"]) + 1
        prompts.append(text)
        server.kill()
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize(
    ("path", "flags"), [("/nowhere/mystery.gguf", ()), ("", ("--chat-template", "legacy"))]
)
def test_plain_text_format_ends_where_the_user_would_speak(
    path: str,
    flags: tuple[str, ...],
    start_server: StartServer,
    gateway: StartGateway,
    smollm2_model: Path,
) -> None:
    """The model goes on with both parts of a talk, and ends none of them with </s>."""
    extra = ("-a", path) if path else ()
    server = start_server("llama-2023", ctx=4096, model=smollm2_model, extra=extra)
    running = gateway("--llama-api", server.url, *flags)
    assert prompt(running.url).startswith("A chat between a curious user")
    system = {"role": "system", "content": "You are a helpful assistant."}
    ends = []
    for text in ("What is the capital of France?", "Why?", "Do you know a joke?", "Good morning"):
        messages = [system, {"role": "user", "content": text}]
        choice = answer(running.url, messages=messages, repeat_penalty=1.1)
        assert choice["message"]["content"].strip()
        assert "USER:" not in choice["message"]["content"]
        ends.append(choice["finish_reason"])
    assert ends.count("stop") >= 3
    server.kill()
