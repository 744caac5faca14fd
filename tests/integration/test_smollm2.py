"""Answers of a real model through the gateway: SmolLM2-135M-Instruct, greedy.

Only what this model does reliably. It reads a given text, keeps what was said before, and ends its
answers; it knows little else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.asking import chat
from tests.integration.conftest import GENERATIONS
from tools.processes import Gateway, ModelServer

LIGHTHOUSE = (
    "The lighthouse of Ardnish was built in 1874 by the engineer Flora MacPhail. Its lamp burned "
    "whale oil until 1901, then paraffin, and has been electric since 1956."
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}

Ask = Callable[..., Any]


@pytest.mark.parametrize("model", ["smollm2_model", "tiny_model"])
def test_server_template_gives_the_servers_own_prompt(
    model: str,
    request: pytest.FixtureRequest,
    start_server: Callable[..., ModelServer],
    gateway: Callable[..., Gateway],
) -> None:
    """SmolLM2's BOS begins every turn, and its server adds none; tinychat's server adds one."""
    server = start_server("llama-2026", model=request.getfixturevalue(model))
    ours = gateway("--llama-api", server.url, "--chat-mode", "completion")
    theirs, our = (chat(url, "Hello!", max_tokens=1)[0] for url in (server.url, ours.url))
    server.kill()
    assert our["usage"]["prompt_tokens"] == theirs["usage"]["prompt_tokens"]


@pytest.fixture(scope="module", params=GENERATIONS)
def ask(
    request: pytest.FixtureRequest,
    start_server: Callable[..., ModelServer],
    module_gateway: Callable[..., Gateway],
    smollm2_model: Path,
) -> Ask:
    """`ask(text, …, key=value)`: a conversation whose turns are by user and assistant in turn; the
    answer."""
    server = start_server(request.param, ctx=4096, model=smollm2_model)
    flags = ("--slots", "2", "--chat-template", "chatml", "--sampling", "repeat_penalty=1.05")
    url = module_gateway("--llama-api", server.url, *flags).url
    return lambda *turns, **fields: chat(url, *turns, **{"max_tokens": 64, **fields})[0]


def said(answer: Any) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


def test_known_fact_and_end_of_answer(ask: Ask) -> None:
    answer = ask("What is the capital of France?")
    assert "Paris" in said(answer)
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("question", "fact"),
    [("Who built the lighthouse?", "Flora MacPhail"), ("When was it built?", "1874")],
)
def test_fact_from_a_given_text(ask: Ask, question: str, fact: str) -> None:
    assert fact in said(ask(f"{LIGHTHOUSE}\n\n{question}"))


def test_name_from_earlier_turn_on_warm_slot(ask: Ask) -> None:
    turns = ("My dog is called Rex.", "Rex is a lovely name for a dog.")
    first = ask(turns[0], max_tokens=1)
    second = ask(*turns, "What is my dog called?", session_id="dogs")
    assert "Rex" in said(second)
    third = ask(*turns, "What is my dog called?", said(second), "What did I tell you?")
    cached = third["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert first["usage"]["prompt_tokens"] < second["usage"]["prompt_tokens"] <= cached


@pytest.mark.slow
def test_tool_is_called_with_the_users_values(ask: Ask) -> None:
    answer = ask("What is the weather in Paris?", tools=[WEATHER], tool_choice="required")
    call = answer["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "get_weather"
    assert json.loads(call["arguments"]) == {"city": "Paris"}


@pytest.mark.slow
def test_next_turn_on_a_server_of_2023_evaluates_its_new_text_alone(
    start_server: Callable[..., ModelServer], gateway: Callable[..., Gateway], smollm2_model: Path
) -> None:
    """This model writes two line feeds before code, which the server of 2023 reads as one token."""
    server = start_server("llama-2023", ctx=4096, model=smollm2_model)
    running = gateway("--llama-api", server.url, "--chat-template", "chatml")
    messages = [{"role": "user", "content": "Write a short python function that adds two numbers."}]
    evaluated, before = [], 0
    for question in ("Now explain it.", "Show an example.", "And in C?", "Why?"):
        reply, _ = chat(running.url, messages=messages, max_tokens=40)
        evaluated.append(
            reply["timings"]["prompt_n"] - max(0, reply["usage"]["prompt_tokens"] - before)
        )
        before = reply["usage"]["total_tokens"]
        messages.append(reply["choices"][0]["message"])
        messages.append({"role": "user", "content": question})
    assert sum(extra > 1 for extra in evaluated) <= 1, evaluated  # once, to see what it can do
