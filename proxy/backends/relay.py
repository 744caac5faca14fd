"""The native relay: chats whose prompt llama-server renders, and whose answer it parses, itself.

It is for unknown template families, images and sound. slotproxy still decides the slot, the length
and the grammar. If one of our grammars constrains the answer, the server is asked for plain text,
since its own parsers would look for reasoning and calls in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from ..prompting.constraints import callable_tools, document_schema, most_calls
from ..prompting.formats import generic
from ..prompting.profile.adapt import MessageRules, as_dicts, as_texts
from ..prompting.prompt import assistant_prefill, tool_dict
from ..wire import openai_stream, servercpp
from ..wire.lenient import WireFault
from .refusals import stream_error
from .run import LlamaRun

PATH = "/v1/chat/completions"
# Tokens and events allowed beyond the requested number: a draft model's tokens are counted
# together, and one token may be several events.
SURPLUS = 64
EVENTS = 4  # of a token, at most
_IN_API = MessageRules(arguments="text")
REASONS: Mapping[str, FinishReason] = {"length": "length", "tool_calls": "tool_calls"}


def payload(task: Task, slot: int) -> dict[str, Any]:
    """The body for /v1/chat/completions. `task.max_tokens` must be finite. With a `call_format`,
    the messages describe how to call tools, and the task's grammar enforces it."""
    request = task.request
    tools = [tool_dict(tool) for tool in request.tools] if callable_tools(request) else []
    messages = message_dicts(task.messages or request.messages, parts=True)
    if task.call_format is not None:
        messages, tools = rewritten(request, generic.instructions(tools)), []
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
    if assistant_prefill(request):
        # Otherwise the server continues as well, but repeats the beginning in its answer.
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False
    effort = task.effort or request.reasoning_effort
    if effort and not bound:
        body["reasoning_effort"] = effort
    if request.reasoning_tokens is not None:
        body["reasoning_budget_tokens"] = request.reasoning_tokens
    if tools:
        body["tools"] = tools
        body["tool_choice"] = "auto"
        body["parallel_tool_calls"] = most_calls(request) > 1
        schema = document_schema(request)
        if schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    elif task.logprobs is not None:
        # The server refuses them in streams with tools.
        body["logprobs"] = True
        body["top_logprobs"] = task.logprobs
    return body


def rewritten(request: CompletionRequest, guide: str) -> list[dict[str, Any]]:
    """The messages for a server without tools, with `guide` in that of the system."""
    return message_dicts(as_texts(request.messages, guide))


def message_dicts(messages: Sequence[Message], *, parts: bool = False) -> list[dict[str, Any]]:
    """Messages in OpenAI's form. With `parts`, for servers that take them, texts stay apart."""
    written = as_dicts(messages, _IN_API)
    for message, out in zip(messages, written, strict=True):
        if message.media or (parts and message.parts):
            out["content"] = [_part(piece) for piece in message.pieces]
    return written


def _part(piece: str | Media) -> dict[str, Any]:
    if isinstance(piece, str):
        return {"type": "text", "text": piece}
    if piece.kind == "image":
        return {"type": "image_url", "image_url": {"url": piece.url}}
    return {"type": "input_audio", "input_audio": {"data": piece.data, "format": piece.format}}


class RelayRun(LlamaRun):
    """A chat completion under way, on the requested slot: the server does not report it."""

    def __init__(self, *args: Any, slot: int = -1, **options: Any) -> None:
        super().__init__(*args, **options)
        self.slot = slot
        self._left = EVENTS * self._limit + SURPLUS  # events that may still arrive
        self._reason: FinishReason | None = None
        self._last_timings = Timings()
        self._named: set[int] = set()
        self._verbose: openai_stream.WireVerbose | None = None
        self.reported = False  # the server reported how many tokens there are

    def _plain(self, payloads: list[bytes], batch: Batch) -> bool:
        return any(self._event(payload, batch) for payload in payloads)

    def _event(self, payload: bytes, batch: Batch) -> bool:
        if payload == openai_stream.DONE:
            if self._reason is None:
                raise WireFault("the stream ended without a finish reason")
            batch.append(self._end(self._reason))
            return True
        return self._part(openai_stream.chunk(payload), batch)

    def _part(self, part: openai_stream.ChatChunk, batch: Batch) -> bool:
        """Turn a chunk into events. True if the run is cut."""
        if part.error is not None:
            raise stream_error(part.error, secret=self._secret)
        if not self.begun:
            self.begun = True
            batch.append(Started(slot=self.slot))
        if part.timings is not None:
            times, self.reported = part.timings, True
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
            self.reported = True
            if usage.prompt_tokens_details is not None:
                self.cached = max(0, usage.prompt_tokens_details.cached_tokens)
        if part.choices:
            self._left -= 1
            return self._is_too_long() and self._ended(batch)
        return False

    def _is_too_long(self) -> bool:
        if self._reason is not None:
            return False
        return self._left < 0 or self.pieces > self._limit + SURPLUS

    def _end(self, reason: FinishReason) -> Finished:
        verbose = self._verbose
        prompt = verbose.prompt if verbose is not None else None
        return Finished(
            reason=reason,
            usage=self.usage(),
            timings=self._last_timings,
            slot=self.slot,
            settings=verbose.generation_settings if verbose is not None else None,
            prompt=prompt if isinstance(prompt, str) else None,
        )

    def _choice(self, choice: openai_stream.WireChoice, batch: Batch) -> None:
        delta = choice.delta
        reasoning = delta.reasoning_content or delta.reasoning
        if reasoning:
            self._room -= len(reasoning)
            batch.append(ReasoningDelta(reasoning))
        logprobs = choice.logprobs.content if choice.logprobs is not None else None
        text = delta.content or choice.text or ""
        if text or logprobs:
            self._room -= len(text)
            tokens = servercpp.logprobs(logprobs or (), self._top or 0)
            batch.append(TextDelta(text, tokens))
        for call in delta.tool_calls or ():
            name, arguments = call.function.name or "", call.function.arguments or ""
            self._room -= len(name) + len(arguments)
            if call.index not in self._named:
                self._named.add(call.index)
                batch.append(ToolCallDelta(call.index, call.id or "", name, arguments))
            elif arguments:
                batch.append(ToolCallDelta(call.index, arguments=arguments))
        if choice.finish_reason is not None:
            self._reason = REASONS.get(choice.finish_reason, "stop")
