"""Input items become messages.

A model's turn is spread over items: reasoning, messages and calls in a row make one assistant
message. A custom tool (free text in, as Codex' apply_patch) is a function with the one parameter
`input`. Items of tools that only OpenAI's servers run are left out with a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ...core.invalid import Invalid
from ...core.request import Media, Message, Role, ToolCall
from .. import parts
from ..fields import Body, bounded, entry, items, text
from ..openai_tools import plain
from ..parts import joined

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def as_items(value: Any) -> list[Any]:
    """`input` as items: a plain text is a user's message."""
    if type(value) is str:
        return [{"type": "message", "role": "user", "content": value}]
    if isinstance(value, list):
        return value
    raise Invalid("input", "must be a string or a list of items")


def referenced(values: list[Any], find: Callable[[str], Any]) -> list[Any]:
    """The items themselves where the input only names them; `find` gives the item of an id, or
    None. Raises Invalid."""
    out = []
    for i, item in enumerate(values):
        if isinstance(item, dict) and item.get("type") == "item_reference":
            item = find(text(item, "id", at=f"input[{i}]."))
            if item is None:
                raise Invalid(f"input[{i}].id", "names no item that is kept")
        out.append(item)
    return out


def messages(values: list[Any], warnings: list[str], at: str = "input") -> list[Message]:
    """Raises Invalid naming the item."""
    bounded(values, at)
    runs: list[list[Message]] = []
    for i, value in enumerate(values):
        message = _message(entry(value, f"{at}[{i}]"), f"{at}[{i}].", warnings)
        if message is None:
            continue
        if runs and runs[-1][0].role == message.role and message.role in ("assistant", "system"):
            runs[-1].append(message)
        else:
            runs.append([message])
    return [joined(*run) for run in runs]


def _message(item: Body, at: str, warnings: list[str]) -> Message | None:
    kind = text(item, "type", "message", at=at)
    if kind == "message":
        role = ROLES.get(text(item, "role", at=at))
        if role is None:
            raise Invalid(at + "role", f"must be one of {', '.join(ROLES)}")
        content, media = _content(item.get("content"), at + "content")
        return Message(role, content, media=media)
    if kind == "function_call":
        return _call(item, text(item, "arguments", at=at), at)
    if kind == "custom_tool_call":
        written = {"input": text(item, "input", at=at)}
        return _call(item, msgspec.json.encode(written).decode(), at)
    if kind in ("function_call_output", "custom_tool_call_output"):
        content, media = _content(item.get("output"), at + "output")
        return Message("tool", content, tool_call_id=text(item, "call_id", at=at), media=media)
    if kind == "reasoning":
        thought, _ = _content(
            items(item, "content", at) or items(item, "summary", at), at + "content"
        )
        return Message("assistant", reasoning=thought) if thought else None
    if kind in ("file_search_call", "web_search_call"):
        return None  # made here; its answer says what came of it
    warnings.append(f"input items of the type {plain(kind)} are left out")
    return None


def _call(item: Body, arguments: str, at: str) -> Message:
    call = ToolCall(text(item, "call_id", at=at), text(item, "name", at=at), arguments)
    return Message("assistant", tool_calls=(call,))


def _image(part: Body, at: str) -> Media:
    url = text(part, "image_url", at=at)
    if not url:
        raise Invalid(at + "image_url", "is missing: files are not kept here")
    return Media("image", url=url, detail=text(part, "detail", at=at))


KINDS = "input_text, output_text or input_image"
PARTS: dict[str, parts.Reader] = {
    **dict.fromkeys(TEXTS, parts.words("text")),
    "refusal": parts.words("refusal"),
    "input_image": _image,
}


def _content(value: Any, at: str) -> tuple[str, tuple[Media, ...]]:
    return parts.content(value, at, PARTS, KINDS)


def listed(values: list[Any], response_id: str) -> list[dict[str, Any]]:
    """Input items as /input_items tells them: each with an id, and contents as lists of parts."""
    out = []
    mark = response_id.partition("_")[2]
    for i, value in enumerate(values):
        item = {"type": "message", "status": "completed", **value}
        item.setdefault("id", f"msg_{mark}i{i:02x}")
        if item["type"] == "message":
            content = item.get("content")
            if type(content) is str:
                if item.get("role") == "assistant":
                    part = {"type": "output_text", "text": content, "annotations": []}
                else:
                    part = {"type": "input_text", "text": content}
                item["content"] = [part]
        out.append(item)
    return out
