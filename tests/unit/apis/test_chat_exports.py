"""Exported conversations of this page, Open WebUI and ChatGPT. They are untrusted."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.apis.chat_exports import MOST_NODES, read
from proxy.errors import InvalidParameter


def chatgpt(name: str, parent: str | None, role: str, *parts: Any, **more: Any) -> dict[str, Any]:
    content = {"content_type": "text", "parts": list(parts)}
    message = {"id": name, "author": {"role": role}, "content": content, "create_time": 7.5, **more}
    return {name: {"id": name, "parent": parent, "children": [], "message": message}}


CHATGPT: dict[str, Any] = {
    "title": "Tides\nand  moons",
    "create_time": 5.0,
    "update_time": 9.0,
    "current_node": "c",
    "mapping": {
        "root": {"id": "root", "parent": None, "message": None, "children": ["s"]},
        **chatgpt("s", "root", "system", ""),
        **chatgpt("a", "s", "user", "Why?", {"content_type": "image_asset_pointer"}),
        **chatgpt("t", "a", "tool", "a search"),
        **chatgpt("b", "t", "assistant", "The moon", "and the sun."),
        **chatgpt("c", "a", "assistant", "The moon."),
    },
}
OPEN_WEBUI: dict[str, Any] = {
    "id": "x",
    "user_id": "u",
    "title": "Ships",
    "created_at": 5,
    "updated_at": 9,
    "pinned": True,
    "chat": {
        "title": "Ships",
        "history": {
            "currentId": "2",
            "messages": {
                "1": {"id": "1", "parentId": None, "role": "user", "content": "A ship?"},
                "2": {"id": "2", "parentId": "1", "role": "assistant", "content": "Yes."},
            },
        },
    },
}
OURS: dict[str, Any] = {
    "title": "Lamps",
    "settings": {"pinned": True},
    "created": 5.0,
    "changed": 9.0,
    "messages": [
        {"id": "m1", "parent_id": None, "role": "user", "content": "A lamp?", "created": 6.0},
        {"id": "m2", "parent_id": "m1", "role": "assistant", "content": "", "status": "failed"},
        {
            "id": "m3",
            "parent_id": "m1",
            "role": "assistant",
            "content": "Yes.",
            "reasoning": "Hm.",
        },
    ],
}


def test_chatgpt_keeps_texts_and_branches_of_users_and_assistants() -> None:
    one = read(CHATGPT)
    assert (one.title, one.created, one.changed) == ("Tides and moons", 5.0, 9.0)
    assert [(m.parent, m.role, m.content) for m in one.messages] == [
        (None, "user", "Why?"),
        (0, "assistant", "The moon\n\nand the sun."),
        (0, "assistant", "The moon."),
    ]
    assert one.messages[0].created == 7.5


def test_chatgpt_hidden_messages_are_left_out() -> None:
    hidden = {"metadata": {"is_visually_hidden_from_conversation": True}}
    mapping = chatgpt("a", None, "user", "Profile", **hidden) | chatgpt("b", "a", "user", "Hi")
    assert [m.content for m in read({"mapping": mapping}).messages] == ["Hi"]


def test_open_webui_is_read() -> None:
    one = read(OPEN_WEBUI)
    assert (one.title, one.changed, one.pinned) == ("Ships", 9.0, True)
    assert [(m.parent, m.content) for m in one.messages] == [(None, "A ship?"), (0, "Yes.")]


def test_own_export_is_read_without_empty_answers() -> None:
    one = read(OURS)
    assert one.pinned
    assert [(m.parent, m.content, m.reasoning) for m in one.messages] == [
        (None, "A lamp?", ""),
        (0, "Yes.", "Hm."),
    ]


@pytest.mark.parametrize(
    "data", [None, 1, "x", {}, {"mapping": []}, {"chat": {}}, [[]], [{"a": 1}]]
)
def test_anything_else_is_refused(data: Any) -> None:
    with pytest.raises(InvalidParameter, match="not an export"):
        read(data)


@pytest.mark.parametrize(
    "node", [None, 1, {}, {"message": 5}, {"message": {"author": 1, "content": {"parts": [1]}}}]
)
def test_broken_messages_are_left_out(node: Any) -> None:
    mapping = {"x": node, **chatgpt("a", "x", "user", "Hi")}
    assert [m.content for m in read({"mapping": mapping}).messages] == ["Hi"]


@pytest.mark.parametrize(
    ("messages", "left"),
    [
        ([("", None)], ["root"]),
        ([("", "")], ["root"]),
        ([("", None), ("a", ""), ("b", None)], ["root", "a", "b"]),
        ([("a", "a"), ("b", "a")], ["a", "b"]),
        ([("a", "b"), ("b", "a")], []),
        ([("", "a"), ("a", "b"), ("b", ""), ("c", None)], ["c"]),
    ],
)
def test_odd_trees_end(messages: Any, left: list[str]) -> None:
    """With an empty id, without parents, and with circles, whose messages are left out."""
    export = [
        {"id": name, "parent_id": parent, "role": "user", "content": name or "root"}
        for name, parent in messages
    ]
    assert [message.content for message in read({"messages": export}).messages] == left


@pytest.mark.parametrize("time", ["5", True, -1, float("nan"), float("inf"), 10**400, None])
def test_invalid_times_are_unknown(time: Any) -> None:
    assert read({**OURS, "created": time, "changed": time}).changed == 0.0


def test_number_of_messages_is_bounded() -> None:
    mapping = {str(n): None for n in range(MOST_NODES + 1)}
    for data in (
        {"mapping": mapping},
        {"messages": [None] * (MOST_NODES + 1)},
        {"chat": {"history": {"messages": mapping}}},
    ):
        with pytest.raises(InvalidParameter, match="messages"):
            read(data)
