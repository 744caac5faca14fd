"""The native relay: a chat that llama-server makes a prompt of, and parses, by itself.

For what only it can do: templates of families unknown to us, images and sound. What is decided here
stays decided here: the slot, the length, the grammar. Where a grammar of ours binds the answer, the
server is asked for plain text, since its own parsers would look for thoughts and calls in it. A
call that must be is made that way too: what this server calls `required` lets free text come first,
and a named tool is to it any tool.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.events import (
    Batch,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenDetail,
    ToolCallDelta,
)
from ..core.request import CompletionRequest, Media, Message
from ..core.task import Task
from ..core.usage import Timings
from ..prompting.bind import callable_tools, document_schema
from ..prompting.prompt import as_dicts, begun, tool_dict
from ..prompting.toolcalls import generic
from ..wire import openai_stream, servercpp
from ..wire.lenient import WireFault
from .driver import Capabilities
from .http import Exchange
from .refusals import stream_error
from .run import Run

PATH = "/v1/chat/completions"
# Tokens and events that may come beyond what was asked for: a draft model's tokens are counted
# together, and one token may be several events.
SURPLUS = 64
EVENTS = 4  # of a token, at most
REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
}


def payload(task: Task, slot: int) -> dict[str, Any]:
    """The body for /v1/chat/completions. `task.max_tokens` is finite by now; a `tool_form` means
    that calls are told in the messages and bound by the task's grammar."""
    request = task.request
    tools = [tool_dict(tool) for tool in request.tools] if callable_tools(request) else []
    messages = [_message(message) for message in request.messages]
    if task.tool_form:
        messages, tools = _told(request, tools), []
    kwargs = dict(request.template_kwargs)
    report = request.report
    bound = bool(task.sampling.get("grammar"))
    if bound:
        kwargs["enable_thinking"] = False
    body: dict[str, Any] = {
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "timings_per_token": True,
        "cache_prompt": True,
        "id_slot": slot,
        "n_predict": task.max_tokens,
        "reasoning_format": "none" if bound or request.reasoning_format == "raw" else "deepseek",
        **task.sampling,
    }
    if kwargs:
        body["chat_template_kwargs"] = kwargs
    if report.progress:
        body["return_progress"] = True
    if report.settings:
        body["verbose"] = True
    if begun(request):
        # Told of it, the server does not say the beginning again; it goes on there in any case.
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False
    if request.reasoning_effort and not bound:
        body["reasoning_effort"] = request.reasoning_effort
    if tools:
        body["tools"] = tools
        body["tool_choice"] = "auto"
        body["parallel_tool_calls"] = request.parallel_tool_calls
        schema = document_schema(request)
        if schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    elif task.logprobs is not None:
        # The server refuses them in streams with tools.
        body["logprobs"] = True
        body["top_logprobs"] = task.logprobs
    return body


def _told(request: CompletionRequest, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    media = any(message.media for message in request.messages)
    told = generic.rewrite(as_dicts(request.messages), tools)
    if media:  # beside the text of the message they belong to, wherever that is now
        parts = {m.content: [_part(one) for one in m.media] for m in request.messages if m.media}
        for message in told:
            more = parts.get(message["content"])
            if more:
                message["content"] = [{"type": "text", "text": message["content"]}, *more]
    return told


def _message(message: Message) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.media:
        out["content"] = _parts(message)
    if message.name:
        out["name"] = message.name
    if message.tool_calls:
        out["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        out["tool_call_id"] = message.tool_call_id
    if message.reasoning:
        out["reasoning_content"] = message.reasoning
    return out


def _parts(message: Message) -> list[dict[str, Any]]:
    """The text, with what is no text in its places."""
    out: list[dict[str, Any]] = []
    begun, said = 0, message.content
    for one in message.media:
        if one.at > begun:
            out.append({"type": "text", "text": said[begun : one.at]})
            begun = one.at
        out.append(_part(one))
    if said[begun:]:
        out.append({"type": "text", "text": said[begun:]})
    return out


def _part(media: Media) -> dict[str, Any]:
    if media.kind == "image":
        return {"type": "image_url", "image_url": {"url": media.url}}
    return {"type": "input_audio", "input_audio": {"data": media.data, "format": media.format}}


class RelayRun(Run):
    """A chat completion under way. The server does not say which slot it took: it takes the one it
    was given."""

    def __init__(
        self,
        exchange: Exchange,
        task: Task,
        caps: Capabilities,
        timeout: float,
        tick: float,
        slot: int,
        secret: str = "",
    ) -> None:
        super().__init__(exchange, task, caps, timeout, tick, secret)
        self.slot = slot
        self._left = EVENTS * self._limit + SURPLUS  # events that may still come
        self._reason: FinishReason | None = None
        self._last_timings = Timings()
        self._named: set[int] = set()
        self._verbose: openai_stream.WireVerbose | None = None

    def _plain(self, payloads: list[bytes], batch: Batch) -> bool:
        return any(self._event(payload, batch) for payload in payloads)

    def _event(self, payload: bytes, batch: Batch) -> bool:
        if payload == openai_stream.DONE:
            if self._reason is None:
                raise WireFault("the stream says no reason for its end")
            batch.append(self._end(self._reason))
            return True
        part = openai_stream.chunk(payload)
        if part.error is not None:
            raise stream_error(part.error, secret=self._secret)
        if not self.begun:
            self.begun = True
            batch.append(Started(slot=self.slot))
        if part.timings is not None:
            times = part.timings
            self.cached = max(0, times.cache_n)
            self.prompt_tokens, self.pieces = self.cached + times.prompt_n, times.predicted_n
            self._last_timings = servercpp.times(times, self.cached)
        if part.prompt_progress is not None:
            batch.append(self._progress(part.prompt_progress, part.timings))
        if part.verbose is not None and part.verbose.stop:
            self._verbose = part.verbose
        before = len(batch)
        for choice in part.choices:
            self._choice(choice, batch)
        if len(batch) > before and self._report.timings and part.timings is not None:
            batch.append(TokenDetail(self._last_timings))
        usage = part.usage
        if usage is not None:
            self.prompt_tokens, self.pieces = usage.prompt_tokens, usage.completion_tokens
        if part.choices:
            self._left -= 1
            if self._reason is None and (self._left < 0 or self.pieces > self._limit + SURPLUS):
                return self._ended(batch)
        return False

    def _end(self, reason: FinishReason) -> Finished:
        told = self._verbose
        return Finished(
            reason,
            self.usage(),
            self._last_timings,
            self.slot,
            settings=told.generation_settings if told is not None else None,
            prompt=told.prompt if told is not None and isinstance(told.prompt, str) else None,
        )

    def _choice(self, choice: openai_stream.WireChoice, batch: Batch) -> None:
        delta = choice.delta
        if delta.reasoning_content:
            self._holds(len(delta.reasoning_content))
            batch.append(ReasoningDelta(delta.reasoning_content))
        told = choice.logprobs.content if choice.logprobs is not None else None
        if delta.content or told:
            self._holds(len(delta.content or ""))
            tokens = servercpp.logprobs(told or (), self._top or 0)
            batch.append(TextDelta(delta.content or "", tokens))
        for call in delta.tool_calls or ():
            name, arguments = call.function.name or "", call.function.arguments or ""
            self._holds(len(name) + len(arguments))
            if call.index not in self._named:
                self._named.add(call.index)
                batch.append(ToolCallDelta(call.index, call.id or "", name, arguments))
            elif arguments:
                batch.append(ToolCallDelta(call.index, arguments=arguments))
        if choice.finish_reason is not None:
            self._reason = REASONS.get(choice.finish_reason, "stop")
