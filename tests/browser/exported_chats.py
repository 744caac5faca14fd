"""Exports of ChatGPT and Open WebUI, as their files have them."""

from __future__ import annotations

from typing import Any


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
