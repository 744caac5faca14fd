"""Bodies that OpenAI and Anthropic refuse are refused here, with the name of the field. What real
clients send is accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from proxy.apis import anthropic, responses
from proxy.apis.embeddings import request as embeddings
from proxy.apis.fields import MAX_MODEL
from proxy.apis.glm import chat as glm
from proxy.apis.ollama.dialects import chat as ollama_chat
from proxy.apis.openai import chat as openai_chat
from proxy.apis.openai import completions as openai_completions
from proxy.errors import InvalidParameter

USER = {"role": "user", "content": "U"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}


def assistant(call: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "system"}, "messages[0].content"),
        ({"role": "assistant"}, "messages[0].content"),
        ({"role": "tool", "tool_call_id": "c1"}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        (
            {"role": "user", "content": [{"type": "text", "text": None}]},
            "messages[0].content[0].text",
        ),
        ({"role": "tool", "content": "5"}, "messages[0].tool_call_id"),
        ({"role": "tool", "content": "5", "name": "f"}, "messages[0].tool_call_id"),
        (assistant({"id": "c1", "type": "function"}), "messages[0].tool_calls[0].function"),
        (
            assistant({"id": "c1", "function": {"arguments": "{}"}}),
            "messages[0].tool_calls[0].function.name",
        ),
    ],
)
def test_incomplete_chat_messages_are_refused(message: Any, param: str) -> None:
    with pytest.raises(InvalidParameter, match="is missing") as caught:
        openai_chat.parse({"messages": [message]})
    assert caught.value.param == param


@pytest.mark.parametrize(
    "message",
    [
        CALLS,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": []},
        {"role": "assistant", "content": None},  # an empty answer, collected from a stream
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "assistant", "refusal": "No."},
        {"role": "assistant", "reasoning_content": "Hm."},
        {"role": "user", "content": ""},
        {"role": "user", "content": []},
        {"role": "tool", "tool_call_id": "c1", "content": ""},
        {"role": "function", "name": "f", "content": "5"},  # the legacy format has no id
        {"role": "observation", "content": "5"},
    ],
)
def test_messages_of_real_clients_are_accepted(message: Any) -> None:
    assert len(openai_chat.parse({"messages": [USER, message]}).messages) == 2


def test_custom_call_is_a_call_with_its_input() -> None:
    call = {"id": "c1", "type": "custom", "custom": {"name": "patch", "input": "+a"}}
    (_, message) = openai_chat.parse({"messages": [USER, assistant(call)]}).messages
    assert message.tool_calls[0].name == "patch"
    assert message.tool_calls[0].arguments == '{"input":"+a"}'


PARSERS: list[tuple[Callable[[Any], Any], dict[str, Any]]] = [
    (openai_chat.parse, {"messages": [USER]}),
    (openai_completions.parse, {"prompt": "p"}),
    (responses.parse, {"input": "p"}),
    (anthropic.parse, {"messages": [USER], "max_tokens": 1}),
    (ollama_chat.parse, {"messages": [USER]}),
    (glm.parse, {"prompt": "p"}),
    (embeddings.parse, {"input": "p"}),
]


@pytest.mark.parametrize(("parse", "body"), PARSERS)
def test_endless_model_name_is_refused(parse: Callable[[Any], Any], body: dict[str, Any]) -> None:
    parse({**body, "model": "m" * MAX_MODEL})
    with pytest.raises(InvalidParameter, match=str(MAX_MODEL)) as caught:
        parse({**body, "model": "m" * (MAX_MODEL + 1)})
    assert caught.value.param == "model"
    assert len(str(caught.value)) < 200


def item(value: Any) -> Any:
    return responses.parse({"input": [value]})


def block(value: Any) -> Any:
    role = "assistant" if value["type"] == "tool_use" else "user"
    said = [USER, {"role": role, "content": [value]}]
    return anthropic.parse({"messages": said, "max_tokens": 1})


@pytest.mark.parametrize(
    ("parse", "value", "field"),
    [
        (item, {"role": "user"}, "content"),
        (item, {"role": "user", "content": [{"type": "input_text"}]}, "text"),
        (item, {"role": "assistant", "content": [{"type": "output_text"}]}, "text"),
        (item, {"type": "function_call", "call_id": "c1", "arguments": "{}"}, "name"),
        (item, {"type": "function_call", "name": "f", "arguments": "{}"}, "call_id"),
        (item, {"type": "custom_tool_call", "call_id": "c1", "input": "+a"}, "name"),
        (block, {"type": "text"}, "text"),
        (block, {"type": "tool_use", "id": "t1", "input": {}}, "name"),
        (block, {"type": "tool_use", "name": "f", "input": {}}, "id"),
        (block, {"type": "tool_result", "content": "5"}, "tool_use_id"),
        (block, {"type": "tool_result", "tool_use_id": "", "content": "5"}, "tool_use_id"),
    ],
)
def test_incomplete_items_and_blocks_are_refused(
    parse: Callable[[Any], Any], value: Any, field: str
) -> None:
    with pytest.raises(InvalidParameter, match="is missing") as caught:
        parse(value)
    assert caught.value.param.endswith(f".{field}")
