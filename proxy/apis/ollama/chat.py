"""Ollama's POST /api/chat.

Tool calls may have no ids. A result then belongs to the first unanswered call of its tool's name,
or else to the first unanswered call; missing ids are made from positions in the conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ...core.events import Batch, Finished, ToolCallDelta
from ...core.fold import Completion
from ...core.request import CompletionRequest, Message, Role, ToolCall
from ...errors import InvalidParameter
from .. import schema_fields as doc
from ..fields import Body, choice, entries, items, mapping, objects, text
from ..openai.tools import EXAMPLE, as_object, tools
from ..response_meta import ResponseMeta
from ..schema_fields import Fields
from . import common

error = common.error

FIELDS: Fields = {
    "messages": doc.array("The conversation.", doc.USER_MESSAGE),
    "tools": doc.array("Functions the model may call.", [EXAMPLE]),
    **common.COMMON,
}
MAX_WAITING = 1024  # unanswered calls; every result is matched against all of them
ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def parse(body: Body) -> CompletionRequest:
    values = items(body, "messages")
    if not values:
        raise InvalidParameter("messages", "must contain at least one message")
    offered = items(body, "tools")
    fields = common.shared_fields(body, FIELDS.keys())
    functions, warnings = tools(offered)
    fields["warnings"] += warnings
    return CompletionRequest(messages=_messages(values), tools=functions, **fields)


def _messages(values: list[Any]) -> tuple[Message, ...]:
    messages = []
    waiting: list[ToolCall] = []
    for i, (body, at) in enumerate(entries(values, "messages")):
        role = ROLES[choice(body, "role", ROLES, at=at)]
        name, call_id = text(body, "tool_name", at=at), text(body, "tool_call_id", at=at)
        calls = tuple(
            _call(call, f"call_{i}_{j}", path)
            for j, (call, path) in enumerate(objects(body, "tool_calls", at))
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
                content=text(body, "content", at=at),
                name=name,
                tool_calls=calls,
                tool_call_id=call_id,
                reasoning=text(body, "thinking", at=at),
                media=common.images(items(body, "images", at), at + "images"),
            )
        )
    return tuple(messages)


def _call(body: Body, call_id: str, at: str) -> ToolCall:
    function, inside = mapping(body, "function", at), at + "function."
    arguments = msgspec.json.encode(mapping(function, "arguments", inside)).decode()
    name = text(function, "name", at=inside)
    return ToolCall(text(body, "id", call_id, at=at), name, arguments)


def _complete(calls: Sequence[ToolCall], finished: Finished) -> list[ToolCall]:
    """The calls to send: arguments are objects here, so one that was cut off is dropped."""
    cut = finished.reason == "length"
    return [call for call in calls if not cut or as_object(call.arguments)]


def _said(piece: str, thought: str, calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
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


def reply(
    meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    (completion,) = completions
    calls = _complete(completion.tool_calls, completion.finished)
    said = _said(completion.text, completion.reasoning, calls)
    return common.whole(meta, request, completion, said)


class Encoder(common.NdjsonLines):
    """Encodes events as lines of JSON. Like Ollama, it sends a tool call once it is complete."""

    said = staticmethod(_said)

    def __init__(self, meta: ResponseMeta, request: CompletionRequest) -> None:
        super().__init__(meta, request)
        self._calls: dict[int, ToolCall] = {}

    def encode(self, choice: int, batch: Batch) -> bytes:
        for event in batch:
            if type(event) is ToolCallDelta:
                call = self._calls.get(event.index) or ToolCall(event.id, event.name, "")
                arguments = call.arguments + event.arguments
                self._calls[event.index] = msgspec.structs.replace(call, arguments=arguments)
        finished = batch[-1] if batch else None
        if not self._calls or type(finished) is not Finished:
            return super().encode(choice, batch)
        before = super().encode(choice, batch[:-1])
        if calls := _complete([self._calls[i] for i in sorted(self._calls)], finished):
            before += self._line(_said("", "", calls))
        return before + super().encode(choice, [finished])
