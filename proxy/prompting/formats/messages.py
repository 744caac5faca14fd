"""Answers that consist of messages, each with a header that says what it is::

    MESSAGE (end start MESSAGE)*      MESSAGE = HEADER message TEXT

The prompt ends with ``start``. An end is one only if another message or nothing follows, and in
the answer's text a mark in code is text. An answer that does not begin with a header is text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct

from .base import Tools
from .reader import Body, CallReader, Malformed, Reading, ReasoningPiece, TextPiece, Wait

_BREAK = "\n\n"
"""Between two messages of text, or of reasoning."""


class Header(Struct, frozen=True, kw_only=True):
    """What a message is: "other" is for nobody here. A call has the name of its tool."""

    kind: Literal["text", "reasoning", "call", "other"]
    name: str = ""


def messages(
    *,
    start: str,
    openings: Sequence[str],
    message: str,
    ends: Sequence[str],
    header: Callable[[str, Tools], Header],
    read: Callable[[CallReader, Tools, str], Wait],
) -> Callable[[Tools], Body]:
    """The body of such a format. A header begins with one of `openings`, behind white space;
    ``read`` reads the call of a named tool and raises Malformed if there is none."""

    def one_header(reader: CallReader, tools: Tools) -> Reading[Header]:
        at = reader.position
        yield from reader.spaces()
        if (yield from reader.look(openings)) is None:
            raise Malformed
        reader.call_at = at
        return header((yield from reader.until(message)), tools)

    def end(reader: CallReader, tools: Tools) -> Reading[Header | None]:
        """Behind the end of a message: the header of the next one, None at the end."""
        yield from reader.spaces()
        if not (yield from reader.more()):
            return None
        yield from reader.expect(start)
        return (yield from one_header(reader, tools))

    def body(tools: Tools) -> Body:
        def run(reader: CallReader) -> Wait:
            last: Header | None = Header(kind="text")
            try:
                reader.keep()
                last = yield from one_header(reader, tools)
            except Malformed:
                reader.rewind()
            written: set[str] = set()
            while last is not None:
                last = yield from rest(reader, tools, last, written)

        def rest(
            reader: CallReader, tools: Tools, now: Header, written: set[str]
        ) -> Reading[Header | None]:
            """Reads a message behind its header, up to the next header."""
            reader.begin_text(ReasoningPiece if now.kind == "reasoning" else TextPiece)
            if now.kind == "call":
                reader.keep()
                try:
                    yield from read(reader, tools, now.name)
                except Malformed:
                    reader.degrade()
            elif now.kind == "other":
                return (yield from other(reader, tools))
            elif now.kind in written and (yield from reader.more()):
                reader.text(_BREAK)
            written.add(now.kind)
            while (yield from reader.text_until((), ends)):
                try:
                    return (yield from end(reader, tools))
                except Malformed:
                    reader.degrade()
            return None

        def other(reader: CallReader, tools: Tools) -> Reading[Header | None]:
            """Drops a message."""
            while (yield from reader.more()):
                if (yield from reader.skip_one(ends)):
                    try:
                        return (yield from end(reader, tools))
                    except Malformed:
                        continue
                yield from reader.char()
            return None

        return run

    return body
