"""OpenAI chat completions: POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ...core.events import (
    Batch,
    Compacted,
    Finished,
    Progress,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenDetail,
    ToolCallDelta,
)
from ...core.fold import Completion
from ...core.request import CompletionRequest, Media, Message, OutputFormat, Role
from ...errors import InvalidParameter
from ...wire import sse
from .. import schema_fields as doc
from ..fields import (
    Body,
    PartReader,
    Thought,
    contents,
    entry,
    flag,
    integer,
    items,
    mapping,
    read,
    text,
    text_reader,
)
from ..response_meta import ResponseMeta
from ..schema_fields import Field, Fields, table
from ..synonyms import canonical
from . import answer as openai
from . import tools as openai_tools
from .tools import LEGACY

error = openai.error

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",  # ChatGLM's name for tool results
}
OLD_REASONS = {"tool_calls": "function_call"}
FORMATS = ("deepseek", "none", "raw")
# What an assistant message may have in place of a text. Clients that collect a stream send an empty
# answer back with null as its content.
INSTEAD = frozenset(
    "content tool_calls function_call refusal reasoning_content reasoning reasoning_details"
    " audio".split()
)


def parse(body: Body) -> CompletionRequest:
    """Raises InvalidParameter naming the field."""
    body = canonical(body, chat=True)
    logprobs = _logprobs(body) if "logprobs" in body or "top_logprobs" in body else None
    values = openai.shared_fields(body, KNOWN)
    if body.get("response_format") is not None:
        if values.get("output", OutputFormat()) != OutputFormat():
            raise InvalidParameter("response_format", "cannot be combined with json_schema")
        values["output"] = output_format(mapping(body, "response_format"))
    if "modalities" in body and "audio" in items(body, "modalities"):
        raise InvalidParameter("modalities", "must be text: audio output is not supported")
    tools = openai_tools.chosen(body)
    if tools:
        values["warnings"] += tools.pop("warnings", ())
    if "continue_final_message" in body:
        _continued(body)
    elif "add_generation_prompt" in body and not flag(body, "add_generation_prompt", True):
        values["warnings"] += ("add_generation_prompt is ignored",)
    if "reasoning_format" in body:
        values["reasoning_format"] = _reasoning_format(body)
    return CompletionRequest(
        messages=messages(items(body, "messages")),
        logprobs=logprobs,
        **read(body, _TABLE),
        **tools,
        **values,
    )


MESSAGE = doc.body(
    "role",
    role=doc.text("`developer` is `system`, `function` is `tool`.", "user"),
    content=doc.one_of(
        "A string, or a list of parts: text, image_url, input_audio; thinking in a message of the"
        " assistant.",
        "Hello!",
        doc.TEXT,
        {"type": "array"},
    ),
    name=doc.text("The name of the author or tool."),
    tool_calls=doc.array("Tool calls of an assistant message.", []),
    function_call=doc.mapping("A call in the legacy format.", {}),
    tool_call_id=doc.text("The id of the call that a tool message answers.", "call_1"),
    reasoning_content=doc.text("The reasoning of an assistant message."),
    reasoning=doc.text("The same, as vLLM names it."),
    reasoning_details=doc.array("The same in pieces, as OpenRouter sends it.", []),
    refusal=doc.text("The text of an assistant message that has no content."),
)
_OWN: Fields = {
    "reasoning_effort": Field(
        doc.text("Passed to the chat template.", "low"), "reasoning_effort", text
    ),
    "chat_template_kwargs": Field(openai.TEMPLATE, "template_kwargs", mapping),
}
FIELDS: Fields = {
    "messages": doc.array(
        "The conversation. If the last message is the assistant's, it is continued.",
        doc.USER_MESSAGE,
        MESSAGE,
    ),
    "logprobs": openai.LOGPROBS,
    "top_logprobs": openai.LIKELIEST,
    "response_format": doc.mapping(
        "`type`: text, json_object, or json_schema with `json_schema.schema`.",
        {"type": "json_object"},
    ),
    "modalities": doc.strings("Must not contain audio.", "text"),
    **openai_tools.FIELDS,
    "function_call": doc.one_of("tool_choice in the legacy format.", "auto", doc.TEXT, doc.OBJECT),
    "continue_final_message": doc.flag(
        "Always done; an error if the last message cannot be continued."
    ),
    "add_generation_prompt": doc.flag("Cannot be combined with continue_final_message."),
    "reasoning_format": doc.text("How reasoning is returned.", "auto", enum=["auto", *FORMATS]),
    **_OWN,
    **openai.COMMON,
}
_TABLE = table(_OWN)
KNOWN = FIELDS.keys()


def _logprobs(body: Body) -> int | None:
    if flag(body, "logprobs"):
        return integer(body, "top_logprobs", 0, openai.MAX_LOGPROBS) or 0
    if body.get("top_logprobs"):
        raise InvalidParameter("top_logprobs", "requires logprobs: true")
    return None


def _continued(body: Body) -> None:
    """Checks vLLM's and llama-server's `continue_final_message`, which needs no other handling: an
    assistant message at the end is always continued. Raises InvalidParameter if there is none."""
    if not flag(body, "continue_final_message"):
        return
    if flag(body, "add_generation_prompt"):
        raise InvalidParameter(
            "continue_final_message", "cannot be combined with add_generation_prompt"
        )
    messages = items(body, "messages")
    last = messages[-1] if messages and isinstance(messages[-1], dict) else {}
    if last.get("role") != "assistant" or last.get("tool_calls"):
        raise InvalidParameter(
            "continue_final_message", "requires the last message to be assistant text"
        )


def _reasoning_format(body: Body) -> str:
    form = text(body, "reasoning_format")
    if form not in ("", "auto", *FORMATS):
        raise InvalidParameter("reasoning_format", f"must be one of auto, {', '.join(FORMATS)}")
    return "" if form == "auto" else form


def messages(values: list[Any]) -> tuple[Message, ...]:
    if not values:
        raise InvalidParameter("messages", "must contain at least one message")
    simple = tuple(map(_plain, values))
    if all(simple):
        return simple  # type: ignore[return-value]  # all() rules out None, which mypy does not see
    return tuple(
        [message or _message(values[i], f"messages[{i}]") for i, message in enumerate(simple)]
    )


def _plain(value: Any) -> Message | None:
    """The fast path for a message with only a role and a text, as nearly all are; None for any
    other, valid or not."""
    if type(value) is dict and len(value) == 2:
        role, content = value.get("role"), value.get("content")
        if type(content) is str and type(role) is str and role in ROLES and role != "tool":
            return Message(role=ROLES[role], content=content)
    return None


def _message(value: Any, at: str) -> Message:
    body = entry(value, at)
    at += "."
    role = ROLES.get(text(body, "role", at=at))
    if role is None:
        raise InvalidParameter(at + "role", f"must be one of {', '.join(ROLES)}")
    given = body.get("content")
    if given is None and (role != "assistant" or body.keys().isdisjoint(INSTEAD)):
        raise InvalidParameter(
            at + "content", "is missing: a message needs a text or a list of parts"
        )
    call = text(body, "tool_call_id", at=at)
    if not call and body["role"] == "tool":
        raise InvalidParameter(
            at + "tool_call_id", "is missing: a tool message names the call that it answers"
        )
    content = contents(given, at + "content", PARTS, KINDS)
    return Message(
        role=role,
        content=content.text or text(body, "refusal", at=at),
        name=text(body, "name", at=at),
        tool_calls=openai_tools.calls(body, at),
        tool_call_id=call,
        reasoning=content.thought or _reasoning(body, at),
        media=content.media,
        parts=content.parts if content.text else (),
    )


def _reasoning(body: Body, at: str) -> str:
    """The reasoning of an assistant message: as llama-server and DeepSeek send it, as vLLM does, or
    the readable ones of OpenRouter's details."""
    whole = text(body, "reasoning_content", at=at) or text(body, "reasoning", at=at)
    if whole or "reasoning_details" not in body:
        return whole
    thoughts = []
    for i, value in enumerate(items(body, "reasoning_details", at=at)):
        path = f"{at}reasoning_details[{i}]"
        detail = entry(value, path)
        path += "."
        thoughts.append(text(detail, "text", at=path) or text(detail, "summary", at=path))
    return "".join(thoughts)


