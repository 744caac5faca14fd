"""Contents in parts, shared by OpenAI's dialects.

The texts of a message form one content, joined with line breaks as llama-server and vLLM do; each
text, image or sound has its offset in that content. Thoughts are apart from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec import Struct, structs

from ..core.request import Media
from ..errors import InvalidParameter
from .fields import Body, bounded, entry, required, text


class Thought(Struct, frozen=True):
    """A part that is the model's reasoning."""

    text: str


Reader = Callable[[Body, str], str | Media | Thought]
"""Parses a part of one type; takes the part and its path."""


class Content(NamedTuple):
    """The text, media and parts of a `Message`, and the thoughts among its parts."""

    text: str = ""
    media: tuple[Media, ...] = ()
    parts: tuple[int, ...] = ()
    thought: str = ""


def content(value: Any, at: str, readers: Mapping[str, Reader], kinds: str) -> Content:
    """Parses a string, null, or a list of parts, each with the reader of its `type`. `kinds` lists
    the types for the error message. Raises InvalidParameter."""
    if value is None:
        return Content()
    if type(value) is str:
        return Content(value)
    if not isinstance(value, list):
        raise InvalidParameter(at, "must be a string, null or a list of parts")
    bounded(value, at)
    texts: list[str] = []
    thoughts: list[str] = []
    media: list[Media] = []
    begins: list[int] = []
    length = 0  # of the texts, each with a line break
    for i, raw in enumerate(value):
        path = f"{at}[{i}]"
        part = entry(raw, path)
        path += "."
        reader = readers.get(text(part, "type", at=path))
        if reader is None:
            raise InvalidParameter(path + "type", f"must be {kinds}")
        read = reader(part, path)
        if isinstance(read, str):
            texts.append(read)
            begins.append(length)
            length += len(read) + 1
        elif isinstance(read, Media):
            media.append(structs.replace(read, at=max(0, length - 1)))
        else:
            thoughts.append(read.text)
    several = tuple(begins) if len(begins) > 1 else ()
    return Content("\n".join(texts), tuple(media), several, "\n".join(thoughts))


def text_reader(name: str) -> Reader:
    """A reader for parts whose text is in the field `name`. It may be empty, but not absent."""
    return lambda part, at: required(part, name, at)
