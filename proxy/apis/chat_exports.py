"""Reads an exported conversation: of this page, of Open WebUI or of ChatGPT (conversations.json).

All three are trees of messages, and untrusted: only texts of users and assistants are kept. The
replies to a message that is left out follow its parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from ..errors import InvalidParameter

MOST_NODES = 4000  # messages of a conversation, with those that are left out
TITLE = 200  # characters
FOLDER = 60
LATEST = 1e11  # seconds since 1970

ROLES = ("user", "assistant")


class ExportedMessage(Struct, frozen=True):
    """`parent` is the place of its parent in the conversation's messages, None for the first of a
    branch. `created` is in seconds since 1970, 0 if unknown."""

    parent: int | None
    role: Literal["user", "assistant"]
    content: str
    reasoning: str = ""
    created: float = 0.0


class ExportedConversation(Struct, frozen=True, kw_only=True):
    """Parents come before their replies."""

    title: str
    messages: tuple[ExportedMessage, ...]
    created: float = 0.0
    changed: float = 0.0
    pinned: bool = False
    folder: str = ""


Node = dict[str, Any]
"""A message as the page exports it: parent_id, role, content, reasoning and created."""


def read(data: object) -> ExportedConversation:
    """Read an exported conversation; it may have no messages. Raises InvalidParameter."""
    export = _object(data)
    nodes: dict[Any, Node]
    match export:
        case {"mapping": dict(given)}:
            nodes = {name: _chatgpt(_object(node)) for name, node in given.items()}
            times = "create_time", "update_time"
        case {"chat": {"history": {"messages": dict(given)}}}:
            nodes = {name: _open_webui(_object(node)) for name, node in given.items()}
            times = "created_at", "updated_at"
        case {"messages": list(given)}:
            named = [node for node in given if isinstance(_object(node).get("id"), str)]
            nodes = {node["id"]: node for node in named}
            times = "created", "changed"
        case _:
            raise InvalidParameter(
                "conversation",
                "is not an export from slotproxy, Open WebUI or ChatGPT (conversations.json)",
            )
    if len(given) > MOST_NODES:
        raise InvalidParameter("conversation", f"has more than {MOST_NODES} messages")
    created, changed = (_time(export.get(name)) for name in times)
    settings = _object(export.get("settings"))
    pinned = export.get("pinned") or settings.get("pinned")
    return ExportedConversation(
        title=" ".join(_text(export.get("title")).split())[:TITLE],
        messages=_in_order(nodes),
        created=created,
        changed=changed or created,
        pinned=pinned is True,
        folder=_text(settings.get("folder"))[:FOLDER],
    )


def _chatgpt(node: Mapping[str, Any]) -> Node:
    message = _object(node.get("message"))
    role, content = _object(message.get("author")).get("role"), _object(message.get("content"))
    text = content.get("text")
    if isinstance(parts := content.get("parts"), list):
        text = "\n\n".join(part for part in parts if isinstance(part, str))
    if _object(message.get("metadata")).get("is_visually_hidden_from_conversation"):
        role = ""
    created = message.get("create_time")
    return {"parent_id": node.get("parent"), "role": role, "content": text, "created": created}


def _open_webui(node: Mapping[str, Any]) -> Node:
    return {**node, "parent_id": node.get("parentId"), "created": node.get("timestamp")}


def _in_order(nodes: Mapping[Any, Node]) -> tuple[ExportedMessage, ...]:
    """The kept messages, parents first. One that is its own parent begins a branch; circles go."""
    # The first ones are under None, which is no name: the walk meets no message twice.
    replies: dict[Any, list[Any]] = {}
    for name, node in nodes.items():
        parent = node.get("parent_id")
        has_parent = isinstance(parent, str) and parent in nodes and parent != name
        replies.setdefault(parent if has_parent else None, []).append(name)
    messages: list[ExportedMessage] = []
    left: list[tuple[Any, int | None]] = [(name, None) for name in reversed(replies.get(None, ()))]
    while left:
        name, place = left.pop()
        node = nodes[name]
        role, content = node.get("role"), _text(node.get("content"))
        if role in ROLES and content.strip():
            reasoning, created = _text(node.get("reasoning")), _time(node.get("created"))
            messages.append(ExportedMessage(place, role, content, reasoning, created))
            place = len(messages) - 1
        left += [(reply, place) for reply in reversed(replies.get(name, ()))]
    return tuple(messages)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _time(value: object) -> float:
    """Seconds since 1970; 0 for anything else."""
    if type(value) is float or type(value) is int:
        return float(value) if 0 < value < LATEST else 0.0  # NaN, too
    return 0.0