def _image(part: Body, at: str) -> Media:
    image = mapping(part, "image_url", at=at)
    return Media(kind="image", url=text(image, "url"), detail=text(image, "detail", at=at))


def _audio(part: Body, at: str) -> Media:
    audio = mapping(part, "input_audio", at=at)
    return Media(kind="audio", data=text(audio, "data"), format=text(audio, "format"))


def _thought(part: Body, at: str) -> Thought:
    """Mistral's part: a text, or a list of text parts."""
    thinking = part.get("thinking")
    return Thought(contents(thinking, at + "thinking", TEXTS, "text").text)


KINDS = "text, image_url or input_audio"
TEXTS: dict[str, PartReader] = {"text": text_reader("text")}
PARTS: dict[str, PartReader] = {
    **TEXTS,
    "thinking": _thought,
    "refusal": text_reader("refusal"),
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
            raise InvalidParameter(at + "schema", "must be an object")
        return OutputFormat(
            "json_schema", schema, text(form, "name", at=at), flag(form, "strict", at=at)
        )
    if kind != "text":
        raise InvalidParameter("response_format.type", "must be text, json_object or json_schema")
    return OutputFormat()


def reply(
    meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    """The whole answer."""
    return openai.whole(meta, "chat.completion", request, completions, _choice)


def _reasoning_fields(text: str) -> dict[str, str]:
    """Reasoning under both names in use: DeepSeek's and llama-server's, vLLM's and OpenRouter's."""
    return {"reasoning_content": text, "reasoning": text}


def _choice(request: CompletionRequest, completion: Completion) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if completion.tool_calls and not completion.text else completion.text,
        "refusal": None,
    }
    if completion.reasoning:
        message |= _reasoning_fields(completion.reasoning)
    reason: str = completion.finished.reason
    if completion.tool_calls:
        calls = list(map(openai_tools.written, completion.tool_calls))
        if request.extra.get(LEGACY):
            message["function_call"] = calls[0]["function"]
            reason = OLD_REASONS.get(reason, reason)
        else:
            message["tool_calls"] = calls
    logprobs = None
    if request.logprobs is not None:
        logprobs = {"content": [openai.token(t) for t in completion.logprobs], "refusal": None}
    return {
        "index": completion.index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": reason,
    }


_json = msgspec.json.Encoder().encode


class Encoder(openai.Chunks):
    """Encodes events as chunks. A text delta, by far the most common event, is a prebuilt frame in
    which only the text is encoded."""

    __slots__ = (
        "_legacy",
        "_text_choice",
        "_text_head",
        "_text_tail",
    )

    def __init__(self, meta: ResponseMeta, request: CompletionRequest) -> None:
        super().__init__(meta, request, "chat.completion.chunk")
        self._legacy = bool(request.extra.get(LEGACY))
        self._text_tail = b'},"logprobs":null,"finish_reason":null}' + self._tail
        self._text_choice = -1  # of `_text_head`
        self._text_head = b""

    def encode(self, choice: int, batch: Batch) -> bytes:
        """The bytes of one batch; an empty batch becomes an SSE comment."""
        if not batch:
            return sse.HEARTBEAT
        out: list[bytes] = []
        for event in batch:
            if type(event) is TextDelta and not event.logprobs:
                if event.text:
                    if choice != self._text_choice:
                        self._text_choice = choice
                        self._text_head = self._head + b'{"index":%d,"delta":{"content":' % choice
                    out += self._text_head, _json(event.text), self._text_tail
            else:
                self._rare(choice, event, out)
        return b"".join(out)

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
                delta = _reasoning_fields(event.text)
            case ToolCallDelta():
                delta = openai_tools.delta(event, self._legacy)
            case Finished():
                reason: str = event.reason
                if self._legacy:
                    reason = OLD_REASONS.get(reason, reason)
                last = {"index": choice, "delta": {}, "logprobs": None, "finish_reason": reason}
                out.append(self._last(last, event))
                return
            case Progress() | TokenDetail():
                silent = {"index": choice, "delta": {}, "logprobs": None, "finish_reason": None}
                self._reported(silent, event, out)
                return
            case Compacted():
                self._compacted = event.after(self._compacted)
                return
            case _:
                return
        piece = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        out.append(self._chunk(piece))
