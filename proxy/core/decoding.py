"""What decoding JSON costs at most, estimated before it is decoded.

msgspec decodes in one call, and no other thread of the interpreter runs meanwhile: a body of 32 MB
can hold up every stream for ten seconds. The time depends on what is outside the strings, and on
escapes, more than on bytes. So the estimate counts these. It goes through the text in pieces:
in a thread, others get their turn between two of them.

The weights are nanoseconds of msgspec 0.20 on a slow core, each the worst that was measured.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

PIECE = 64 << 10  # bytes
SHORT = 64 << 10  # bytes that hold nobody up for long, whatever they are
LONGEST = 50_000_000  # nanoseconds that a text may take to decode

VALUE = 35  # a number of 16 digits, or whatever a comma sets apart
STRING = 140
NAME = 110  # of a field, beyond the string that it is
CONTAINER = 180
ESCAPE = 6  # as in \n
CODE = 12  # as in \u1234, beyond an escape
BYTE = 1.4  # outside the strings
WIDE = 3  # a byte of text that is not ASCII; later work on such a text takes as long again
DIGIT = 25  # of a number that has more than 16
EXPONENT = 1_100
LARGE_EXPONENT = 10_000  # of three digits, as in 1.5e300

_BLANKS = b" \t\r\n"
_COMMAS = bytes.maketrans(b"[]{}:", b",,,,,")
_EXPONENT = re.compile(rb"[0-9.][eE][-+]?([0-9]+)")


def is_dear(data: bytes, most: int = LONGEST) -> bool:
    """Whether decoding may take longer than `most` nanoseconds. Takes up to 50 ns a byte itself."""
    return len(data) > SHORT and decoding_cost(data, most) > most


def decoding_cost(data: bytes, most: int) -> int:
    """The nanoseconds at most; the count ends where it is more than `most`."""
    cost = 0
    rest = b""  # a backslash at the end of a piece
    text = False  # whether a piece begins in a string
    for at in range(0, len(data), PIECE):
        piece = rest + data[at : at + PIECE]
        escapes = piece.count(b"\\")
        if escapes:
            cost += ESCAPE * (escapes - len(rest)) + CODE * piece.count(b"\\u")
            rest = b""
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
            if piece.endswith(b"\\"):
                piece, rest = piece[:-1], b"\\"
        if not piece.isascii():
            cost += WIDE * len(piece)
        parts = piece.split(b'"')
        quotes = len(parts) - 1
        cost += STRING * quotes // 2
        outside = b"".join(parts[text::2])
        text ^= bool(quotes & 1)
        if outside:
            cost += int(BYTE * len(outside))
            cost += _outside(outside.translate(None, _BLANKS))
        if cost > most:
            break
    return cost


def _outside(marks: bytes) -> int:
    """The cost of what is outside the strings."""
    cost = VALUE * marks.count(b",") + CONTAINER * (marks.count(b"{") + marks.count(b"["))
    cost += NAME * marks.count(b":")
    words = marks.translate(_COMMAS).split(b",")
    cost += DIGIT * sum([length for length in map(len, words) if length > 16])
    if marks.count(b"e") + marks.count(b"E") > marks.count(b"true") + marks.count(b"false"):
        for exponent in _EXPONENT.findall(marks):
            cost += LARGE_EXPONENT if len(exponent) > 2 else EXPONENT
    return cost


class Decoding:
    """Decodes JSON texts that came in one request or answer: all together may take `most`
    nanoseconds."""

    __slots__ = ("_left", "_size")

    def __init__(self, most: int = LONGEST) -> None:
        self._left = most
        self._size = 0

    def __call__(self, text: str | bytes) -> Any:
        """Raises ValueError where it is no JSON, is nested too deeply, or takes too long."""
        data = text.encode("utf-8", "replace") if isinstance(text, str) else text
        self._size += len(data)
        if self._size > SHORT:
            self._left -= decoding_cost(data, self._left)
            if self._left < 0:
                raise ValueError("the JSON takes too long to decode")
        try:
            return msgspec.json.decode(data)
        except RecursionError:
            raise ValueError("the JSON is nested too deeply") from None


def decoded(text: str | bytes) -> Any:
    """A JSON text's value. Raises ValueError as `Decoding` does."""
    return Decoding()(text)
