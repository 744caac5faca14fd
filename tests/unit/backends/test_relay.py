"""The native relay: request bodies for llama-server, and its chunks as events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.backends.driver import Capabilities
from proxy.backends.relay import payload
from proxy.core.events import (
    Event,
    Finished,
    Progress,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
)
from proxy.core.request import (
    CompletionRequest,
    Media,
    Message,
    OutputFormat,
    Tool,
    ToolCall,
    ToolChoice,
)
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import Unsupported, UpstreamFault
from proxy.prompting.formats.generic import GENERIC
from proxy.prompting.profile.verify import MAX_PROMPT
from proxy.runtime.cancel import Cancel

from .rawserver import head, llama

CAPS = Capabilities(dialect="llama-server", queues=True, modern_sampling=True, chat=True)
USER = Message(role="user", content="Hi")
WEATHER = Tool("get_weather", "the weather", {"type": "object"})


def task(request: CompletionRequest, **fields: Any) -> Task:
    return Task(prompt="", max_tokens=9, backend_templates=True, request=request, **fields)


def reply(body: bytes, status: str = "200 OK") -> bytes:
    return head(len(body), status) + body


@pytest.mark.parametrize(
    ("answer", "prompt"),
    [(reply(b'{"prompt": "<user>Hi"}'), "<user>Hi"), (reply(b"{}", "500 Internal"), None)],
)
def test_prompt_of_the_server_is_asked_with_the_body_of_its_chat_route(
    answer: bytes, prompt: str | None
) -> None:
    request = CompletionRequest(messages=(USER,), tools=(WEATHER,), reasoning_effort="low")
    with llama([answer]) as (driver, server):
        assert driver.server_prompt(task(request)) == prompt
        sent = server.requests[0]
    assert sent.startswith(b"POST /apply-template ")
    body = json.loads(sent.partition(b"\r\n\r\n")[2])
    assert body == json.loads(json.dumps(payload(task(request), 0)))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(b"File Not Found", "404 Not Found"), Unsupported),
        (reply(b"{}"), UpstreamFault),
        (reply(b'{"prompt": 1}'), UpstreamFault),
        (reply(b"<html>"), UpstreamFault),
        (reply(b'{"prompt": "' + b"x" * (MAX_PROMPT + 1) + b'"}'), UpstreamFault),
    ],
)
def test_prompt_of_the_server_is_read_with_care(answer: bytes, error: type[Exception]) -> None:
    with llama([answer]) as (driver, _), pytest.raises(error):
        driver.server_prompt(task(CompletionRequest(messages=(USER,))))


PNG = "data:image/png;base64,AAAA"


def test_messages_are_relayed_unchanged() -> None:
    call = ToolCall("call_1", "get_weather", '{"city": "Oslo"}')
    image = Media(kind="image", url=PNG, at=5)
    request = CompletionRequest(
        messages=(
            Message(role="system", content="Be brief."),
            Message(role="user", content="Look. And", media=(image, image)),
            Message(role="assistant", tool_calls=(call,), reasoning="Hm."),
            Message(role="tool", content="Rain.", tool_call_id="call_1"),
        ),
        tools=(WEATHER,),
        reasoning_effort="low",
        reasoning_tokens=300,
        template_kwargs={"colour": "red"},
    )
    body = payload(task(request, sampling={"temperature": 0.5}), 1)
    system, user, calling, result = body["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    shown = {"type": "image_url", "image_url": {"url": PNG}}
    before, after = ({"type": "text", "text": text} for text in ("Look.", " And"))
    assert user == {"role": "user", "content": [before, shown, shown, after]}
    (sent,) = calling.pop("tool_calls")
    assert calling == {"role": "assistant", "content": "", "reasoning_content": "Hm."}
    function = {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    assert sent == {"id": "call_1", "type": "function", "function": function}
    assert result == {"role": "tool", "content": "Rain.", "tool_call_id": "call_1"}
    assert body["tools"][0]["function"]["name"] == "get_weather"
    assert (body["id_slot"], body["n_predict"], body["temperature"]) == (1, 9, 0.5)
    assert (body["reasoning_effort"], body["reasoning_budget_tokens"]) == ("low", 300)
    assert body["chat_template_kwargs"] == {"colour": "red"}
    assert "stop" not in body


def test_texts_stay_apart_as_the_client_sent_them() -> None:
    texts = Message(role="user", content="one\ntwo\nthree", parts=(0, 4, 8))
    shown = Message(
        role="user", content="one\ntwo", parts=(0, 4), media=(Media(kind="image", url=PNG, at=3),)
    )
    parts, seen = (
        message["content"]
        for message in payload(task(CompletionRequest(messages=(texts, shown))), 1)["messages"]
    )
    assert [part["text"] for part in parts] == ["one", "two", "three"]
    assert [part.get("text", part["type"]) for part in seen] == ["one", "image_url", "two"]


def test_messages_and_effort_are_those_that_the_template_takes() -> None:
    request = CompletionRequest(messages=(USER, USER), reasoning_effort="high")
    body = payload(task(request, messages=(USER,), effort="xhigh"), 1)
    assert (body["messages"], body["reasoning_effort"]) == (
        [{"role": "user", "content": "Hi"}],
        "xhigh",
    )


def test_required_call_is_requested_in_messages_and_constrained() -> None:
    request = CompletionRequest(
        messages=(USER,), tools=(WEATHER,), tool_choice=ToolChoice("required")
    )
    body = payload(task(request, call_format=GENERIC, sampling={"grammar": 'root ::= "x"'}), 0)
    assert "tools" not in body
    assert "get_weather" in body["messages"][0]["content"]
    assert body["grammar"] == 'root ::= "x"'
    assert body["reasoning_format"] == "none"
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_tools_with_schema_are_left_to_the_server() -> None:
    request = CompletionRequest(
        messages=(USER,), tools=(WEATHER,), output=OutputFormat("json_schema", {"type": "object"})
    )
    body = payload(task(request, logprobs=2), 0)
    assert body["response_format"]["json_schema"] == {"schema": {"type": "object"}}
    assert body["tool_choice"] == "auto"
    assert "logprobs" not in body


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    body = {"id": "chatcmpl-theirs", "model": "/path/x.gguf", "choices": choices, **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def relay(*frames: bytes) -> list[Event]:
    body = b"".join(frames)
    with llama([head(len(body)) + body]) as (driver, _):
        request = CompletionRequest(messages=(USER,), tools=(WEATHER,))
        run = driver.stream(task(request), 1, CAPS, Cancel())
        try:
            return [event for batch in run for event in batch]
        finally:
            run.close()


COUNTS = {
    "prompt_tokens": 44,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 4},
}
TIMES = {"cache_n": 4, "prompt_n": 40, "prompt_ms": 5.0, "predicted_n": 7, "predicted_ms": 9.0}


def test_chunks_become_events() -> None:
    progress = {"total": 44, "cache": 4, "processed": 44, "time_ms": 4}
    call = {"index": 0, "id": "theirs", "type": "function"}
    events = relay(
        chunk({"role": "assistant", "content": None}, prompt_progress=progress),
        chunk({"role": "assistant", "content": None}),
        chunk({"reasoning_content": "Hm."}),
        chunk({"content": "Let me see."}),
        chunk({"tool_calls": [{**call, "function": {"name": "now", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
        chunk({}, "tool_calls"),
        chunk(usage=COUNTS, timings=TIMES),
        b"data: [DONE]\n\n",
    )
    assert events[:-1] == [
        Started(slot=1),
        Progress(44, 4, 44, 4.0),
        ReasoningDelta("Hm."),
        TextDelta("Let me see."),
        ToolCallDelta(0, "theirs", "now"),
        ToolCallDelta(0, arguments="{}"),
    ]
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.usage, last.slot) == ("tool_calls", Usage(44, 7, 4), 1)
    assert (last.timings.prompt_n, last.timings.predicted_n) == (40, 7)
