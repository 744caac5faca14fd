"""OpenAI chat completions: POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..core.events import (
    Batch,
    Failed,
    Finished,
    Progress,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenDetail,
    ToolCallDelta,
)
from ..core.fold import Completion
from ..core.invalid import Invalid
from ..core.request import (
    CompletionRequest,
    Media,
    Message,
    OutputFormat,
    Role,
)
from ..wire import sse
from . import openai, openai_tools, parts
from .fields import Body, Table, entry, flag, integer, items, mapping, read, text
from .openai_tools import LEGACY
from .stamp import Stamp

error = openai.error

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",  # as ChatGLM says it
}
OLD_REASONS = {"tool_calls": "function_call"}
FORMATS = ("deepseek", "none", "raw")


def parse(body: Body) -> CompletionRequest:
    """Raises Invalid naming the field."""
    logprobs = _logprobs(body) if "logprobs" in body or "top_logprobs" in body else None
    values = openai.common(body)
    if body.get("response_format") is not None:
        if values.get("output", OutputFormat()) != OutputFormat():
            raise Invalid("response_format", "cannot be had together with json_schema")
        values["output"] = output_format(mapping(body, "response_format"))
    if "modalities" in body and "audio" in items(body, "modalities"):
        raise Invalid("modalities", "must be text: no backend here speaks")
    tools = openai_tools.chosen(body)
    if tools:
        values["warnings"] += tools.pop("warnings", ())
    if "continue_final_message" in body:
        _continued(body)
    if "reasoning_format" in body:
        values["reasoning_format"] = _reasoning_format(body)
    return CompletionRequest(
        messages=messages(items(body, "messages")),
        logprobs=logprobs,
        **read(body, LAST),
        **tools,
        **values,
    )


LAST: Table = {
    "reasoning_effort": ("reasoning_effort", text),
    "chat_template_kwargs": ("template_kwargs", mapping),
}


def _logprobs(body: Body) -> int | None:
    if flag(body, "logprobs"):
        return integer(body, "top_logprobs", 0, openai.MAX_LOGPROBS) or 0
    if body.get("top_logprobs"):
        raise Invalid("top_logprobs", "needs logprobs: true")
    return None


def _continued(body: Body) -> None:
    """vLLM's and llama-server's way to ask for what is done anyway: an answer that the last message
    begins goes on there. Raises Invalid where that cannot be."""
    if not flag(body, "continue_final_message"):
        return
    if flag(body, "add_generation_prompt"):
        raise Invalid("continue_final_message", "cannot be had together with add_generation_prompt")
    said = items(body, "messages")
    last = said[-1] if said and isinstance(said[-1], dict) else {}
    if last.get("role") != "assistant" or last.get("tool_calls"):
        raise Invalid("continue_final_message", "needs a last message of the assistant's text")


def _reasoning_format(body: Body) -> str:
    form = text(body, "reasoning_format")
    if form not in ("", "auto", *FORMATS):
        raise Invalid("reasoning_format", f"must be one of auto, {', '.join(FORMATS)}")
    return "" if form == "auto" else form


def messages(values: list[Any]) -> tuple[Message, ...]:
    if not values:
        raise Invalid("messages", "must hold one message at least")
    plain = tuple(map(_plain, values))
    if all(plain):
        return plain  # type: ignore[return-value]  # mypy does not see that none is None
    return tuple([one or _message(values[i], f"messages[{i}]") for i, one in enumerate(plain)])


def _plain(value: Any) -> Message | None:
    """A message of a role and a text and nothing else, as nearly all are; None for any other, which
    may be wrong too."""
    if type(value) is dict and len(value) == 2:
        role, said = value.get("role"), value.get("content")
        if type(said) is str and type(role) is str and role in ROLES:
            return Message(ROLES[role], said)
    return None


def _message(value: Any, at: str) -> Message:
    body = entry(value, at)
    at += "."
    role = ROLES.get(text(body, "role", at=at))
    if role is None:
        raise Invalid(at + "role", f"must be one of {', '.join(ROLES)}")
    content, media = parts.content(body.get("content"), at + "content", PARTS, KINDS)
    return Message(
        role,
        content,
        name=text(body, "name", at=at),
        tool_calls=openai_tools.calls(body, at),
        tool_call_id=text(body, "tool_call_id", at=at),
        reasoning=text(body, "reasoning_content", at=at),
        media=media,
    )


def _image(part: Body, at: str) -> Media:
    image = mapping(part, "image_url", at=at)
    return Media("image", url=text(image, "url"), detail=text(image, "detail", at=at))


def _audio(part: Body, at: str) -> Media:
    audio = mapping(part, "input_audio", at=at)
    return Media("audio", data=text(audio, "data"), format=text(audio, "format"))


KINDS = "text, image_url or input_audio"
PARTS: dict[str, parts.Reader] = {
    "text": parts.words("text"),
    "refusal": parts.words("refusal"),
    "image_url": _image,
    "input_audio": _audio,
}


def output_format(body: Body) -> OutputFormat:
    kind = text(body, "type", "text", at="response_format.")
    if kind == "json_object":
        return OutputFormat("json_object", mapping(body, "schema", "response_format.") or None)
    if kind == "json_schema":
        at = "response_format.json_schema."
        form = mapping(body, "json_schema", at="response_format.")
        schema = form.get("schema")
        if not isinstance(schema, dict):
            raise Invalid(at + "schema", "must be an object")
        return OutputFormat(
            "json_schema", schema, text(form, "name", at=at), flag(form, "strict", at=at)
        )
    if kind != "text":
        raise Invalid("response_format.type", "must be text, json_object or json_schema")
    return OutputFormat()


def reply(
    stamp: Stamp, request: CompletionRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    """The whole answer."""
    return openai.whole(stamp, "chat.completion", request, completions, _choice)


def _choice(request: CompletionRequest, one: Completion) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if one.tool_calls and not one.text else one.text,
        "refusal": None,
    }
    if one.reasoning:
        message["reasoning_content"] = one.reasoning
    reason: str = one.finished.reason
    if one.tool_calls:
        calls = list(map(openai_tools.written, one.tool_calls))
        if request.extra.get(LEGACY):
            message["function_call"] = calls[0]["function"]
            reason = OLD_REASONS.get(reason, reason)
        else:
            message["tool_calls"] = calls
    logprobs = None
    if request.logprobs is not None:
        logprobs = {"content": [openai.token(t) for t in one.logprobs], "refusal": None}
    return {
        "index": one.index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": reason,
    }


_json = msgspec.json.Encoder().encode


class Encoder(openai.Chunks):
    """Events to chunks. A text delta, by far the commonest event, is a prebuilt frame with only
    its text escaped."""

    def __init__(self, stamp: Stamp, request: CompletionRequest) -> None:
        super().__init__(stamp, request, "chat.completion.chunk")
        self._legacy = bool(request.extra.get(LEGACY))
        self._text_tail = b'},"logprobs":null,"finish_reason":null}' + self._tail
        self._text_heads: dict[int, bytes] = {}

    def encode(self, choice: int, batch: Batch) -> bytes:
        """The bytes of one batch; a tick of silence is a comment."""
        if not batch:
            return sse.HEARTBEAT
        out: list[bytes] = []
        for event in batch:
            if type(event) is TextDelta and not event.logprobs:
                if event.text:
                    head = self._text_heads.get(choice) or self._text_head(choice)
                    out += head, _json(event.text), self._text_tail
            else:
                self._rare(choice, event, out)
        return b"".join(out)

    def _text_head(self, choice: int) -> bytes:
        head = self._head + b'{"index":%d,"delta":{"content":' % choice
        self._text_heads[choice] = head
        return head

    def _rare(self, choice: int, event: Any, out: list[bytes]) -> None:
        logprobs = None
        delta: dict[str, Any]
        match event:
            case TextDelta():
                delta = {"content": event.text}
                logprobs = {"content": [openai.token(t) for t in event.logprobs], "refusal": None}
            case Started():
                delta = {"role": "assistant", "content": None}
            case ReasoningDelta():
                delta = {"reasoning_content": event.text}
            case ToolCallDelta():
                delta = openai_tools.delta(event, self._legacy)
            case Finished():
                reason: str = event.reason
                if self._legacy:
                    reason = OLD_REASONS.get(reason, reason)
                last = {"index": choice, "delta": {}, "logprobs": None, "finish_reason": reason}
                out.append(self._last(last, event))
                return
            case Failed():
                raise AssertionError("a failure is told by fail()")
            case Progress() | TokenDetail():
                silent = {"index": choice, "delta": {}, "logprobs": None, "finish_reason": None}
                self._reported(silent, event, out)
                return
            case _:
                return
        piece = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        out.append(self._chunk(piece))
