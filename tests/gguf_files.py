"""Heads of GGUF files, made of fields."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value(one: Any) -> bytes:
    """Type and value; integers are of 64 bits."""
    if isinstance(one, str):
        return struct.pack("<I", 8) + text(one)
    if isinstance(one, float):
        return struct.pack("<If", 6, one)
    if isinstance(one, int):
        return struct.pack("<Iq", 11, one)
    if one and isinstance(one[0], str):
        return struct.pack("<IIQ", 9, 8, len(one)) + b"".join(map(text, one))
    return struct.pack(f"<IIQ{len(one)}q", 9, 11, len(one), *one)


def gguf(fields: Mapping[str, Any], *, version: int = 3, count: int | None = None) -> bytes:
    """`count` replaces the number of fields."""
    head = b"GGUF" + struct.pack("<IQQ", version, 0, len(fields) if count is None else count)
    return head + b"".join(text(name) + value(one) for name, one in fields.items())
