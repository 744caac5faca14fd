"""Ollama's POST /api/chat and /api/generate.

A tool result without an id belongs to the first unanswered call of its tool's name, or else to the
first unanswered one. The `context` of /api/generate is ignored: backends cache prompts without it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from ...core import events
from ...core.fold import Completion
from ...core.request import CompletionRequest, Media, Message, OutputFormat, ToolCall
from ...core.sampling import FIELDS as SAMPLERS
from ...core.sampling import check
from ...errors import GatewayError, InvalidParameter
from .. import fields
from .. import schema_fields as doc
from ..contents import role_of
from ..fields import Body
from ..openai.answer import LIKELIEST, LOGPROBS, MAX_LOGPROBS, MAX_TOKENS, StreamEncoder, token
from ..openai.tools import EXAMPLE, as_object, tools
from ..response_meta import ResponseMeta, RouteDialect, compaction_field
from ..schema_fields import Fields

# str.splitlines and similar functions, with which clients split such streams, take these for line
# ends; JSON itself escapes control characters below U+0020.
_ENDS = {"\x85": b"\\u0085", "\u2028": b"\\u2028", "\u2029": b"\\u2029"}


def encode_line(value: Any) -> bytes:
    data = msgspec.json.encode(value)
    if not data.isascii():
        for char, escape in _ENDS.items():
            data = data.replace(char.encode(), escape)
    return data + b"\n"


RENAMED = {"num_keep": "n_keep", "penalize_newline": "penalize_nl"}
HERE = {"num_predict", "stop"}  # options with a field of their own in CompletionRequest
# How the base64 of each image format begins.
IMAGES = {"iVBOR": "png", "/9j/": "jpeg", "R0lGOD": "gif", "UklGR": "webp", "Qk": "bmp"}
MAX_WAITING = 1024  # unanswered calls; every result is matched against all of them
ROLES = ("system", "user", "assistant", "tool")
COMMON: Fields = {
    "model": doc.MODEL,
    "stream": {**doc.STREAM, "default": True},
    "capture": doc.CAPTURE,
    "options": doc.mapping("Sampler settings, `num_predict` and `stop`.", {"num_predict": 16}),
    "format": doc.one_of("json, or a JSON schema.", "json", doc.TEXT, doc.OBJECT),
    "think": doc.one_of("Passed to the chat template.", False, {"type": "boolean"}, doc.TEXT),
    "logprobs": LOGPROBS,
    "top_logprobs": LIKELIEST,
}
CHAT: Fields = {
    "messages": doc.array("The conversation.", doc.USER_MESSAGE),
    "tools": doc.array("Functions the model may call.", [EXAMPLE]),
    **COMMON,
}
GENERATE: Fields = {
    "prompt": doc.text("The prompt; rendered with the chat template unless raw."),
    "suffix": doc.text("The text after the completion.", ""),
    "system": doc.text("The system prompt."),
    "raw": doc.flag("Send the prompt without a chat template."),
    "images": doc.strings("Images in base64."),
    "template": doc.text("Must be empty: templates are configured in the gateway.", ""),
    "context": doc.array("Ignored with a warning: use /api/chat.", [], doc.COUNT),
    **COMMON,
}


def error(fault: GatewayError) -> dict[str, Any]:
    """Ollama's error object; `error` is a string."""
    return {"error": fault.message, **fault.more}


def _shared_fields(body: Body, names: Set[str]) -> dict[str, Any]:
    """The fields of CompletionRequest that both bodies share; `names` are those of the route."""
    options = fields.mapping(body, "options")
    values, warnings = _sampling(options)
    limit = fields.integer(options, "num_predict", -2, MAX_TOKENS, at="options.")
    think = body.get("think")
    if think is not None and type(think) not in (bool, str):
        raise InvalidParameter("think", "must be true, false, low, medium or high")
    logprobs = None
    if fields.flag(body, "logprobs"):
        logprobs = fields.integer(body, "top_logprobs", 0, MAX_LOGPROBS) or 0
    return {
        "model": untagged(fields.model_name(body)),
        "sampling": values,
        # Ollama's own runner knows no limit of 0 either.
        "max_tokens": limit if limit is not None and limit > 0 else None,
        "stop": fields.stops(options),
        "stream": fields.flag(body, "stream", True),
        "logprobs": logprobs,
        "output": _output(body.get("format")),
        "reasoning_effort": think if type(think) is str else "",
        "template_kwargs": {} if think is None else {"enable_thinking": think is not False},
        "warnings": fields.ignored_fields(body, names) + warnings,
    }


def _sampling(options: Body) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Sampler options under llama.cpp's names; others are ignored with a warning."""
    values, warnings = {}, []
    for name, value in options.items():
        own = RENAMED.get(name, name)
        if value is None or name in HERE:
            continue
        if own in SAMPLERS:
            values[own] = check(own, value)
        else:
            warnings.append(f"the option {fields.header_safe(name)} is ignored")
    return values, tuple(warnings)


