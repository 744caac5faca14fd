"""Conversations that the chat page imports. They are untrusted."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import InvalidParameter
from proxy.web.pages.exchange import MOST_NODES, in_order, parse

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


def test_branches_are_kept_without_empty_answers() -> None:
    export = parse(OURS)
    assert (export.title, export.changed, export.settings) == ("Lamps", 9.0, {"pinned": True})
    messages = in_order(export.messages)
    assert [(m.parent, m.content, m.reasoning) for m in messages] == [
        (None, "A lamp?", ""),
        (0, "Yes.", "Hm."),
    ]


def test_replies_to_what_is_left_out_follow_its_parent() -> None:
    turns = [("s", None, "system"), ("a", "s", "user"), ("t", "a", "tool"), ("b", "t", "assistant")]
    nodes = [
        {"id": name, "parent_id": parent, "role": role, "content": name}
        for name, parent, role in turns
    ]
    messages = in_order(parse({"messages": nodes}).messages)
    assert [(m.parent, m.content) for m in messages] == [(None, "a"), (0, "b")]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"messages": {}},
        {"messages": [None]},
        {"messages": [{"id": 1}]},
        {**OURS, "created": -1},
        {**OURS, "created": 1e12},
        {**OURS, "title": 5},
        {**OURS, "settings": []},
    ],
)
def test_anything_else_is_refused(data: Any) -> None:
    with pytest.raises(InvalidParameter, match="is not an export from slotproxy"):
        parse(data)


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
    read = parse({"messages": export})
    assert [message.content for message in in_order(read.messages)] == left


def test_number_of_messages_is_bounded() -> None:
    nodes = [{"id": str(number)} for number in range(MOST_NODES + 1)]
    assert len(parse({"messages": nodes[1:]}).messages) == MOST_NODES
    with pytest.raises(InvalidParameter, match="messages"):
        parse({"messages": nodes})
