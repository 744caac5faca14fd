"""Shared by all tool-call formats: parser, shape and format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from .reader import Body, CallReader, Malformed, Piece, TextPiece, Wait

Tools = Mapping[str, Mapping[str, Any]]
"""The tools of a request: names, each with the JSON schema of its arguments ({} if unknown)."""


class CallShape(Struct, frozen=True, kw_only=True):
    """The literal text around the calls of a reply, as models of the family write it::

        prefix CALL (separator CALL)* end
        CALL = before_name NAME after_name ARGUMENTS suffix

    NAME is unquoted; ARGUMENTS is a JSON object.
    """

    prefix: str = ""
    before_name: str = ""
    after_name: str = ""
    suffix: str = ""
    separator: str = ""
    end: str = ""
    parallel: bool = True
    """Whether a reply may contain more than one call."""


class Parser:
    """Parses one reply: ``feed`` it the text as it streams, then ``close`` it."""

    def __init__(self, body: Body) -> None:
        self._reader = CallReader()
        self._steps: Wait | None = body(self._reader)

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain after this text."""
        if not text:
            return []
        heads = self._reader.heads
        if heads is not None and heads.isdisjoint(text) and not text[-1].isspace():
            return [TextPiece(text)]
        self._reader.push(text)
        self._resume()
        return self._reader.drain()

    def close(self) -> list[Piece]:
        """The remaining pieces; a call that is cut off ends with ``whole=False``."""
        self._reader.end()
        self._resume()
        return self._reader.drain()

    def _resume(self) -> None:
        if self._steps is not None and next(self._steps, self) is self:
            self._steps = None


class CallFormat(Struct, frozen=True, kw_only=True):
    """A family's format of tool calls.

    ``opening`` are the texts that open a call inside free text: the gateway may stop there and
    continue under a grammar."""

    name: str
    opening: tuple[str, ...]
    shape: CallShape
    body: Callable[[Tools], Body]

    def parser(self, tools: Tools) -> Parser:
        """A streaming parser for one reply."""
        return Parser(self.body(tools))


def marked(
    marks: Sequence[str],
    read: Callable[[CallReader, Tools, str], Wait],
    at_start: Callable[[CallReader, Tools], Wait] | None = None,
) -> Callable[[Tools], Body]:
    """The body of a format with text, in which marks open calls.

    ``read`` continues after the mark. ``at_start`` may read a call without a mark at the beginning
    of the reply, recognised by the name of a known tool. Both raise Malformed if there is no
    call."""

    def body(tools: Tools) -> Body:
        def run(reader: CallReader) -> Wait:
            if at_start is not None:
                reader.keep()
                try:
                    yield from at_start(reader, tools)
                except Malformed:
                    reader.rewind()
            while mark := (yield from reader.text_until(marks)):
                try:
                    yield from read(reader, tools, mark)
                except Malformed:
                    reader.degrade()

        return run

    return body
