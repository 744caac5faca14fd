"""Clients of each dialect: small readers of streams and whole answers.

The official clients read the same bytes in the integration tests; these readers are stricter about
the order of things and need no server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from msgspec import Struct


class Heard(Struct):
    """The answer as received, by choice; `calls` are (name, arguments). `reason` is the dialect's
    own word or ""; `error` the message; `counts` (prompt, completion)."""

    text: dict[int, str] = {}
    thoughts: str = ""
    calls: list[tuple[str, str]] = []
    reason: str = ""
    error: str = ""
    counts: tuple[int, int] = (0, 0)

    def say(self, text: str, choice: int = 0) -> None:
        self.text[choice] = self.text.get(choice, "") + text


def sse(data: bytes) -> list[tuple[str, Any]]:
    """(event, JSON) of each frame, without comments. Frames end only at blank lines."""
    assert data == b"" or data.endswith(b"\n\n")
    out = []
    for frame in data.split(b"\n\n")[:-1]:
        name = ""
        for line in frame.split(b"\n"):
            if line.startswith(b"event: "):
                name = line[7:].decode()
            elif line.startswith(b"data: "):
                body = line[6:]
                out.append((name, "DONE" if body == b"[DONE]" else json.loads(body)))
            else:
                assert line.startswith(b":"), line
    return out


def lines(data: bytes) -> list[Any]:
    """Documents of NDJSON, split as Python's clients split them."""
    return [json.loads(line) for line in data.decode().splitlines()]


def _frames(data: bytes, heard: Heard, done: bool = True) -> list[Any]:
    """The objects of an OpenAI stream, without the error or the mark at its end."""
    frames = [body for _, body in sse(data)]
    if frames and "error" in frames[-1]:
        heard.error = frames.pop()["error"]["message"]
    elif done:
        assert frames.pop() == "DONE"
    return frames


# OpenAI chat


def chat_stream(data: bytes) -> Heard:
    heard = Heard()
    frames = _frames(data, heard)
    arguments: dict[int, list[str]] = {}
    for body in frames:
        for choice in body["choices"]:
            delta, i = choice["delta"], choice["index"]
            heard.say(delta.get("content") or "", i)
            heard.thoughts += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls", []):
                made = arguments.setdefault(call["index"], ["", ""])
                made[0] += call["function"].get("name", "")
                made[1] += call["function"].get("arguments", "")
            heard.reason = choice["finish_reason"] or heard.reason
        if body.get("usage"):
            heard.counts = _usage(body["usage"])
    heard.calls = [(name, args) for name, args in arguments.values()]
    return heard


def chat_whole(body: Any) -> Heard:
    heard = Heard(counts=_usage(body["usage"]))
    for choice in body["choices"]:
        message = choice["message"]
        heard.say(message["content"] or "", choice["index"])
        heard.thoughts += message.get("reasoning_content", "")
        for call in message.get("tool_calls", []):
            heard.calls.append((call["function"]["name"], call["function"]["arguments"]))
        heard.reason = choice["finish_reason"]
    return heard


def _usage(usage: Any) -> tuple[int, int]:
    return usage["prompt_tokens"], usage["completion_tokens"]


# OpenAI completions


def completions_stream(data: bytes) -> Heard:
    heard = Heard()
    frames = _frames(data, heard)
    for body in frames:
        for choice in body["choices"]:
            heard.say(choice["text"], choice["index"])
            heard.reason = choice["finish_reason"] or heard.reason
        if body.get("usage"):
            heard.counts = _usage(body["usage"])
    return heard


def completions_whole(body: Any) -> Heard:
    heard = Heard(counts=_usage(body["usage"]))
    for choice in body["choices"]:
        heard.say(choice["text"], choice["index"])
        heard.reason = choice["finish_reason"]
    return heard


# llama.cpp's own


def native_stream(data: bytes) -> Heard:
    heard = Heard()
    for body in _frames(data, heard, done=False):
        _native(heard, body)
    return heard


def native_whole(body: Any) -> Heard:
    heard = Heard()
    for answer in body if isinstance(body, list) else [body]:
        assert answer["stop"] is True
        _native(heard, answer)
    return heard


def _native(heard: Heard, body: Any) -> None:
    heard.say(body["content"], body["index"])
    if body["stop"]:
        assert not heard.reason or len(heard.text) > 1, "it ended twice"
        heard.reason = body["stop_type"]
        heard.counts = body["tokens_evaluated"], body["tokens_predicted"]


# Anthropic


