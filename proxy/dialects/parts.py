"""Contents in parts and runs of messages, shared by OpenAI's and Anthropic's dialects.

The texts of a message form one content; each image or sound has its offset in that content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import structs

from ..core.request import Media
from ..errors import InvalidParameter
from .fields import Body, bounded, entry, required, text

Reader = Callable[[Body, str], str | Media]
"""Parses a part of one type; takes the part and its path."""


def content(
    value: Any, at: str, readers: Mapping[str, Reader], kinds: str
) -> tuple[str, tuple[Media, ...]]:
    """Parses a string, null, or a list of parts, each with the reader of its `type`. `kinds` lists
    the types for the error message. Raises InvalidParameter."""
    if value is None:
        return "", ()
    if type(value) is str:
        return value, ()
    if not isinstance(value, list):
        raise InvalidParameter(at, "must be a string, null or a list of parts")
    bounded(value, at)
    joined_text = ""
    media: list[Media] = []
    for i, raw in enumerate(value):
        path = f"{at}[{i}]"
        part = entry(raw, path)
        path += "."
        reader = readers.get(text(part, "type", at=path))
        if reader is None:
            raise InvalidParameter(path + "type", f"must be {kinds}")
        read = reader(part, path)
        if isinstance(read, Media):
            media.append(structs.replace(read, at=len(joined_text)))
        else:
            joined_text += read
    return joined_text, tuple(media)


def text_reader(name: str) -> Reader:
    """A reader for parts whose text is in the field `name`. It may be empty, but not absent."""
    return lambda part, at: required(part, name, at)
