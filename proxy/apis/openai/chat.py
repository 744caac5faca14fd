"""OpenAI chat completions: POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core import events
from ...core.events import TextDelta
from ...core.fold import Completion
from ...core.request import CompletionRequest, Media, Message, OutputFormat
from ...errors import InvalidParameter
from ...wire import sse
from .. import fields, synonyms
from .. import schema_fields as doc
from ..contents import ROLES, Content, PartReader, contents, role_of, text_reader
from ..fields import Body
from ..response_meta import ResponseMeta
from ..schema_fields import Field, Fields, table
from . import answer as openai
from . import tools as openai_tools
from .answer import to_json
from .tools import LEGACY

error = openai.error

_PLAIN_ROLES = {name: role for name, role in ROLES.items() if name != "tool"}  # needs an id
FORMATS = ("deepseek", "none", "raw")
# What an assistant message may have in place of a text. Clients that collect a stream send an empty
# answer back with null as its content.
INSTEAD = frozenset(
    "content tool_calls function_call refusal reasoning_content reasoning reasoning_details"
    " audio".split()
)


def parse(body: Body) -> CompletionRequest:
    if not synonyms.NAMES.isdisjoint(body):
        body = synonyms.canonical(body, chat=True)
    values = openai.shared_fields(body, KNOWN, _TABLE)
    if not _OTHERS.isdisjoint(body):
        _read_others(body, values)
    return CompletionRequest(messages=messages(fields.items(body, "messages")), **values)


def _read_others(body: Body, values: dict[str, Any]) -> None:
    """Add the values of a body with some of these _OTHERS."""
    values["logprobs"] = _logprobs(body)
    if body.get("response_format") is not None:
        if values.get("output", OutputFormat()) != OutputFormat():
            raise InvalidParameter("response_format", "cannot be combined with json_schema")
        form = fields.mapping(body, "response_format")
        values["output"] = openai.output_format(form, "response_format.", "json_schema")
    if "modalities" in body and "audio" in fields.items(body, "modalities"):
        raise InvalidParameter("modalities", "must be text: audio output is not supported")
    if not body.keys().isdisjoint(openai_tools.FIELDS):
        tools = openai_tools.chosen(body)
        values["warnings"] += tools.pop("warnings", ())
        values |= tools
    if "add_generation_prompt" in body or "continue_final_message" in body:
        _check_end(body)
        if body.get("add_generation_prompt") is False and not body.get("continue_final_message"):
            values["warnings"] += ("add_generation_prompt is ignored",)
    if "reasoning_format" in body:
        reasoning = fields.choice(body, "reasoning_format", ("auto", *FORMATS), "auto")
        values["reasoning_format"] = "" if reasoning == "auto" else reasoning


def _check_end(body: Body) -> None:
    """Check vLLM's and llama-server's `continue_final_message`, which needs nothing else: an
    assistant message at the end is always continued. Raises InvalidParameter if there is none."""
    starts_anew = fields.flag(body, "add_generation_prompt")
    if not fields.flag(body, "continue_final_message"):
        return
    if starts_anew:
        raise InvalidParameter(
            "continue_final_message", "cannot be combined with add_generation_prompt"
        )
    messages = fields.items(body, "messages")
    last = messages[-1] if messages and isinstance(messages[-1], dict) else {}
    if last.get("role") != "assistant" or last.get("tool_calls"):
        raise InvalidParameter(
            "continue_final_message", "requires the last message to be assistant text"
        )


_OWN: Fields = {
    "reasoning_effort": doc.text_field(
        "reasoning_effort", "Passed to the chat template; a share of max_tokens.", "low"
    ),
    "max_reasoning_tokens": Field(
        openai.tokens("Maximum tokens of the reasoning, of those of the answer."),
        "reasoning_tokens",
        openai.token_limit,
    ),
    "chat_template_kwargs": openai.TEMPLATE,
    **openai_tools.CALLS,
}
FIELDS: Fields = {
    "messages": doc.array(
        "The conversation. If the last message is the assistant's, it is continued.",
        doc.USER_MESSAGE,
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
    "continue_final_message": doc.flag("Always done if the last message is the assistant's."),
    "add_generation_prompt": doc.flag("false is ignored without continue_final_message.", True),
    "reasoning_format": doc.text("How reasoning is returned.", "auto", enum=["auto", *FORMATS]),
    **_OWN,
    **openai.COMMON,
}
_TABLE = table({**openai.PARSED, **_OWN})
KNOWN = FIELDS.keys()
_OTHERS = KNOWN - openai.COMMON.keys() - _OWN.keys() - {"messages"}


def _logprobs(body: Body) -> int | None:
    if fields.flag(body, "logprobs"):
        return fields.integer(body, "top_logprobs", 0, openai.MAX_LOGPROBS) or 0
    if body.get("top_logprobs"):
        raise InvalidParameter("top_logprobs", "requires logprobs: true")
    return None


def messages(values: list[Any]) -> tuple[Message, ...]:
    if not values:
        raise InvalidParameter("messages", "must contain at least one message")
    plain: tuple[Any, ...] = tuple(map(_plain, values))
    if all(plain):
        return plain
    return tuple(
        [message or _message(values[i], f"messages[{i}]") for i, message in enumerate(plain)]
    )


def _plain(value: Any) -> Message | None:
    """The fast path for a message with only a role and a text; None for any other."""
    try:
        if len(value) == 2 and type(content := value["content"]) is str:
            return Message(role=_PLAIN_ROLES[value["role"]], content=content)
    except (KeyError, TypeError):
        pass
    return None


def _message(value: Any, at: str) -> Message:
    body = fields.entry(value, at)
    at += "."
    role = role_of(body, ROLES, at)
    raw_content = body.get("content")
    if raw_content is None and (role != "assistant" or body.keys().isdisjoint(INSTEAD)):
        raise InvalidParameter(at + "content", "is missing: send a text or a list of parts")
    call = fields.text(body, "tool_call_id", at=at)
    if not call and body["role"] == "tool":
        raise InvalidParameter(at + "tool_call_id", "is missing: name the call that it answers")
    content = contents(raw_content, at + "content", PARTS, KINDS)
    if not content.text and (refusal := fields.text(body, "refusal", at=at)):
        content.say(refusal)
    return content.message(
        role,
        name=fields.text(body, "name", at=at),
        tool_calls=openai_tools.calls(body, at),
        tool_call_id=call,
        reasoning="\n".join(content.thoughts) or _reasoning(body, at),
    )


def _reasoning(body: Body, at: str) -> str:
    """The reasoning as llama-server sends it, as vLLM does, or in OpenRouter's details."""
    whole = fields.text(body, "reasoning_content", at=at) or fields.text(body, "reasoning", at=at)
    if whole or "reasoning_details" not in body:
        return whole
    return "".join(
        fields.text(detail, "text", at=path) or fields.text(detail, "summary", at=path)
        for detail, path in fields.objects(body, "reasoning_details", at)
    )


