"""What a parser tells of a reply, piece by piece."""

from __future__ import annotations

from msgspec import Struct


class TextPiece(Struct, frozen=True):
    """Text of the answer."""

    text: str


class ReasoningPiece(Struct, frozen=True):
    """Text of the reasoning, from formats that read the whole answer."""

    text: str


class CallStart(Struct, frozen=True):
    """A call begins; ``index`` counts the calls of a reply from 0. ``id`` is the model's own, if it
    writes one before the arguments."""

    index: int
    name: str
    id: str = ""


class CallArguments(Struct, frozen=True):
    """A part of the arguments' JSON text; the parts of a complete call join to an object."""

    index: int
    text: str


class CallEnd(Struct, frozen=True):
    """A call ends. ``whole`` is False if the reply ended or became malformed within its
    arguments."""

    index: int
    whole: bool = True


Piece = TextPiece | ReasoningPiece | CallStart | CallArguments | CallEnd


class Opening(Struct, frozen=True):
    """A mark that opens a call; ``end`` is the position behind it in the reply."""

    end: int
    mark: str


class Malformed(Exception):
    """The text read is not a call."""
