"""Chunks of a /v1/chat/completions or /v1/completions stream: bytes in, values out.

The format is OpenAI's (see its API reference); /v1/completions has `text` instead of a delta. Most
servers add `reasoning_content`; Ollama, vLLM and OpenRouter name it `reasoning`. llama-server adds
`timings`, `prompt_progress` and, with `verbose`, the `__verbose` form of the chunk. It repeats the
empty first delta with each progress, and sends the usage in a chunk without choices after the one
with the finish reason.
"""

from __future__ import annotations

from operator import attrgetter
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
    """One event of the stream."""

    choices: list[WireChoice] = []
    usage: WireUsage | None = None
    timings: WireTimings | None = None
    prompt_progress: WireProgress | None = None
    verbose: WireVerbose | None = msgspec.field(default=None, name="__verbose")
    error: WireError | str | None = None


chunk = lenient.decoder(ChatChunk)  # of one event's data
_BESIDE = attrgetter("usage", "timings", "prompt_progress", "verbose", "error")
_NOTHING = (None,) * 5
_decode_chunks = msgspec.json.Decoder(list[ChatChunk]).decode


def chunks(data: list[bytes]) -> list[ChatChunk]:
    """Decode the data of several events in one call, which costs little more than one. Raises
    WireFault if any of them is odd; `chunk` may still decode each of them."""
    try:
        return _decode_chunks(b"[%b]" % b",".join(data))
    except (ValueError, RecursionError) as error:
        raise lenient.WireFault(str(error)) from None


def plain_text(part: ChatChunk) -> str | None:
    """The text of a chunk that has nothing else, None for any other chunk."""
    choices = part.choices
    if len(choices) != 1 or _BESIDE(part) != _NOTHING:
        return None
    choice = choices[0]
    if choice.finish_reason is not None or choice.logprobs is not None:
        return None
    delta = choice.delta
    if delta.tool_calls or delta.reasoning_content or delta.reasoning:
        return None
    return delta.content or choice.text or ""
