"""Chunks of a /v1/chat/completions or /v1/completions stream: bytes in, values out.

The format is OpenAI's; /v1/completions has `text` instead of a delta. Most servers add
`reasoning_content`; Ollama, vLLM and OpenRouter name it `reasoning`. llama-server adds `timings`,
`prompt_progress` and, with `verbose`, the `__verbose` form of the chunk. It sends the usage in a
chunk without choices after the one with the finish reason.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from . import lenient
from .servercpp import WireError, WireProgress, WireTimings

DONE = b"[DONE]"


class WireFunction(Struct):
    name: str | None = None
    arguments: str | None = None


class WireCall(Struct):
    index: int = 0
    id: str | None = None
    function: WireFunction = msgspec.field(default_factory=WireFunction)


class WireDelta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[WireCall] | None = None


class WireLogprobs(Struct):
    content: list[Any] | None = None


class WireChoice(Struct):
    delta: WireDelta = msgspec.field(default_factory=WireDelta)
    text: str | None = None
    finish_reason: str | None = None
    logprobs: WireLogprobs | None = None


class WirePromptDetails(Struct):
    cached_tokens: int = 0


class WireUsage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: WirePromptDetails | None = None


class WireVerbose(Struct):
    """The same chunk in the form of /completion."""

    stop: bool = False
    generation_settings: dict[str, Any] | None = None
    prompt: Any = None


class ChatChunk(Struct, kw_only=True):
    choices: list[WireChoice] = []
    usage: WireUsage | None = None
    timings: WireTimings | None = None
    prompt_progress: WireProgress | None = None
    verbose: WireVerbose | None = msgspec.field(default=None, name="__verbose")
    error: WireError | str | None = None


class _PlainDelta(Struct, gc=False):
    content: str | None = None
    reasoning_content: None = None
    reasoning: None = None
    tool_calls: None = None


class _PlainChoice(Struct, gc=False):
    delta: _PlainDelta = msgspec.field(default_factory=_PlainDelta)
    text: str | None = None
    finish_reason: None = None
    logprobs: None = None


class _PlainChunk(Struct, gc=False, kw_only=True):
    """A chunk of text and nothing else, as nearly all are: any other does not decode."""

    choices: tuple[_PlainChoice]
    usage: None = None
    timings: None = None
    prompt_progress: None = None
    verbose: None = msgspec.field(default=None, name="__verbose")
    error: None = None


chunk = lenient.decoder(ChatChunk)  # of one event's data
_decode_plain = msgspec.json.Decoder(_PlainChunk).decode


def plain_text(data: bytes) -> str | None:
    """The text of a chunk that has nothing else, None for any other event. It costs half as much
    as `chunk`."""
    try:
        (choice,) = _decode_plain(data).choices
    except (ValueError, RecursionError):
        return None
    return choice.delta.content or choice.text or ""
