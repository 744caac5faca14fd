"""Contents in parts. The texts of a message form one content, joined with line breaks as
llama-server and vLLM do; each text, image or sound has its offset in it. Thoughts are apart from
it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct, structs

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

    def say(self, text: str) -> None:
        self._texts.append(text)
        self._begins.append(self._length)
        self._length += len(text) + 1

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


# Documents within messages: Anthropic's `document` blocks, also in the result of a tool, the
# `input_file` parts of the Responses API, and the `file` parts of chats. The text of each replaces
# it in the body before that is parsed. An unreadable one leaves a note: clients repeat the whole
# conversation, so a refusal would end it for good.

# Names for files without one, by media type.
_OFFICE = "application/vnd.openxmlformats-officedocument."
ENDS = {
    "application/pdf": "pdf",
    "application/json": "json",
    "application/epub+zip": "epub",
    f"{_OFFICE}wordprocessingml.document": "docx",
    f"{_OFFICE}spreadsheetml.sheet": "xlsx",
    f"{_OFFICE}presentationml.presentation": "pptx",
    "text/csv": "csv",
    "text/html": "html",
    "text/markdown": "md",
    "text/plain": "txt",
}
LONGEST_NAME = 200  # characters


class Attachment(Struct, frozen=True):
    """A document in a body: the part that is replaced, its text field, and where its bytes are: in
    `data` as base64, in the uploaded file `file_id`, or at a `url`. `name` has an end that tells
    its format."""

    part: dict[str, Any]
    name: str
    data: str = ""
    file_id: str = ""
    url: str = ""

    def replace(self, text: str) -> None:
        kind = self.part["type"]
        if kind == "document":
            self.part["source"] = {"type": "text", "media_type": "text/plain", "data": text}
            self.part.setdefault("title", self.name)
            return
        self.part.clear()
        kind = "input_text" if kind == "input_file" else "text"
        self.part.update(type=kind, text=f"{self.name}\n\n{text}\n")


def attachments(content: Any) -> Iterator[Attachment]:
    """The documents of a message, in order. Parts of a wrong type are left to the parser."""
    for part in content if type(content) is list else ():
        match part:
            case {"type": "tool_result" | "mcp_tool_result"}:
                yield from attachments(part.get("content"))
            case {"type": "document", "source": {"type": "base64" | "file" | "url"} as source}:
                data, media = _text(source, "data"), _text(source, "media_type")
                name = _named(_text(part, "title"), media)
                yield Attachment(part, name, data, _text(source, "file_id"), _text(source, "url"))
            case {"type": "input_file"}:
                yield _file(part, part)
            case {"type": "file", "file": dict(file)}:
                yield _file(part, file)


def _file(part: dict[str, Any], file: dict[str, Any]) -> Attachment:
    data, media = _text(file, "file_data"), ""
    if data.startswith("data:"):
        head, _, data = data.partition(",")
        media = head[5:].partition(";")[0]
    name = _named(_text(file, "filename"), media)
    return Attachment(part, name, data, _text(file, "file_id"), _text(file, "file_url"))


def _text(body: Body, name: str) -> str:
    value = body.get(name)
    return value if type(value) is str else ""


def _named(name: str, media: str) -> str:
    """A name on one line, whose end is that of the media type, if there is one."""
    name = "".join(char if char.isprintable() else " " for char in name).strip()[-LONGEST_NAME:]
    end = ENDS.get(media.lower(), "")
    # A text may have any name, and says more about its format than "plain".
    if not end or name.lower().endswith(f".{end}") or (end == "txt" and "." in name):
        return name or "document"
    return f"{name or 'document'}.{end}"
