"""An agent of ten turns with small models that were trained, on servers of 2023 and 2026: each turn
calls a tool with valid arguments, its result comes back, and the conversation stays in its slot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.conftest import StartGateway, StartServer

TURNS = 10
CITIES = ("Oslo", "Bergen", "Lima", "Quito", "Rome", "Pisa", "Bonn", "Kiel", "Nice", "Lyon")
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": list(CITIES)}, "days": {"enum": [1, 2, 3]}},
            "required": ["city", "days"],
        },
    },
}
AGAIN = 24  # tokens of a turn that are evaluated twice, at most: the last ones may join others

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("model", ["smollm2_model", "tiny_model"])
@pytest.mark.parametrize("server", ["llama-2023", "llama-2026"])
def test_agent_calls_a_tool_in_each_of_ten_turns(
    server: str,
    model: str,
    start_server: StartServer,
    gateway: StartGateway,
    request: pytest.FixtureRequest,
) -> None:
    path: Path = request.getfixturevalue(model)
    llama = start_server(server, slots=1, ctx=8192, model=path)
    client = openai.OpenAI(base_url=f"{gateway('--llama-api', llama.url).url}/v1", api_key="-")
    messages: list[Any] = [{"role": "user", "content": "How is the weather in these cities?"}]
    before = 0
    for turn in range(TURNS):
        answer = client.chat.completions.create(
            model="any", messages=messages, tools=[TOOL], tool_choice="required",
            parallel_tool_calls=False, temperature=0,
        )  # fmt: skip
        message, usage = answer.choices[0].message, answer.usage
        assert answer.choices[0].finish_reason == "tool_calls"
        assert message.tool_calls is not None and len(message.tool_calls) == 1
        call = message.tool_calls[0]
        assert call.type == "function"
        arguments = json.loads(call.function.arguments)
        assert arguments["city"] in CITIES and arguments["days"] in (1, 2, 3)
        assert usage is not None and usage.prompt_tokens_details is not None
        cached = usage.prompt_tokens_details.cached_tokens or 0
        assert cached >= before - AGAIN, (turn, usage)
        before = usage.prompt_tokens
        result = f"{arguments['city']}: sunny, {10 + turn} degrees"
        messages += [message, {"role": "tool", "tool_call_id": call.id, "content": result}]
