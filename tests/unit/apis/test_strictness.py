"""Bodies that OpenAI and Anthropic refuse are refused here, with the name of the field. What real
clients send is accepted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from proxy.apis import anthropic
from proxy.apis.embeddings import request as embeddings
from proxy.apis.fields import MAX_MODEL
from proxy.apis.glm import chat as glm
from proxy.apis.ollama.dialects import chat as ollama_chat
from proxy.apis.ollama.dialects import keep_alive
from proxy.apis.openai import chat as openai_chat
from proxy.apis.openai import completions as openai_completions
from proxy.apis.responses import request as responses
from proxy.errors import InvalidParameter

USER = {"role": "user", "content": "U"}


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


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        (0, 0.0),
        ("0", 0.0),
        ("0s", 0.0),
        (300, 300.0),
        (1.5, 1.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("+10s", 10.0),
        (-1, math.inf),
        ("-1", math.inf),
        ("-1m", math.inf),
    ],
)
def test_keep_alive_is_read_as_ollama_does(value: object, seconds: float | None) -> None:
    assert keep_alive({"keep_alive": value}) == seconds
