"""The output of tool-call parsers: text, and calls in parts."""

from __future__ import annotations

from msgspec import Struct


class TextPiece(Struct, frozen=True):
    """Text of the answer."""

    text: str


class CallStart(Struct, frozen=True):
    """A call begins; ``index`` counts the calls of a reply from 0."""

    index: int
    name: str


class CallArguments(Struct, frozen=True):
    """A part of the arguments' JSON text; the parts of a complete call join to an object."""

    index: int
    text: str


class CallEnd(Struct, frozen=True):
    """A call ends. ``whole`` is False if the reply ended or became malformed within its
    arguments."""

    index: int
    whole: bool = True


Piece = TextPiece | CallStart | CallArguments | CallEnd