def _image(content: Content, part: Body, at: str) -> None:
    image = fields.mapping(part, "image_url", at)
    detail = fields.text(image, "detail", at=at)
    content.show(Media(kind="image", url=fields.text(image, "url"), detail=detail))


def _audio(content: Content, part: Body, at: str) -> None:
    audio = fields.mapping(part, "input_audio", at)
    data, form = fields.text(audio, "data"), fields.text(audio, "format")
    content.show(Media(kind="audio", data=data, format=form))


def _thought(content: Content, part: Body, at: str) -> None:
    """Mistral's part: a text, or a list of text parts."""
    thinking = part.get("thinking")
    content.thoughts.append(contents(thinking, at + "thinking", TEXTS, "text").text)


KINDS = "text, image_url or input_audio"
TEXTS: dict[str, PartReader] = {"text": text_reader("text")}
PARTS: dict[str, PartReader] = {
    **TEXTS,
    "thinking": _thought,
    "refusal": text_reader("refusal"),
    "image_url": _image,
    "input_audio": _audio,
}


def reply(
    meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    return openai.whole(meta, "chat.completion", request, completions, _choice)


def _reasoning_fields(text: str) -> dict[str, str]:
    """Reasoning under both names in use: DeepSeek's and llama-server's, vLLM's and OpenRouter's."""
    return {"reasoning_content": text, "reasoning": text}


def _logprobs_field(tokens: Sequence[events.TokenLogprob]) -> dict[str, Any]:
    return {"content": [openai.token(token) for token in tokens], "refusal": None}


def _finish_reason(finished: events.Finished, request: CompletionRequest) -> str:
    legacy = finished.reason == "tool_calls" and request.extra.get(LEGACY)
    return "function_call" if legacy else finished.reason


def _choice(request: CompletionRequest, completion: Completion) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if completion.tool_calls and not completion.text else completion.text,
        "refusal": None,
    }
    if completion.reasoning:
        message |= _reasoning_fields(completion.reasoning)
    if completion.tool_calls:
        legacy = request.extra.get(LEGACY)
        calls = list(map(openai_tools.written, completion.tool_calls))
        message |= {"function_call": calls[0]["function"]} if legacy else {"tool_calls": calls}
    has_logprobs = request.logprobs is not None
    return {
        "index": completion.index,
        "message": message,
        "logprobs": _logprobs_field(completion.logprobs) if has_logprobs else None,
        "finish_reason": _finish_reason(completion.finished, request),
    }


NO_REASON = b'},"logprobs":null,"finish_reason":null}'


class Encoder(openai.Chunks):
    """Encodes events as chunks; a text delta is a prebuilt frame around the text."""

    kind, said, silence = "chat.completion.chunk", "delta", {}
    reason = staticmethod(_finish_reason)
    shows_load = True  # as reasoning, if the model's table wants it
    _text_choice, _text_head = -1, b""  # the choice of the frame that is prebuilt

    def encode(self, choice: int, batch: events.Batch) -> bytes:
        if not batch:
            return sse.HEARTBEAT
        out: list[bytes] = []
        for event in batch:
            if type(event) is TextDelta and not event.logprobs:
                if event.text:
                    if choice != self._text_choice:
                        self._text_choice = choice
                        self._text_head = self._head + b'{"index":%d,"delta":{"content":' % choice
                    out += self._text_head, to_json(event.text), NO_REASON, self._tail
            elif type(event) is events.Started:
                begun = b'{"index":%d,"delta":{"role":"assistant","content":null' % choice
                out += self._head, begun, NO_REASON, self._tail
            elif type(event) is events.Finished:
                out.append(self._last(choice, event))
            else:
                self._event(choice, event, out)
        return b"".join(out)

    def _event(self, choice: int, event: Any, out: list[bytes]) -> None:
        logprobs = None
        delta: dict[str, Any]
        match event:
            case TextDelta():
                delta = {"content": event.text}
                logprobs = _logprobs_field(event.logprobs)
            case events.ReasoningDelta():
                delta = _reasoning_fields(event.text)
            case events.ToolCallDelta():
                delta = openai_tools.delta(event, bool(self._request.extra.get(LEGACY)))
            case _:
                super()._event(choice, event, out)
                return
        out.append(self._chunk(choice, delta, logprobs))
