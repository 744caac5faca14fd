"""Conversations that do not fit, with the official clients and real servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.clients import anthropic
from tests.integration.asking import openai_client
from tools.processes import Gateway, ModelServer

from .generations import GENERATIONS

CONTEXT = 1024  # tokens of a slot
EDITS: Any = {
    "edits": [{"type": "compact_20260112", "trigger": {"type": "input_tokens", "value": 600}}]
}


@pytest.fixture(scope="module", params=GENERATIONS)
def gateway(
    request: pytest.FixtureRequest,
    start_server: Callable[..., ModelServer],
    module_gateway: Callable[..., Gateway],
) -> Gateway:
    server = start_server(request.param, slots=2, ctx=2 * CONTEXT)
    return module_gateway("--llama-api", server.url, "--slots", "2", "--on-overflow", "compact")


def conversation(name: str, count: int = 18) -> list[dict[str, str]]:
    """A conversation of more than one context, which no other test has."""
    said = [
        {"role": ("user", "assistant")[i % 2], "content": f"{name} {i}: " + "some words " * 12}
        for i in range(count)
    ]
    return [*said, {"role": "user", "content": "And now?"}]


def field(answer: Any) -> dict[str, Any]:
    compaction: dict[str, Any] = answer.model_extra["compaction"]
    return compaction


def test_chat_completions_continue_a_conversation_that_is_too_long(gateway: Gateway) -> None:
    client = openai_client(gateway, _strict_response_validation=True)
    messages: Any = conversation("openai")
    raw = client.chat.completions.with_raw_response.create(
        model="any", messages=messages, max_tokens=8
    )
    compaction = field(raw.parse())
    assert int(raw.headers["x-slotproxy-compacted"]) == compaction["messages"] > 2
    assert compaction["summary"] and compaction["usage"]["output_tokens"] > 0
    assert raw.parse().usage.prompt_tokens < CONTEXT

    messages += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And then?"}]
    stream = client.chat.completions.create(
        model="any", messages=messages, max_tokens=8, stream=True
    )
    (again,) = (field(chunk) for chunk in stream if "compaction" in (chunk.model_extra or {}))
    assert (again["summary"], again["messages"]) == (compaction["summary"], compaction["messages"])
    assert again["usage"]["output_tokens"] == 0, "the summary was known"


def test_messages_have_the_summary_as_a_block(gateway: Gateway) -> None:
    client = anthropic.Anthropic(
        base_url=gateway.url, api_key="x", max_retries=0, _strict_response_validation=True
    )
    messages: Any = conversation("anthropic", 16)
    ask: dict[str, Any] = {
        "model": "any",
        "max_tokens": 8,
        "betas": ["compact-2026-01-12"],
        "context_management": EDITS,
    }
    with client.beta.messages.stream(messages=messages, **ask) as stream:
        final = stream.get_final_message()
    block, *rest = final.content
    assert block.type == "compaction" and block.content and rest
    assert [step.type for step in final.usage.iterations or ()] == ["compaction", "message"]

    messages += [
        {"role": "assistant", "content": final.content},
        {"role": "user", "content": "And then?"},
    ]
    whole = client.beta.messages.create(messages=messages, **ask)
    assert not any(item.type == "compaction" for item in whole.content), "it fits again"
    read = whole.usage.cache_read_input_tokens or 0
    assert whole.usage.input_tokens + read < 600
