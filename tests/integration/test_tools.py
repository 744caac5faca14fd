"""Tools, from real servers of both generations and through the native relay, by the official client
and by libraries built on it. A model of random weights calls nothing of its own will: every call
here is one that the gateway bound."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field

from tests.clients import openai
from tests.integration.asking import openai_client
from tools.processes import Gateway, ModelServer

WAYS = {
    "llama-2023": ("_old_server", ()),
    "llama-2023-hermes": ("_old_server", ("--chat-template", "hermes")),
    "powerinfer": ("_powerinfer_server", ()),
    "llama-2026": ("_new_server", ("--chat-mode", "completion")),
    "native": ("_new_server", ("--chat-mode", "native")),
}
CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "get_weather", "parameters": CITY, "strict": True}},
    {"type": "function", "function": {"name": "now", "description": "The time."}},
]
ASK: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]


@pytest.fixture(scope="module", params=WAYS)
def address(request: pytest.FixtureRequest, module_gateway: Callable[..., Gateway]) -> str:
    name, flags = WAYS[request.param]
    server: ModelServer = request.getfixturevalue(name)
    return module_gateway("--llama-api", server.url, *flags).url


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai_client(address, _strict_response_validation=True) as client:
        yield client


def valid(name: str, arguments: str) -> None:
    values = json.loads(arguments)
    if name == "now":
        assert values == {}
    else:
        assert name == "get_weather"
        assert set(values) == {"city", "days"}
        assert 1 <= values["days"] <= 7


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "now"}}])
def test_required_call_is_made(client: openai.OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(
        model="any",
        messages=ASK,
        tools=TOOLS,
        tool_choice=choice,
        # A model that never ends by itself would make calls without end, where nothing closes them.
        parallel_tool_calls=False,
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    calls = answer.choices[0].message.tool_calls
    assert calls
    for call in calls:
        assert call.type == "function"
        assert call.id.startswith("call_")
        valid(call.function.name, call.function.arguments)
        if choice != "required":
            assert call.function.name == "now"


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("tools, most", [(TOOLS, 3), (TOOLS[:1], 8), (TOOLS[1:], 2)])
def test_calls_are_bounded_and_none_comes_three_times_in_a_row(
    client: openai.OpenAI, tools: Any, most: int, temperature: float
) -> None:
    """A model at temperature 0 may write one call again and again, and so does one whose only tool
    has no arguments. Dice are thrown twice, but nobody means the third."""
    answer = client.chat.completions.create(
        model="any",
        messages=ASK,
        tools=tools,
        tool_choice="required",
        temperature=temperature,
        max_tokens=1500,
        extra_body={"max_tool_calls": 3} if most == 3 else {},
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = answer.choices[0].message.tool_calls
    assert calls
    made = []
    for call in calls:
        assert call.type == "function"
        valid(call.function.name, call.function.arguments)
        made.append((call.function.name, call.function.arguments))
    assert len(made) <= most
    assert all(len({*made[at : at + 3]}) > 1 for at in range(len(made) - 2))


def test_streamed_argument_pieces_join_to_json(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model="any",
        messages=ASK,
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        stream=True,
        stream_options={"include_usage": True},
    )
    calls: dict[int, list[str]] = {}
    names: dict[int, str] = {}
    usage = None
    for chunk in chunks:
        usage = chunk.usage or usage
        for piece in (chunk.choices[0].delta.tool_calls or ()) if chunk.choices else ():
            assert piece.function is not None
            if piece.index not in names:
                assert piece.id and piece.function.name
                names[piece.index] = piece.function.name
            else:
                assert piece.id is None and piece.function.name is None
            calls.setdefault(piece.index, []).append(piece.function.arguments or "")
    assert usage is not None and usage.completion_tokens > 0
    for index, pieces in calls.items():
        valid(names[index], "".join(pieces))


def test_several_choices_have_their_own_calls(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="any",
        messages=ASK,
        tools=TOOLS[:1],
        tool_choice="required",
        parallel_tool_calls=False,
        n=3,
    )
    ids = set()
    for choice in answer.choices:
        for call in choice.message.tool_calls or ():
            assert call.type == "function"
            valid(call.function.name, call.function.arguments)
            ids.add(call.id)
    assert len(answer.choices) == 3
    assert len(ids) >= 3


def test_legacy_client_gets_function_call(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="any",
        messages=ASK,
        functions=[{"name": "get_weather", "parameters": CITY}],
        function_call={"name": "get_weather"},
        max_tokens=300,
    )
    assert answer.choices[0].finish_reason == "function_call"
    call = answer.choices[0].message.function_call
    assert call is not None
    valid(call.name, call.arguments)


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=120)


def test_instructor(address: str) -> None:
    instructor = pytest.importorskip("instructor")
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(openai_client(address), mode=mode)
        person = client.chat.completions.create(
            model="any", messages=ASK, response_model=Person, max_tokens=300, max_retries=0
        )
        assert isinstance(person, Person)
