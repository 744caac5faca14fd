"""Anthropic's client-side tools: the shell and the text editor.

Clients send only the type, because Anthropic's models know the parameters. Other models need a
description and a schema. The parameters follow the API's documentation; the end of a type is the
date of its version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..fields import Body

_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}
_BASH: Mapping[str, Any] = {
    "description": "Runs a command in a persistent shell and returns its output.",
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


def function_of(tool: Body, kind: str) -> dict[str, Any] | None:
    """The tool as a function definition; None if the type is unknown."""
    for prefix, definition in KNOWN.items():
        if kind.startswith(prefix):
            return {**definition, "name": tool.get("name")}
    return None
