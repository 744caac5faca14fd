"""Chunks of OpenAI's streams that are text and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.wire.openai_stream import plain_text


def _event(delta: dict[str, Any], beside: dict[str, Any] | None = None, **choice: Any) -> bytes:
    event = {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, **choice}]}
    return json.dumps({**event, **(beside or {})}).encode()


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (_event({"content": "Hi"}, {"usage": None}, finish_reason=None, logprobs=None), "Hi"),
        (_event({"role": "assistant", "content": None, "tool_calls": None}), ""),
        (_event({}), ""),
        (b'{"choices": [{"index": 0, "text": "Hi"}]}', "Hi"),
    ],
)
def test_text_of_a_plain_chunk(event: bytes, text: str) -> None:
    assert plain_text(event) == text


CALL = [{"index": 0, "function": {"name": "add"}}]


@pytest.mark.parametrize(
    "event",
    [
        _event({"content": "Hi"}, finish_reason="stop"),
        _event({"content": "Hi"}, logprobs={"content": []}),
        _event({"content": "Hi", "reasoning_content": "so"}),
        _event({"content": "Hi", "reasoning": "so"}),
        _event({"content": "Hi", "tool_calls": CALL}),
        _event({"content": "Hi"}, {"usage": {"completion_tokens": 1}}),
        _event({"content": "Hi"}, {"timings": {"predicted_n": 1}}),
        _event({"content": "Hi"}, {"prompt_progress": {"total": 1}}),
        _event({"content": "Hi"}, {"__verbose": {"stop": True}}),
        _event({"content": "Hi"}, {"error": {"message": "no"}}),
        _event({"content": 1}),
        b'{"choices": []}',
        b'{"choices": [{"delta": {}}, {"delta": {}}]}',
        b'{"choices": [{"delta": {"content": "\xff"}}]}',
        b"[DONE]",
        b"[" * 100_000,
        b"",
    ],
)
def test_any_other_event_is_not_plain(event: bytes) -> None:
    assert plain_text(event) is None
