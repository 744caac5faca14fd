"""Newline-delimited JSON: one document per line.

Characters that str.splitlines and similar functions treat as line ends are escaped, because clients
split such streams with them; JSON itself escapes control characters below U+0020.
"""

from __future__ import annotations

from typing import Any

import msgspec

_ENDS = (("\x85", b"\\u0085"), ("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"))
_RARE = tuple((char.encode(), escape) for char, escape in _ENDS)


def encode(value: Any) -> bytes:
    """One line, including its newline."""
    data = msgspec.json.encode(value)
    if not data.isascii():
        for char, escape in _RARE:
            if char in data:
                data = data.replace(char, escape)
    return data + b"\n"
