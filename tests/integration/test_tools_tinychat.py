"""The bundled model calls tools of its own will, on real servers: question, call, answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import openai
from tools.processes import Gateway, ModelServer

# What its file says, for a server that does not tell.
TEMPLATE = Path(__file__).parents[2] / "models" / "tinychat.jinja"
WAYS = {
    "llama-2023": ("llama-2023", ("--chat-template", str(TEMPLATE))),
    "powerinfer": ("powerinfer", ("--chat-template", str(TEMPLATE))),
    "llama-2026": ("llama-2026", ("--chat-mode", "completion")),
    "native": ("llama-2026", ("--chat-mode", "native")),
}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "name of the city"}},
    "required": ["city"],
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather of a city",
        "parameters": CITY,
    },
}


@pytest.fixture(scope="module", params=WAYS)
def client(
    request: pytest.FixtureRequest,
    start_server: Callable[..., ModelServer],
    module_gateway: Callable[..., Gateway],
    tiny_model: Path,
) -> Iterator[openai.OpenAI]:
    name, flags = WAYS[request.param]
    server = start_server(name, model=tiny_model)
    gateway = module_gateway("--llama-api", server.url, *flags)
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="x", max_retries=0) as client:
        yield client
    server.kill()


@pytest.mark.parametrize("stream", [False, True])
def test_question_leads_to_call_result_and_answer(client: openai.OpenAI, stream: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]

    def turn() -> Any:
        fields: dict[str, Any] = {"messages": messages, "tools": [WEATHER], "model": "tinychat"}
        fields |= {"temperature": 0, "max_tokens": 200}
        if not stream:
            return client.chat.completions.create(**fields).choices[0]
        with client.chat.completions.stream(**fields) as events:
            return events.get_final_completion().choices[0]

    choice = turn()
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    messages.append(choice.message.model_dump(include={"role", "content", "tool_calls"}))
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 4}'}
    messages.append(result)
    choice = turn()
    assert choice.finish_reason == "stop"
    assert "4" in choice.message.content
    assert not choice.message.tool_calls


def test_cached_tokens_are_counted_for_a_resumed_answer(client: openai.OpenAI) -> None:
    """A call that opens in free text is written by a second run, which finds the whole prompt."""
    made = client.chat.completions.create(
        model="tinychat",
        messages=[{"role": "user", "content": "What is the weather in Lima?"}],
        tools=[WEATHER],
        temperature=0,
        max_tokens=200,
    )
    assert made.choices[0].finish_reason == "tool_calls"
    usage = made.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    cached = usage.prompt_tokens_details.cached_tokens
    # Nobody asked about this city before: from its name on, the prompt is new.
    assert cached is not None and 0 <= cached <= usage.prompt_tokens - 3
