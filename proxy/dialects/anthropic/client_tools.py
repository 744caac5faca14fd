"""Anthropic's tools that the client itself runs: a shell, and an editor of files.

A client names them by type alone, since Anthropic's models have learnt what they take. Any other
model has to be told, by a description and a schema as of every tool. The parameters are those of
the API's documentation; the tools' names carry the date of their version in their type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..fields import Body

_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}
_BASH: Mapping[str, Any] = {
    "description": "Runs a command in a shell that stays open, and gives what it prints.",
    "parameters": {
        "type": "object",
        "properties": {"command": _TEXT, "restart": {"type": "boolean"}},
    },
}
_EDITOR: Mapping[str, Any] = {
    "description": "Reads and changes files. `view` shows a file, or its lines view_range, or lists"
    " a folder; `create` writes file_text; `str_replace` puts new_str where old_str stands, which"
    " must stand there once; `insert` adds new_str behind the line insert_line.",
    "parameters": {
        "type": "object",
        "properties": {
            "command": {"type": "string", "enum": ["view", "create", "str_replace", "insert"]},
            "path": _TEXT,
            "view_range": {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2},
            "file_text": _TEXT,
            "old_str": _TEXT,
            "new_str": _TEXT,
            "insert_line": _NUMBER,
        },
        "required": ["command", "path"],
    },
}
KNOWN = {"bash_": _BASH, "text_editor_": _EDITOR}


def told(tool: Body, kind: str) -> dict[str, Any] | None:
    """The tool as a function; None for a type that is not known here."""
    for begin, more in KNOWN.items():
        if kind.startswith(begin):
            return {**more, "name": tool.get("name")}
    return None
