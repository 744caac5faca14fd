"""Contents in parts. The texts of a message form one content, joined with line breaks as
llama-server and vLLM do; each text, image or sound has its offset in it. Thoughts are apart from
it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import structs

from ..core.request import Media, Message, Role
from ..errors import InvalidParameter
from .fields import Body, choice, entries, required, text

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",  # ChatGLM's name for tool results
}


def role_of(message: Body, names: Iterable[str], at: str) -> Role:
    """The role of a message, which has one of these names."""
    return ROLES[choice(message, "role", names, at=at)]


class Content:
    """What the parts that were read add up to."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._begins: list[int] = []
        self._length = 0  # of the texts, each with a line break
        self._media: list[Media] = []
        self.thoughts: list[str] = []

    @property
    def text(self) -> str:
        return "\n".join(self._texts)

    @property
    def is_empty(self) -> bool:
        return not (self._texts or self._media or self.thoughts)

    def say(self, said: str) -> None:
        self._texts.append(said)
        self._begins.append(self._length)
        self._length += len(said) + 1

    def show(self, media: Media) -> None:
        self._media.append(structs.replace(media, at=max(0, self._length - 1)))

    def message(self, role: Role, **fields: Any) -> Message:
        fields.setdefault("reasoning", "\n".join(self.thoughts))
        return Message(
            role=role,
            content=self.text,
            media=tuple(self._media),
            parts=tuple(self._begins) if len(self._begins) > 1 else (),
            **fields,
        )


PartReader = Callable[[Content, Body, str], None]
"""Reads a part of one type; takes what it adds to, the part, and the path of its fields."""


def text_reader(name: str) -> PartReader:
    """Reads parts whose text is in the field `name`. It may be empty, but not absent."""
    return lambda content, part, at: content.say(required(part, name, at))


def contents(value: Any, at: str, readers: Mapping[str, PartReader], kinds: str) -> Content:
    """Reads a string, null, or a list of parts by their `type`; errors tell the `kinds`."""
    content = Content()
    if type(value) is str:
        content.say(value)
    elif isinstance(value, list):
        for part, path in entries(value, at):
            reader = readers.get(text(part, "type", at=path))
            if reader is None:
                raise InvalidParameter(path + "type", f"must be {kinds}")
            reader(content, part, path)
    elif value is not None:
        raise InvalidParameter(at, "must be a string, null or a list of parts")
    return content
