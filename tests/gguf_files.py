"""Heads of GGUF files, made of fields."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value(content: Any) -> bytes:
    """Type and value; integers are of 64 bits."""
    if isinstance(content, str):
        return struct.pack("<I", 8) + text(content)
    if isinstance(content, float):
        return struct.pack("<If", 6, content)
    if isinstance(content, int):
        return struct.pack("<Iq", 11, content)
    if content and isinstance(content[0], str):
        return struct.pack("<IIQ", 9, 8, len(content)) + b"".join(map(text, content))
    return struct.pack(f"<IIQ{len(content)}q", 9, 11, len(content), *content)


def gguf(fields: Mapping[str, Any], *, version: int = 3, count: int | None = None) -> bytes:
    """`count` replaces the number of fields."""
    head = b"GGUF" + struct.pack("<IQQ", version, 0, len(fields) if count is None else count)
    return head + b"".join(text(name) + value(content) for name, content in fields.items())
