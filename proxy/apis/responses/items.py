"""Parses input items into messages.

Consecutive reasoning, message and call items of the model form one assistant message. A custom tool
(with free text as input, such as Codex's apply_patch) becomes a function with the single parameter
`input`. Items of tools that only OpenAI's servers run are skipped with a warning.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ...core.conversation import LEAD, joined
from ...core.request import Media, Message, ToolCall
from ...errors import InvalidParameter
from ..contents import Content, PartReader, contents, role_of, text_reader
from ..fields import Body, entries, filled, header_safe, items, text
from . import mcp

# The text of a compaction item is the `encrypted_content` that clients send back: base64 of the
# summary, so that no client takes it for text to show. Nothing in it is secret or trusted: the
# client wrote the conversation that it sums up.
SUMMARIES = frozenset({"compaction", "compaction_summary"})  # the second is Codex's older name


def encode_summary(summary: str) -> str:
    return base64.b64encode(summary.encode()).decode()


def summary_message(content: str, at: str) -> Message:
    """What the model reads in place of the compacted items. Raises InvalidParameter."""
    try:
        summary = base64.b64decode(content, validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidParameter(
            at + "encrypted_content", "is not from this gateway: send the item as it was returned"
        ) from None
    return Message(role="user", content=LEAD + summary)


ROLES = ("system", "developer", "user", "assistant")
TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def as_items(value: Any) -> list[Any]:
    """`input` as items; a string is a user message."""
    if type(value) is str:
        return [{"type": "message", "role": "user", "content": value}]
    if isinstance(value, list):
        return value
    raise InvalidParameter("input", "must be a string or a list of items")


def referenced(values: list[Any], find: Callable[[str], Any]) -> list[Any]:
    """Replaces item references by the items that `find` returns for their ids."""
    resolved = []
    for i, item in enumerate(values):
        if isinstance(item, dict) and item.get("type") == "item_reference":
            item = find(text(item, "id", at=f"input[{i}]."))
            if item is None:
                raise InvalidParameter(f"input[{i}].id", "does not refer to a stored item")
        resolved.append(item)
    return resolved


def conversation_of(body: Body) -> str:
    """The id of the conversation that a response belongs to, "" for none."""
    value = body.get("conversation")
    if isinstance(value, dict):
        key = text(value, "id", at="conversation.")
    else:
        key = text(body, "conversation")
    if key and body.get("previous_response_id"):
        raise InvalidParameter("conversation", "cannot be combined with previous_response_id")
    return key


def check_outputs(values: Iterable[Any]) -> None:
    """Refuses an output without its call: the model would read an answer to nothing."""
    calls = set()
    for item in values:
        match item:
            case {"type": "function_call" | "custom_tool_call", "call_id": str(call_id)}:
                calls.add(call_id)
            case {"type": "function_call_output" | "custom_tool_call_output"}:
                if (call_id := text(item, "call_id")) not in calls:
                    raise InvalidParameter(
                        "input", f"has an output of call_id {call_id[:100]!r}, but not that call"
                    )


def messages(values: list[Any], warnings: list[str], at: str = "input") -> list[Message]:
    """Raises InvalidParameter with the path of the item."""
    runs: list[list[Message]] = []
    sums_up = False  # the last message does: the user's next one joins it
    approvals = mcp.approvals(values, at)
    for item, path in entries(values, at):
        kind = text(item, "type", "message", path)
        if kind in mcp.KINDS:
            added = mcp.messages(item, kind, path, approvals)
        else:
            message = _message(item, kind, path, warnings)
            added = [] if message is None else [message]
        for message in added:
            joins = sums_up or message.role in ("assistant", "system")
            sums_up = kind in SUMMARIES
            if runs and runs[-1][0].role == message.role and joins:
                runs[-1].append(message)
            else:
                runs.append([message])
    return [joined(*run) for run in runs]


def _message(item: Body, kind: str, at: str, warnings: list[str]) -> Message | None:
    match kind:
        case "message":
            role = role_of(item, ROLES, at)
            raw_content = item.get("content")
            if raw_content is None:
                raise InvalidParameter(at + "content", "is missing: send a text or parts")
            return _content(raw_content, at + "content").message(role)
        case "function_call":
            return _call(item, text(item, "arguments", at=at), at)
        case "custom_tool_call":
            written = msgspec.json.encode({"input": text(item, "input", at=at)})
            return _call(item, written.decode(), at)
        case "function_call_output" | "custom_tool_call_output":
            content = _content(item.get("output"), at + "output")
            return content.message("tool", tool_call_id=filled(item, "call_id", at))
        case "reasoning":
            parts = items(item, "content", at) or items(item, "summary", at)
            thought = _content(parts, at + "content").text
            return Message(role="assistant", reasoning=thought) if thought else None
        case "compaction" | "compaction_summary":
            return summary_message(text(item, "encrypted_content", at=at), at)
        case "file_search_call" | "web_search_call":
            return None  # made by the gateway; the answer that follows covers its results
    warnings.append(f"input items of type {header_safe(kind)} are ignored")
    return None


def _call(item: Body, arguments: str, at: str) -> Message:
    call = ToolCall(filled(item, "call_id", at), filled(item, "name", at), arguments)
    return Message(role="assistant", tool_calls=(call,))


def _image(content: Content, part: Body, at: str) -> None:
    url = text(part, "image_url", at=at)
    if not url:
        raise InvalidParameter(at + "image_url", "is missing: file ids are not supported")
    content.show(Media(kind="image", url=url, detail=text(part, "detail", at=at)))


KINDS = "input_text, output_text or input_image"
PARTS: dict[str, PartReader] = {
    **dict.fromkeys(TEXTS, text_reader("text")),
    "refusal": text_reader("refusal"),
    "input_image": _image,
}


def _content(value: Any, at: str) -> Content:
    return contents(value, at, PARTS, KINDS)


def listed(values: list[Any], response_id: str) -> list[dict[str, Any]]:
    """Input items as /input_items lists them: with ids, and contents as lists of parts."""
    listed = []
    suffix = response_id.partition("_")[2]
    for i, value in enumerate(values):
        item = {"type": "message", "status": "completed", **value}
        item.setdefault("id", f"msg_{suffix}i{i:02x}")
        content = item.get("content")
        if item["type"] == "message" and type(content) is str:
            part: dict[str, Any] = {"type": "input_text", "text": content}
            if item.get("role") == "assistant":
                part |= {"type": "output_text", "annotations": []}
            item["content"] = [part]
        listed.append(item)
    return listed
