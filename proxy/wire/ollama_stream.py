"""Lines of Ollama's /api/chat stream: bytes in, chunks of OpenAI's form out.

The format is that of `api/types.go` in ollama/ollama: JSON objects in lines. A call comes whole,
its arguments as an object. The last line is `done` and has the counts; a failure has an `error`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from . import lenient, sse
from . import openai_stream as openai


class _Function(Struct):
    name: str = ""
    arguments: dict[str, Any] = {}


class _Call(Struct):
    function: _Function


class _Message(Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None


class Line(Struct, kw_only=True):
    message: _Message = msgspec.field(default_factory=_Message)
    logprobs: list[Any] | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int = 0
    prompt_eval_cached_count: int = 0
    eval_count: int = 0
    error: str | None = None


line = lenient.decoder(Line)


def chunk(line: Line, calls: int, prompt: int) -> openai.ChatChunk:
    """`calls` is the number of those before this line. `prompt` is the size of the prompt if the
    line has none: old versions do not report a cached one."""
    called = []
    for index, call in enumerate(line.message.tool_calls or (), calls):
        arguments = msgspec.json.encode(call.function.arguments).decode()
        function = openai.WireFunction(call.function.name, arguments)
        called.append(openai.WireCall(index, "", function))
    delta = openai.WireDelta(line.message.content, line.message.thinking, tool_calls=called)
    choice = openai.WireChoice(delta, logprobs=openai.WireLogprobs(line.logprobs))
    if not line.done:
        return openai.ChatChunk(choices=[choice], error=line.error)
    choice.finish_reason = line.done_reason or "stop"
    cached = openai.WirePromptDetails(line.prompt_eval_cached_count)
    usage = openai.WireUsage(line.prompt_eval_count or prompt, line.eval_count, cached)
    return openai.ChatChunk(choices=[choice], usage=usage, error=line.error)


class Lines(sse.Decoder):
    """Frames lines as a decoder of events does."""

    def plain(self, data: bytes) -> None:
        return None

    def feed(self, data: bytes) -> list[sse.Event]:
        """Raises SSEError."""
        self._more.append(data)  # joined later: a long line comes in many reads
        self._size += len(data)
        if self._size > sse.MAX_EVENT:
            raise sse.SSEError("a line is too large")
        if b"\n" not in data:
            return []
        *lines, rest = b"".join(self._more).split(b"\n")
        self._more, self._size = [rest], len(rest)
        return [("", text) for text in lines if text.strip()]

    def close(self) -> list[sse.Event]:
        return self.feed(b"\n")
