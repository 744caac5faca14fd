"""Estimates the cost of decoding JSON before it is decoded.

msgspec decodes in one call, during which no other thread runs: a body of 32 MB can block every
stream for ten seconds. The time depends on what is outside the strings, and on escapes, which are
counted in pieces. Most texts are far below the limit even if the contents of their strings are
counted as well, which takes a fraction of the time. The weights are nanoseconds of msgspec 0.20 on
a slow core, each the worst that was measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

PIECE = 64 << 10  # bytes
SHORT = 64 << 10  # bytes that never block for long, whatever they are
QUICK = 1 << 20  # bytes that can be counted in one go
LONGEST = 50_000_000  # nanoseconds that decoding a text may take
SURE = LONGEST // 100  # bytes that `decode_sure` decodes in that time, whatever they are

VALUE = 35  # a number of 16 digits, or any other value between commas
STRING = 140
NAME = 110  # of a field, in addition to its string
CONTAINER = 180
ESCAPE = 6  # as in \n
CODE = 12  # as in \u1234, in addition to an escape
BYTE = 1.4  # outside the strings
WIDE = 3  # a byte of non-ASCII text; later work on such a text takes as long again
DIGIT = 25  # each digit of a number beyond 16
EXPONENT = 1_100
LARGE_EXPONENT = 10_000  # of three digits, as in 1.5e300

_DIGITS = b"0123456789"
_DIGITS_AND_E = bytes.maketrans(_DIGITS + b"E", b"0" * len(_DIGITS) + b"e")
_UNCOUNTED = bytes(set(range(256)) - set(b'"\\,:{[' + _DIGITS))
_BLANKS = b" \t\r\n"
_COMMAS = bytes.maketrans(b"[]{}:", b",,,,,")
_EXPONENT = re.compile(rb"[0-9.][eE][-+]?([0-9]+)")


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("Number out of range")
    return value


# Python converts numbers with a fraction or an exponent: a quarter of a microsecond each, where
# msgspec takes up to 10. The worst are then lists in lists, 91 ns a byte.
decode_sure: Callable[[bytes], Any] = msgspec.json.Decoder(float_hook=_number).decode


def is_dear(data: bytes, most: int = LONGEST) -> bool:
    """Whether decoding may take longer than `most` nanoseconds. Takes up to 50 ns a byte itself."""
    return not is_clearly_cheap(data, most) and decoding_cost(data, most) > most


def is_clearly_cheap(data: bytes, most: int = LONGEST) -> bool:
    """Whether decoding takes at most so many nanoseconds wherever the strings in a text of up to
    QUICK bytes begin and end. Takes up to 3 ns a byte itself."""
    if not SHORT < len(data) <= QUICK:
        return len(data) <= SHORT
    counted = data.translate(None, _UNCOUNTED)
    marks = counted.translate(None, _DIGITS)
    digits = len(counted) - len(marks)
    cost = BYTE * len(data) + DIGIT * digits * 4 / 3  # for 13 digits, a point, an e and two signs
    cost += STRING * marks.count(b'"') / 2 + (ESCAPE + CODE) * marks.count(b"\\")
    cost += VALUE * marks.count(b",") + CONTAINER * (marks.count(b"{") + marks.count(b"["))
    cost += NAME * marks.count(b":") + (0 if data.isascii() else WIDE * len(data))
    if cost + LARGE_EXPONENT * digits / 4 <= most:  # a large exponent is four digits, as in 1e300
        return True
    return cost + LARGE_EXPONENT * data.translate(_DIGITS_AND_E).count(b"0e") <= most


def decoding_cost(data: bytes, most: int) -> int:
    """The maximum cost in nanoseconds. Counting ends once it exceeds `most`."""
    cost = 0
    rest = b""  # a backslash at the end of a piece
    text = False  # whether a piece begins within a string
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
    cost = VALUE * marks.count(b",") + CONTAINER * (marks.count(b"{") + marks.count(b"["))
    cost += NAME * marks.count(b":")
    words = marks.translate(_COMMAS).split(b",")
    cost += DIGIT * sum([length for length in map(len, words) if length > 16])
    if marks.count(b"e") + marks.count(b"E") > marks.count(b"true") + marks.count(b"false"):
        for exponent in _EXPONENT.findall(marks):
            cost += LARGE_EXPONENT if len(exponent) > 2 else EXPONENT
    return cost


class Decoding(Struct, eq=False):
    """Decodes the JSON texts of one request or answer, which together may take as many nanoseconds
    as are `left`."""

    left: int = LONGEST
    size: int = 0

    def __call__(self, text: str | bytes) -> Any:
        """Raises ValueError if it is not JSON, is nested too deeply, or takes too long."""
        data = text.encode("utf-8", "replace") if isinstance(text, str) else text
        self.size += len(data)
        if self.size > SHORT:
            self.left -= decoding_cost(data, self.left)
            if self.left < 0:
                raise ValueError("the JSON takes too long to decode")
        try:
            return msgspec.json.decode(data)
        except RecursionError:
            raise ValueError("the JSON is nested too deeply") from None


def decoded(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError like `Decoding`."""
    return Decoding()(text)


def decoded_object(text: str | bytes) -> dict[str, Any] | None:
    """The object of a JSON text, {} of an empty one; None if it is no object."""
    try:
        value = decoded(text or "{}")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
