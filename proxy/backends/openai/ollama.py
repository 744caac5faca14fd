"""Chats by Ollama's own API, which takes the size of the context.

By its /v1, Ollama gives a request its default context, 4096 tokens on most machines, and drops what
does not fit without a word. Here a chat gets as much as it needs. Another size loads the model
again, so it grows in steps, and never shrinks below what is loaded. Ollama has no route that counts
tokens: a prompt is estimated, and tried again with the next step if Ollama refuses it (`truncate`,
which versions of 2025 ignore). Another `shift` loads the model again, too, so it is always false.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ...core.decoding import decoded_object
from ...core.events import Batch
from ...core.request import CompletionRequest
from ...errors import ContextExceeded, GatewayError, Unsupported
from ...wire import lenient, openai_stream, sse
from ..http import Exchange
from .run import OpenAIRun
from .server_types import OLLAMA

PATH = "/api/chat"
LEAST = 4096  # tokens of the first step; each is twice the one before
UNKNOWN = 1 << 17  # tokens, where Ollama does not tell the model's context
TOKEN_BYTES = 3  # of a prompt: rather too few, since another step loads the model again
SURELY = 8  # bytes: a prompt with more for each token of the context is not sent
IMAGE = 1024  # tokens
ANSWER = 2048  # tokens for an answer without a limit
_TOO_LONG = re.compile(rb"(?:longer than|exceeds) the (?:available )?context (?:length|size)")
_EFFORTS: Mapping[str, bool | str] = {"none": False, "minimal": "low", "xhigh": "high"}


def payload(body: Mapping[str, Any], request: CompletionRequest) -> dict[str, Any]:
    """The body, from that for /v1. Raises Unsupported."""
    options = {name: body[name] for name in OLLAMA.sampling.values() if name in body}
    if "max_tokens" in body:
        options["num_predict"] = body["max_tokens"]
    names = {call.id: call.name for m in request.messages for call in m.tool_calls}
    out: dict[str, Any] = {
        "model": body["model"],
        "messages": [_message(message, names) for message in body["messages"]],
        "truncate": False,
        "shift": False,
        "options": options,
    }
    out |= {name: body[name] for name in ("logprobs", "top_logprobs") if name in body}
    if body.get("tool_choice", "none") != "none":
        out["tools"] = body["tools"]
    if form := body.get("response_format"):
        out["format"] = form["json_schema"]["schema"] if "json_schema" in form else "json"
    if effort := body.get("reasoning_effort"):
        out["think"] = _EFFORTS.get(effort, effort)
    elif request.template_kwargs.get("enable_thinking") is False:
        out["think"] = False
    return out


def _message(message: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    content = message["content"]
    out: dict[str, Any] = {"role": message["role"], "content": content}
    if not isinstance(content, str):
        urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        if not all(url.startswith("data:") for url in urls):
            raise Unsupported("Ollama takes images as data: URLs only", param="messages")
        out["images"] = [url.partition(",")[2] for url in urls]
        out["content"] = "\n".join(part["text"] for part in content if part["type"] == "text")
    if "reasoning_content" in message:
        out["thinking"] = message["reasoning_content"]
    for call in message.get("tool_calls", ()):
        function = call["function"]
        function = {**function, "arguments": decoded_object(function["arguments"]) or {}}
        out.setdefault("tool_calls", []).append({**call, "function": function})
    if call_id := message.get("tool_call_id"):
        out |= {"tool_call_id": call_id, "tool_name": names.get(call_id, "")}
    return out


def sizes(body: Mapping[str, Any], loaded: int, most: int) -> Iterator[int]:
    """The sizes of the context to try, in tokens, up to `most`; `loaded` is the present one. Raises
    ContextExceeded for a prompt that is too long for any."""
    images = [image for message in body["messages"] for image in message.get("images", ())]
    prompt = len(msgspec.json.encode((body["messages"], body.get("tools"))))
    prompt -= sum(map(len, images))  # in bytes
    if prompt // SURELY > most:
        raise ContextExceeded(prompt // SURELY, most, at_least=True)
    answer = body["options"].get("num_predict", ANSWER)
    needed = prompt // TOKEN_BYTES + IMAGE * len(images) + answer
    size = loaded or LEAST
    while size < most:
        if size >= needed:
            yield size
        size *= 2
    yield max(loaded, most)


# Lines of the stream: bytes in, chunks of OpenAI's form out. The format is that of `api/types.go`
# in ollama/ollama: JSON objects in lines. A call comes whole, its arguments as an object. The last
# line is `done` and has the counts; a failure has an `error`.


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


read_line = lenient.decoder(Line)


def chunk(line: Line, calls: int, prompt: int) -> openai_stream.ChatChunk:
    """`calls` is the number of those before this line. `prompt` is the size of the prompt if the
    line has none: old versions do not report a cached one."""
    called = []
    for index, call in enumerate(line.message.tool_calls or (), calls):
        arguments = msgspec.json.encode(call.function.arguments).decode()
        function = openai_stream.WireFunction(call.function.name, arguments)
        called.append(openai_stream.WireCall(index, "", function))
    delta = openai_stream.WireDelta(line.message.content, line.message.thinking, tool_calls=called)
    choice = openai_stream.WireChoice(delta, logprobs=openai_stream.WireLogprobs(line.logprobs))
    if not line.done:
        return openai_stream.ChatChunk(choices=[choice], error=line.error)
    choice.finish_reason = line.done_reason or "stop"
    cached = openai_stream.WirePromptDetails(line.prompt_eval_cached_count)
    usage = openai_stream.WireUsage(line.prompt_eval_count or prompt, line.eval_count, cached)
    return openai_stream.ChatChunk(choices=[choice], usage=usage, error=line.error)


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


class OllamaRun(OpenAIRun):
    """A chat with as much context as it needs: `send` asks for one of the `sizes`."""

    _frames = Lines

    def __init__(
        self, send: Callable[[int], Exchange], sizes: Iterator[int], *args: Any, **options: Any
    ) -> None:
        """Raises ContextExceeded."""
        self._send, self._sizes = send, sizes
        self._n_ctx = next(sizes)
        super().__init__(send(self._n_ctx), *args, **options)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            try:
                yield from super().__iter__()
                return
            except ContextExceeded:
                self._n_ctx = next(self._sizes, 0)
                if not self._n_ctx:
                    raise
            self._exchange = self._send(self._n_ctx)

    def _refused(self, status: int, data: bytes) -> GatewayError:
        if status == 400 and _TOO_LONG.search(data):
            return ContextExceeded(self._n_ctx + 1, self._n_ctx, at_least=True)
        return super()._refused(status, data)

    def _event(self, payload: bytes, batch: Batch) -> bool:
        line = read_line(payload)
        if self._part(chunk(line, len(self._named), self.prompt_tokens), batch):
            return True
        if line.done:
            batch.append(self._end(self._reason or "stop"))
        return line.done
