"""Reads an exported conversation: of this page, of Open WebUI or of ChatGPT (conversations.json).

All three are trees of messages. An export is untrusted: everything that is not a text of a user or
an assistant is left out, and the replies to a message that is left out follow its parent. Sources
of the formats: `chat.history.messages` of Open WebUI's chats, and `mapping` of ChatGPT's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any, Literal

from msgspec import Struct

from ..errors import InvalidParameter

MOST_NODES = 4000  # messages of a conversation, with those that are left out
TITLE = 200  # characters
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


class _Node(Struct, frozen=True):
    """A message of any format; `role` "" for one that is left out, `parent` None for a first."""

    parent: str | None
    role: str
    content: str
    reasoning: str = ""
    created: float = 0.0


def read(data: object) -> ExportedConversation:
    """Read an exported conversation; it may have no messages. Raises InvalidParameter."""
    one = _object(data)
    match one:
        case {"mapping": dict(mapping)}:
            _check_number(mapping)
            nodes = {name: _chatgpt(node) for name, node in mapping.items()}
            times = _time(one.get("create_time")), _time(one.get("update_time"))
        case {"chat": {"history": {"messages": dict(messages)}}}:
            _check_number(messages)
            nodes = {name: _open_webui(node) for name, node in messages.items()}
            times = _time(one.get("created_at")), _time(one.get("updated_at"))
        case {"messages": list(messages)}:
            _check_number(messages)
            nodes = dict(_ours(messages))
            times = _time(one.get("created")), _time(one.get("changed"))
        case _:
            raise InvalidParameter(
                "conversation",
                "is no export of slotproxy, Open WebUI or ChatGPT (conversations.json)",
            )
    pinned = one.get("pinned") or _object(one.get("settings")).get("pinned")
    return ExportedConversation(
        title=" ".join(_text(one.get("title")).split())[:TITLE],
        messages=_in_order(nodes),
        created=times[0],
        changed=times[1] or times[0],
        pinned=pinned is True,
    )


def _check_number(nodes: Sized) -> None:
    if len(nodes) > MOST_NODES:
        raise InvalidParameter("conversation", f"has more than {MOST_NODES} messages")


def _chatgpt(node: object) -> _Node:
    parent, message = _name(_object(node).get("parent")), _object(_object(node).get("message"))
    match message:
        case {"author": {"role": str(role)}, "content": {"parts": list(parts)}}:
            content = "\n\n".join(part for part in parts if isinstance(part, str))
        case {"author": {"role": str(role)}, "content": {"text": str(content)}}:
            pass
        case _:
            return _Node(parent, "", "")
    if _object(message.get("metadata")).get("is_visually_hidden_from_conversation"):
        role = ""
    return _Node(parent, role, content, created=_time(message.get("create_time")))


def _open_webui(data: object) -> _Node:
    node = _object(data)
    created = _time(node.get("timestamp"))
    content = _text(node.get("content"))
    return _Node(_name(node.get("parentId")), _text(node.get("role")), content, created=created)


def _ours(messages: Sequence[object]) -> Iterator[tuple[str, _Node]]:
    for one in messages:
        if isinstance(one, dict) and isinstance(one.get("id"), str):
            yield (
                one["id"],
                _Node(
                    _name(one.get("parent_id")),
                    _text(one.get("role")),
                    _text(one.get("content")),
                    _text(one.get("reasoning")),
                    _time(one.get("created")),
                ),
            )


def _in_order(nodes: Mapping[str, _Node]) -> tuple[ExportedMessage, ...]:
    """The messages that are kept, parents first, otherwise in the order of the file. Those of a
    circle are left out; one that names itself as its parent begins a branch."""
    # The first ones are under None, which is no name: the walk meets no message twice.
    replies: dict[str | None, list[str]] = {}
    for name, node in nodes.items():
        known = node.parent in nodes and node.parent != name
        replies.setdefault(node.parent if known else None, []).append(name)
    messages: list[ExportedMessage] = []
    left: list[tuple[str, int | None]] = [(name, None) for name in reversed(replies.get(None, ()))]
    while left:
        name, parent = left.pop()
        node = nodes[name]
        if node.role in ROLES and node.content.strip():
            messages.append(
                ExportedMessage(
                    parent,
                    node.role,  # type: ignore[arg-type]  # one of ROLES
                    node.content,
                    node.reasoning,
                    node.created,
                )
            )
            parent = len(messages) - 1
        left += [(one, parent) for one in reversed(replies.get(name, ()))]
    return tuple(messages)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _name(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _time(value: object) -> float:
    """Seconds since 1970; 0 for anything else."""
    if type(value) is float or type(value) is int:
        return float(value) if 0 < value < LATEST else 0.0  # NaN, too
    return 0.0