def _output(value: Any) -> OutputFormat:
    if value is None or value == "":
        return OutputFormat()
    if value == "json":
        return OutputFormat("json_object")
    if isinstance(value, dict):
        return OutputFormat("json_schema", value, "format")
    raise InvalidParameter("format", 'must be "json" or a JSON schema')


def _images(values: Sequence[Any], at: str) -> tuple[Media, ...]:
    out = []
    for i, value in enumerate(values):
        if type(value) is not str:
            raise InvalidParameter(f"{at}[{i}]", "must be base64")
        kind = next((k for mark, k in IMAGES.items() if value.startswith(mark)), "png")
        out.append(Media(kind="image", url=f"data:image/{kind};base64,{value}"))
    return tuple(out)


def _parse_chat(body: Body) -> CompletionRequest:
    values = fields.items(body, "messages")
    if not values:
        raise InvalidParameter("messages", "must contain at least one message")
    functions, warnings = tools(fields.items(body, "tools"))
    shared = _shared_fields(body, CHAT.keys())
    shared["warnings"] += warnings
    return CompletionRequest(messages=_messages(values), tools=functions, **shared)


def _messages(values: list[Any]) -> tuple[Message, ...]:
    messages = []
    waiting: list[ToolCall] = []
    for i, (body, at) in enumerate(fields.entries(values, "messages")):
        role, content = role_of(body, ROLES, at), body.get("content")
        if len(body) == 2 and role != "tool" and type(content) is str:
            messages.append(Message(role=role, content=content))
            continue  # as most
        name, call_id = (fields.text(body, key, at=at) for key in ("tool_name", "tool_call_id"))
        calls = tuple(
            _call(call, f"call_{i}_{j}", path)
            for j, (call, path) in enumerate(fields.objects(body, "tool_calls", at))
        )
        waiting += calls
        if len(waiting) > MAX_WAITING:
            raise InvalidParameter(
                at + "tool_calls", f"leaves more than {MAX_WAITING} tool calls without a result"
            )
        if role == "tool" and waiting:
            answered = next(
                (c for c in waiting if c.id == call_id or (not call_id and c.name == name)),
                waiting[0],
            )
            waiting.remove(answered)
            call_id, name = answered.id, name or answered.name
        messages.append(
            Message(
                role=role,
                content=fields.text(body, "content", at=at),
                name=name,
                tool_calls=calls,
                tool_call_id=call_id,
                reasoning=fields.text(body, "thinking", at=at),
                media=_images(fields.items(body, "images", at), at + "images"),
            )
        )
    return tuple(messages)


def _call(body: Body, call_id: str, at: str) -> ToolCall:
    function, inside = fields.mapping(body, "function", at), at + "function."
    arguments = msgspec.json.encode(fields.mapping(function, "arguments", inside)).decode()
    name = fields.text(function, "name", at=inside)
    return ToolCall(fields.text(body, "id", call_id, at=at), name, arguments)


def _parse_generate(body: Body) -> CompletionRequest:
    values = _shared_fields(body, GENERATE.keys())
    prompt = fields.text(body, "prompt")
    suffix = fields.text(body, "suffix")
    if fields.text(body, "template"):
        raise InvalidParameter(
            "template", "is not supported: the chat template is part of the gateway's configuration"
        )
    if body.get("context"):
        values["warnings"] += ("context is ignored: send the conversation to /api/chat",)
    media = _images(fields.items(body, "images"), "images")
    if fields.flag(body, "raw") or suffix:
        if media:
            raise InvalidParameter("images", "require the chat template: remove raw and suffix")
        return CompletionRequest(prompts=(prompt,), suffix=suffix, **values)
    messages: tuple[Message, ...] = (Message(role="user", content=prompt, media=media),)
    if system := fields.text(body, "system"):
        messages = (Message(role="system", content=system), *messages)
    return CompletionRequest(messages=messages, **values)


def timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def head(meta: ResponseMeta) -> dict[str, Any]:
    """The fields every object of an answer begins with."""
    return {"model": meta.model, "created_at": timestamp(meta.created + meta.elapsed())}


def _tail(
    meta: ResponseMeta, finished: events.Finished, compacted: events.Compacted | None
) -> dict[str, Any]:
    """The fields of the last object; durations in nanoseconds. eval_duration is the total duration
    if the backend reported no timings, as when one of our stop strings ended the generation."""
    counts, times = finished.usage, finished.timings
    total = meta.elapsed()
    return {
        "done": True,
        "done_reason": "length" if finished.reason == "length" else "stop",
        "total_duration": _ns(total),
        "load_duration": 0,
        "prompt_eval_count": counts.prompt,
        "prompt_eval_duration": _ns(times.prompt_ms / 1000),
        "eval_count": counts.completion,
        "eval_duration": _ns(times.predicted_ms / 1000 or total),
        **compaction_field(compacted),
    }


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


