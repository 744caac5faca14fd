"""An agent's turns on a real llama-server, with the templates and formats of the models that people
run: each turn evaluates the result of the call before it, and nothing twice.

The model is made up, with letters as tokens. The text that it must write is the call as the
server's own rendering of the template shows it, so it is not ours. (DeepSeek's marks contain
sentencepiece's sign for a blank, which such a model cannot write.)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import takewhile
from typing import Any

import pytest
import requests

from tests.forced_server import ForcedServer
from tests.integration.asking import chat
from tests.integration.conftest import StartGateway, StartServer
from tools import chat_cases, made_up_model, servers

FORMATS = {
    "Qwen3": "Qwen-Qwen3-0.6B",
    "Qwen3-Coder": "Qwen3-Coder",
    "Qwen 3.5": "Qwen3.5-4B",
    "Llama 3.1": "meta-llama-Llama-3.1-8B-Instruct",
    "Mistral Small 3.2": "Mistral-Small-3.2-24B-Instruct-2506",
    "gpt-oss": "openai-gpt-oss-120b",
    "GLM 4.7": "GLM-4.7-Flash",
    "Kimi K2": "Kimi-K2-Thinking",
    "Gemma 4": "google-gemma-4-31B-it",
    "MiniMax M2": "MiniMax-M2",
    "Granite 4": "ibm-granite-granite-4.0",
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
THOUGHT = "I look at the next city."
QUESTION = {"role": "user", "content": "Compare the weather of five cities, one after the other."}
CITIES = ("Oslo", "Bergen", "Lima", "Quito", "Rome")
RESULT = "In {}: " + "It is sunny, with 21 degrees and a light wind from the west. " * 4
ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "</s>",
    "<|call|>",
    "<|end_of_text|>",
    "<|observation|>",
    "<turn|>",
    "<|tool_response>",
    "[e~[",
)
AGAIN = 8
"""Tokens that may be evaluated twice: a server evaluates the last one of a cached prompt again, and
tokens may join where the answer ends."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def call(city: str, number: int) -> dict[str, Any]:
    arguments = json.dumps({"city": city, "days": number})
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": f"call0000{number}", "type": "function", "function": function}


def written(
    render: Callable[[list[dict[str, Any]]], str],
    messages: list[dict[str, Any]],
    city: str,
    number: int,
) -> str:
    """How a model of the template writes a call, behind a thought if the template keeps it."""
    made = call(city, number)
    turn = {"role": "assistant", "content": "", "tool_calls": [made]}
    result = {"role": "tool", "tool_call_id": made["id"], "content": "RESULT"}
    prompt = render(messages)
    answered = render([*messages, {**turn, "reasoning_content": THOUGHT}, result])
    if THOUGHT not in answered:
        answered = render([*messages, turn, result])
    pairs = zip(prompt, answered, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    text = answered[same:].partition("RESULT")[0]
    head, _, tail = text.partition(city)
    cut = min(tail.index(end) for end in ENDS if end in tail)
    return f"{head}{city}{tail[:cut]}".rstrip("\n")


@pytest.mark.parametrize("template", FORMATS.values(), ids=FORMATS.keys())
def test_five_tool_turns_evaluate_each_token_once(
    template: str, start_server: StartServer, gateway: StartGateway
) -> None:
    binary = servers.find("llama-2026")
    if binary is None:
        pytest.skip("llama-2026 is not built: python -m tools.servers build llama-2026")
    path = binary.parent / chat_cases.TEMPLATES / f"{template}.jinja"
    server = start_server(
        "llama-2026",
        slots=1,
        ctx=32768,
        model=made_up_model.cached(letters=True),
        extra=["--chat-template-file", str(path)],
    )

    def render(messages: list[dict[str, Any]]) -> str:
        body = json.loads(json.dumps({"messages": messages, "tools": [WEATHER]}))
        for message in body["messages"]:  # Mistral's takes ids of nine letters
            for entry in message.get("tool_calls", ()):
                entry["id"] = entry["id"][-9:]
            if "tool_call_id" in message:
                message["tool_call_id"] = message["tool_call_id"][-9:]
        answer = requests.post(f"{server.url}/apply-template", json=body, timeout=30)
        answer.raise_for_status()
        return str(answer.json()["prompt"])

    texts: list[str] = []
    turn = 0
    prompts: dict[int, str] = {}

    def script(prompt: str) -> str:
        if QUESTION["content"] not in prompt:
            return "ok"  # the health check
        prompts.setdefault(turn, prompt)
        return texts[turn].removeprefix(prompt.removeprefix(prompts[turn]))

    forced = ForcedServer(server.url, script, rest=True)
    try:
        proxy = gateway("--llama-api", forced.url)
        messages: list[dict[str, Any]] = [QUESTION]
        before = 0  # tokens of the last prompt and its answer
        for turn, city in enumerate(CITIES):
            texts.append(written(render, messages, city, turn + 1))
            answer, _ = chat(proxy.url, messages=messages, tools=[WEATHER], max_tokens=1000)
            choice, usage = answer["choices"][0], answer["usage"]
            (made,) = choice["message"]["tool_calls"]
            assert made["function"]["name"] == "get_weather"
            assert json.loads(made["function"]["arguments"]) == {"city": city, "days": turn + 1}
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            if turn:
                slot = prompts[turn - 1] + texts[turn - 1]
                assert prompts[turn][: len(slot)] == slot
            assert cached >= before - AGAIN, (turn, usage, before)
            before = usage["prompt_tokens"] + usage["completion_tokens"]
            result = RESULT.format(city)
            messages += [
                choice["message"],
                {"role": "tool", "tool_call_id": made["id"], "content": result},
            ]
    finally:
        forced.close()