def anthropic_stream(data: bytes) -> Heard:
    """Checks the order of events that Anthropic's reference requires."""
    heard = Heard()
    frames = [(name, body) for name, body in sse(data) if name != "ping"]
    assert all(name == body["type"] for name, body in frames)
    assert frames.pop(0)[0] == "message_start"
    at, made = -1, ["", "", ""]
    is_open = over = False
    for name, body in frames:
        assert not over and not heard.error, f"{name} after the end"
        if name == "content_block_start":
            assert not is_open and body["index"] == at + 1
            at, is_open = body["index"], True
            block = body["content_block"]
            made = [block["type"], block.get("name", ""), ""]
        elif name == "content_block_delta":
            assert is_open and body["index"] == at
            delta = body["delta"]
            kind = delta["type"]
            if kind == "text_delta":
                assert made[0] == "text"
                heard.say(delta["text"])
            elif kind == "thinking_delta":
                assert made[0] == "thinking"
                heard.thoughts += delta["thinking"]
            elif kind == "input_json_delta":
                assert made[0] == "tool_use"
                made[2] += delta["partial_json"]
            else:
                assert kind == "signature_delta" and made[0] == "thinking"
        elif name == "content_block_stop":
            assert is_open and body["index"] == at
            is_open = False
            if made[0] == "tool_use":
                heard.calls.append((made[1], made[2]))
        elif name == "message_delta":
            assert not is_open and not heard.reason
            heard.reason = body["delta"]["stop_reason"]
            heard.counts = _anthropic_counts(body["usage"])
        elif name == "message_stop":
            assert heard.reason
            over = True
        else:
            assert name == "error" and not is_open
            heard.error = body["error"]["message"]
    assert over or heard.error
    return heard


def anthropic_whole(body: Any) -> Heard:
    heard = Heard(reason=body["stop_reason"], counts=_anthropic_counts(body["usage"]))
    for block in body["content"]:
        if block["type"] == "text":
            heard.say(block["text"])
        elif block["type"] == "thinking":
            heard.thoughts += block["thinking"]
        else:
            heard.calls.append((block["name"], json.dumps(block["input"])))
    return heard


def _anthropic_counts(usage: Any) -> tuple[int, int]:
    prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
    return prompt, usage["output_tokens"]


# Ollama


def ollama_chat_stream(data: bytes) -> Heard:
    return _ollama(lines(data), lambda heard, body: _ollama_message(heard, body["message"]))


def ollama_chat_whole(body: Any) -> Heard:
    return _ollama([body], lambda heard, reply: _ollama_message(heard, reply["message"]))


def ollama_generate_stream(data: bytes) -> Heard:
    return _ollama(lines(data), _ollama_response)


def ollama_generate_whole(body: Any) -> Heard:
    return _ollama([body], _ollama_response)


def _ollama_response(heard: Heard, body: Any) -> None:
    heard.say(body["response"])
    heard.thoughts += body.get("thinking", "")


def _ollama_message(heard: Heard, message: Any) -> None:
    heard.say(message["content"])
    heard.thoughts += message.get("thinking", "")
    for call in message.get("tool_calls", []):
        function = call["function"]
        heard.calls.append((function["name"], json.dumps(function["arguments"])))


def _ollama(bodies: list[Any], read: Callable[[Heard, Any], None]) -> Heard:
    heard = Heard()
    for body in bodies:
        assert not heard.reason and not heard.error, "after the end"
        if "error" in body:
            heard.error = body["error"]
            continue
        read(heard, body)
        if body["done"]:
            heard.reason = body["done_reason"]
            heard.counts = body["prompt_eval_count"], body["eval_count"]
            assert body["total_duration"] > 0 and body["eval_duration"] > 0
    assert heard.reason or heard.error
    return heard


# GLM


def glm_stream(data: bytes) -> Heard:
    heard = Heard()
    for _, body in sse(data):
        assert not heard.error
        if "detail" in body:
            heard.error = body["detail"]
            continue
        heard.say(body["content"])
        heard.counts = _usage(body)
        heard.reason = "" if body["content"] else "end"
    return heard


def glm_whole(body: Any) -> Heard:
    heard = Heard(counts=_usage(body), reason="end")
    heard.say(body["content"])
    return heard


# Responses


def responses_stream(data: bytes) -> Heard:
    """Checks the numbers, and that the last event's Response has the items of the events."""
    frames = sse(data)
    assert [body["sequence_number"] for _, body in frames] == list(range(len(frames)))
    assert all(name == body["type"] for name, body in frames)
    items: dict[str, list[Any]] = {"added": [], "done": []}
    for name, body in frames:
        if name.startswith("response.output_item."):
            items[name.rpartition(".")[2]].append(body["item"])
    last = frames[-1][1]["response"]
    assert last["output"] == items["done"]
    assert [item["id"] for item in items["added"]] == [item["id"] for item in items["done"]]
    return responses_whole(last)


def responses_whole(body: Any) -> Heard:
    heard = Heard(reason=body["status"])
    if body["status"] == "failed":
        heard.reason, heard.error = "", body["error"]["message"]
    else:
        heard.counts = body["usage"]["input_tokens"], body["usage"]["output_tokens"]
    for item in body["output"]:
        if item["type"] == "message":
            for part in item["content"]:
                heard.say(part["text"])
        elif item["type"] == "reasoning":
            heard.thoughts += "".join(part["text"] for part in item["content"])
        elif item["type"] == "custom_tool_call":
            heard.calls.append((item["name"], item["input"]))
        else:
            heard.calls.append((item["name"], item["arguments"]))
    return heard
