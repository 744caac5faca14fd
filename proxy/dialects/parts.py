"""Contents in parts, and messages in a row: what OpenAI's and Anthropic's dialects have in common.

The texts of a message are one content; images and sounds stand beside it, each with its place in
that content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import structs

from ..core.invalid import Invalid
from ..core.request import Media, Message
from .fields import Body, bounded, entry, text

Reader = Callable[[Body, str], str | Media]
"""Reads a part of one kind, at a place."""


def content(
    value: Any, at: str, readers: Mapping[str, Reader], kinds: str
) -> tuple[str, tuple[Media, ...]]:
    """Of a text, of null, or of a list of parts, by the reader of each part's `type`. `kinds` names
    the types for the error. Raises Invalid."""
    if value is None:
        return "", ()
    if type(value) is str:
        return value, ()
    if not isinstance(value, list):
        raise Invalid(at, "must be a string, null or a list of parts")
    bounded(value, at)
    said = ""
    media: list[Media] = []
    for i, raw in enumerate(value):
        here = f"{at}[{i}]"
        part = entry(raw, here)
        here += "."
        reader = readers.get(text(part, "type", at=here))
        if reader is None:
            raise Invalid(here + "type", f"must be {kinds}")
        read = reader(part, here)
        if isinstance(read, Media):
            media.append(structs.replace(read, at=len(said)))
        else:
            said += read
    return said, tuple(media)


def words(name: str) -> Reader:
    """Reads a part whose text is in this field."""
    return lambda part, at: text(part, name, at=at)


def joined(*run: Message) -> Message:
    """Messages of one role as one: templates want the roles to take turns."""
    if len(run) == 1:
        return run[0]
    media: list[Media] = []
    length = 0
    for one in run:
        if one.content:
            length += bool(length)  # for the line's end
        media += [structs.replace(m, at=m.at + length) for m in one.media]
        length += len(one.content)
    return structs.replace(
        run[0],
        content="\n".join(filter(None, (one.content for one in run))),
        reasoning="\n".join(filter(None, (one.reasoning for one in run))),
        tool_calls=tuple(call for one in run for call in one.tool_calls),
        media=tuple(media),
    )
