"""Streams and refusals of each server that speaks OpenAI's API, byte by byte as it sends them.

vLLM's were recorded from vLLM 0.32.0 on a CPU, without a parser of calls. The others are written
after their sources: SGLang 0.5.23's `entrypoints/openai/protocol.py`, Ollama's `openai/openai.go`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.backends.driver import Capabilities
from proxy.backends.openai.driver import OpenAIServer
from proxy.backends.refusals import openai_refusal
from proxy.core.events import Finished, TextDelta, ToolCallDelta
from proxy.core.request import AUTO, TOOLS, CompletionRequest, Message, Tool
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import FormatRefused
from proxy.runtime.cancel import Cancel

from .rawserver import LAST_CHUNK, RawServer, head
from .rawserver import chunk as http_chunk

CAPS = Capabilities(dialect="openai", queues=True, native=True, truncates=False)
TASK = Task(
    prompt="",
    max_tokens=64,
    backend_templates=True,
    request=CompletionRequest(
        messages=(Message(role="user", content="Hi"),), tools=(Tool("get_weather"),)
    ),
)


def events(*documents: Any) -> str:
    lines = [f"data: {json.dumps(one, separators=(',', ':'))}\n\n" for one in documents]
    return "".join([*lines, "data: [DONE]\n\n"])


def chunk(*choices: Any, id: str = "chatcmpl-1", **more: Any) -> dict[str, Any]:
    base = {"id": id, "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**base, "choices": list(choices), **more}


def choice(delta: Any, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": reason, **more}


USAGE = {"prompt_tokens": 33, "total_tokens": 35, "completion_tokens": 2}
_NONE = {"logprobs": None, "matched_stop": None}
_FULL = {"role": None, "content": None, "reasoning_content": None, "tool_calls": None}
STREAMS = {
    "vllm": events(
        chunk(
            choice({"role": "assistant", "content": ""}, logprobs=None),
            prompt_token_ids=None,
            prompt_text=None,
        ),
        chunk(choice({"content": "Hello"}, logprobs=None, token_ids=None)),
        chunk(choice({"content": " there"}, "stop", logprobs=None, stop_reason=None)),
        chunk(usage=USAGE, system_fingerprint="vllm-0.32.0-05b85a13"),
    ),
    "sglang": events(
        chunk(choice({**_FULL, "role": "assistant", "content": ""}, **_NONE), usage=None),
        chunk(choice({**_FULL, "content": "Hello"}, **_NONE), usage=None),
        chunk(choice({**_FULL, "content": " there"}, **_NONE), usage=None),
        chunk(choice(_FULL, "stop", logprobs=None, matched_stop=2), usage=None),
        chunk(usage={**USAGE, "prompt_tokens_details": None, "reasoning_tokens": 0}),
    ),
    "ollama": events(
        chunk(
            choice({"role": "assistant", "content": "Hello"}),
            id="chatcmpl-97",
            system_fingerprint="fp_ollama",
        ),
        chunk(choice({"role": "assistant", "content": " there"}), system_fingerprint="fp_ollama"),
        chunk(choice({"role": "assistant", "content": ""}, "stop")),
        chunk(usage=USAGE),
    ),
}


def played(text: str, size: int) -> list[Any]:
    data = text.encode()
    pieces = [http_chunk(data[at : at + size]) for at in range(0, len(data), size)]
    with RawServer([head(None) + b"".join(pieces) + LAST_CHUNK]) as server:
        driver = OpenAIServer(f"{server.url}/v1", model="m", timeout=30, tick=1)
        try:
            batches = list(driver.stream(TASK, -1, CAPS, Cancel()))
        finally:
            driver.close()
    return [event for batch in batches for event in batch]


@pytest.mark.parametrize("size", [1 << 20, 37])
@pytest.mark.parametrize("server", STREAMS)
def test_a_stream_becomes_text_an_end_and_its_usage(server: str, size: int) -> None:
    found = played(STREAMS[server], size)
    assert "".join(e.text for e in found if isinstance(e, TextDelta)) == "Hello there"
    last = found[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.usage) == ("stop", Usage(33, 2, 0))


FUNCTION = {"name": "get_weather", "arguments": '{"city":"Oslo"}'}
CALL = {"id": "call_x", "index": 0, "type": "function", "function": FUNCTION}
CALLS = {
    "vllm": [
        choice({"tool_calls": [CALL]}),
        choice({"content": ""}, "tool_calls", stop_reason=None),
    ],
    "ollama": [
        choice({"role": "assistant", "content": "", "tool_calls": [CALL]}),
        choice({"role": "assistant", "content": ""}, "tool_calls"),
    ],
}


@pytest.mark.parametrize("server", CALLS)
def test_a_call_is_read(server: str) -> None:
    found = played(events(*(chunk(one) for one in CALLS[server])), 1 << 20)
    calls = [event for event in found if isinstance(event, ToolCallDelta)]
    assert [call.name for call in calls if call.name] == ["get_weather"]
    assert json.loads("".join(call.arguments for call in calls)) == {"city": "Oslo"}
    assert found[-1].reason == "tool_calls"


REFUSALS = {
    '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser': AUTO,
    'tool_choice="required" requires --tool-call-parser to be set': TOOLS,
    'tool_choice=function "get_weather" requires --tool-call-parser to be set': TOOLS,
    "registry.ollama.ai/library/gemma:2b does not support tools": TOOLS,
}


@pytest.mark.parametrize(("message", "formats"), REFUSALS.items())
def test_a_refusal_of_tools_says_what_to_describe(message: str, formats: frozenset[str]) -> None:
    told = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
    body = json.dumps({"error": told}).encode()
    error = openai_refusal(400, body, "", TOOLS)
    assert isinstance(error, FormatRefused)
    assert error.formats == formats
    assert not isinstance(openai_refusal(400, body, ""), FormatRefused), "it did not ask for it"