_DURATION = re.compile(r"[+-]?\d{1,9}(\.\d{1,9})?|[+-]?(\d{1,9}(\.\d{1,9})?(ms|s|m|h)){1,4}")
_UNITS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def keep_alive(body: Body) -> float | None:
    """The idle seconds before the model may be unloaded: inf for never, None if absent. A number,
    or a duration of Go (https://pkg.go.dev/time#ParseDuration). Raises InvalidParameter."""
    value = body.get("keep_alive")
    if value is None or value == "":
        return None
    written = value if isinstance(value, bool | str) else str(value)
    if not (type(written) is str and _DURATION.fullmatch(written)):
        raise InvalidParameter("keep_alive", "must be seconds or a duration like 5m")
    parts = re.findall(r"([\d.]+)([a-z]*)", written)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return math.inf if written.startswith("-") else seconds


def loaded(body: Mapping[str, Any], meta: ResponseMeta) -> dict[str, Any]:
    """The answer to a request without a prompt, which only loads or unloads the model."""
    unload = body.get("keep_alive") in (0, "0", "0s", "0m")
    return {**head(meta), "done": True, "done_reason": "unload" if unload else "load"}


def untagged(name: str) -> str:
    """The name in a request without the tag that lists add."""
    return name.removesuffix(":latest")


def _complete(calls: Sequence[ToolCall], finished: events.Finished) -> list[ToolCall]:
    """The calls to send: arguments are objects here, so one that was cut off is dropped."""
    cut = finished.reason == "length"
    return [call for call in calls if not cut or as_object(call.arguments)]


def _chat(piece: str, thought: str, calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": piece}
    if thought:
        message["thinking"] = thought
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "function": {"index": i, "name": call.name, "arguments": as_object(call.arguments)},
            }
            for i, call in enumerate(calls)
        ]
    return {"message": message}


def _generated(piece: str, thought: str, calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
    return {"response": piece, "thinking": thought} if thought else {"response": piece}


Say = Callable[..., dict[str, Any]]
"""The fields for a piece of text or of thinking, or for calls, which depend on the route."""


def _reply(
    say: Say, meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    (completion,) = completions
    calls = _complete(completion.tool_calls, completion.finished)
    message = say(completion.text, completion.reasoning, calls)
    answer = {**head(meta), **message, **_tail(meta, completion.finished, completion.compacted)}
    if request.logprobs is not None:
        answer["logprobs"] = list(map(token, completion.logprobs))
    return answer


class Encoder(StreamEncoder):
    """Encodes events as lines of JSON. Like Ollama, it sends a tool call once it is complete."""

    content_type = "application/x-ndjson"

    def __init__(self, say: Say, meta: ResponseMeta, request: CompletionRequest) -> None:
        super().__init__(meta, request)
        self._say = say
        self._compacted: events.Compacted | None = None
        self._calls: dict[int, ToolCall] = {}

    def encode(self, choice: int, batch: events.Batch) -> bytes:
        lines: list[bytes] = []
        for event in batch:
            match event:
                case events.TextDelta():
                    if event.text or event.logprobs:
                        lines.append(self._line(self._say(event.text, ""), event.logprobs))
                case events.ReasoningDelta():
                    lines.append(self._line(self._say("", event.text)))
                case events.ToolCallDelta():
                    call = self._calls.get(event.index) or ToolCall(event.id, event.name, "")
                    arguments = call.arguments + event.arguments
                    self._calls[event.index] = msgspec.structs.replace(call, arguments=arguments)
                case events.Compacted():
                    self._compacted = event.after(self._compacted)
                case events.Finished():
                    if calls := _complete([self._calls[i] for i in sorted(self._calls)], event):
                        lines.append(self._line(self._say("", "", calls)))
                    last = _tail(self._meta, event, self._compacted)
                    lines.append(encode_line({**head(self._meta), **self._say("", ""), **last}))
        return b"".join(lines)

    def fail(self, fault: GatewayError) -> bytes:
        return encode_line(error(fault))

    def _line(self, content: dict[str, Any], tokens: Sequence[events.TokenLogprob] = ()) -> bytes:
        out = {**head(self._meta), **content, "done": False}
        if tokens:
            out["logprobs"] = list(map(token, tokens))
        return encode_line(out)


chat = RouteDialect(_parse_chat, partial(_reply, _chat), error, partial(Encoder, _chat))
generate = RouteDialect(
    _parse_generate, partial(_reply, _generated), error, partial(Encoder, _generated)
)
