"""The streaming parser of a call shape.

It follows the literals of the shape, with any white space between them. Calls are JSON objects,
with members in any order, or names with JSON arguments or tagged ones.
"""

from __future__ import annotations

import re

from .base import ID, CallFormat, CallShape, TaggedArguments, Tools, text_with_marks
from .objects import (
    STRING,
    Keys,
    inside,
    kinds,
    member,
    quoted,
    read_arguments,
    read_list,
    read_object,
    stream_until,
    typed,
)
from .reader import MAX_HELD, CallReader, Held, Malformed, Reading, Wait
from .scanner import common_end, is_json

_TOKEN = re.compile(r"<[^<>\s]*>?|\[/?[A-Z_]+\]|[\[\]{}]|[^\s<\[\]{}]+")
_MARK = re.compile(r"<[^<>\s]*[>=]|<[^<>]*?=\"?|\[[A-Z_]+\]|\w+:(?=\s)|\w+\[")
_OBJECT = re.compile(r'\{[^{}]*(?:"function"\s*:\s*\{[^{}]*)?"\w+"\s*:\s*"\Z')
_NAME_KEY = re.compile(r'"(\w+)"\s*:\s*"\Z')
_ARGUMENTS_KEY = re.compile(r'"(\w+)"\s*:\s*\Z')
_CONTROL = ("[", "<|", "<｜")
_NAME_SIGNS = "_-./:$@"
_CDATA, _CDATA_END = "<![CDATA[", "]]>"


def shaped(shape: CallShape, name: str = "derived") -> CallFormat:
    """The format of calls with this shape."""
    opening = openings(shape)
    reader = ShapeReader(shape)
    # A control token is not printed by some servers.
    may_lack = not opening or (reader.is_object and opening[0].startswith(_CONTROL))
    return CallFormat(
        name=name,
        opening=opening,
        shape=shape,
        binds=shape.tagged is None or not shape.tagged.cdata,  # a grammar knows no CDATA
        body=text_with_marks(opening, reader.read, reader.read_at_start if may_lack else None),
    )


def openings(shape: CallShape) -> tuple[str, ...]:
    """The marks before the name: models leave the first out at times. None if calls are JSON."""
    lead = shape.prefix + shape.before_name
    marks: list[str] = []
    at = 0
    while mark := _MARK.match(lead, at):
        if not marks or mark.group()[0] in "<[":
            marks.append(mark.group())
        at = mark.end() + len(lead[mark.end() :]) - len(lead[mark.end() :].lstrip())
    return tuple(dict.fromkeys(marks))


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)


class ShapeReader:
    """Reads calls of this shape, behind a mark or without one."""

    def __init__(self, shape: CallShape) -> None:
        self._shape = shape
        self._lead = lead = shape.prefix + shape.before_name
        begins = _OBJECT.search(lead)
        self.is_object = begins is not None and shape.tagged is None
        self._object_at = begins.start() if begins else 0
        usual = Keys()
        self._keys = Keys(
            usual.name.union(_NAME_KEY.findall(lead)),
            usual.arguments.union(_ARGUMENTS_KEY.findall(shape.after_name)),
        )
        self._after_name = _tokens(shape.after_name)
        self._suffix = _tokens(shape.suffix)
        self._separator = _tokens(shape.separator)
        self._before_name = _tokens(shape.before_name)
        self._end = _tokens(shape.end)
        # The suffix without what belongs to a JSON object itself.
        self._closing = _tokens(shape.suffix[shape.suffix.rfind("}") + 1 :])
        self._tagged = _Tagged(shape, shape.tagged) if shape.tagged is not None else None

    def read(self, reader: CallReader, tools: Tools, mark: str) -> Wait:
        rest = self._lead.partition(mark)[2]
        if not self.is_object:
            yield from reader.spaces()
            if self._shape.tagged is not None and (yield from reader.peek()) in ("{", "["):
                # Some models of such a format write JSON between its marks at times.
                yield from self._read_objects(reader)
                return
            yield from _literals(reader, _tokens(rest))
            yield from self._read_named(reader, tools)
            return
        opened = len(self._lead) - len(rest)
        before = _tokens(self._lead[opened : self._object_at])
        yield from _optional(reader, [token for token in before if token != "["])
        yield from self._read_objects(reader)

    def read_at_start(self, reader: CallReader, tools: Tools) -> Wait:
        """Reads calls without marks, of known tools."""
        if not self.is_object:
            yield from _literals(reader, _tokens(self._lead))
            yield from self._read_named(reader, tools)
            return
        yield from self._read_objects(reader, tools)
        if not reader.behind_call:
            raise Malformed

    # Calls that are JSON objects

    def _read_objects(self, reader: CallReader, tools: Tools | None = None) -> Wait:
        """Reads calls; with `tools`, only of these."""
        calls = reader.calls
        while True:
            yield from reader.spaces()
            char = yield from reader.peek()
            try:
                if char == "[":
                    yield from read_list(reader, tools, self._keys)
                elif char == "{":
                    yield from read_object(reader, tools, keys=self._keys)
                else:
                    raise Malformed
            except Malformed:
                # Models often omit the last brace; the marks are not text either way.
                if reader.calls == calls or tools is not None:
                    raise
                break
            yield from _optional(reader, self._closing)
            yield from _optional(reader, self._separator)
            yield from reader.skip(" ,")
            yield from reader.spaces()
            if (yield from reader.peek()) != "{":
                break
        yield from _optional(reader, [*self._closing, *self._end])

    # Calls with a name between literals

    def _read_named(self, reader: CallReader, tools: Tools) -> Wait:
        first = self._before_name[:1]
        while True:
            name = yield from self._name(reader)
            if self._tagged is None:
                yield from self._after(reader)
                yield from read_arguments(reader, name)
                yield from _optional(reader, self._suffix)
            else:
                yield from _literals(reader, self._after_name)
                yield from self._tagged.read(reader, tools, name)
            yield from _optional(reader, self._separator)
            if not first or not (yield from reader.skip(" " + first[0])):
                break
            yield from _literals(reader, self._before_name[1:])
        yield from _optional(reader, self._end)

    def _name(self, reader: CallReader) -> Reading[str]:
        after = self._shape.after_name.lstrip()[:1]
        name = yield from reader.run(
            lambda char: char != after and (char.isalnum() or char in _NAME_SIGNS)
        )
        if not name:
            raise Malformed
        return name

    def _after(self, reader: CallReader) -> Wait:
        """Reads what is between the name and JSON arguments; some models leave parts of it out."""
        for token in self._after_name:
            yield from reader.spaces()
            if (yield from reader.peek()) == "{":
                return
            yield from _literal(reader, token)


def _literals(reader: CallReader, tokens: list[str]) -> Wait:
    for token in tokens:
        if not (yield from _literal(reader, token)):
            raise Malformed


def _optional(reader: CallReader, tokens: list[str]) -> Wait:
    for token in tokens:
        yield from _literal(reader, token)


def _literal(reader: CallReader, token: str) -> Reading[bool]:
    """Takes a literal, and the id of the call within it; False if it does not come."""
    for at, part in enumerate(token.split(ID)):
        if at:
            reader.call_id = yield from reader.run(lambda char: char.isalnum() or char in "_-")
        if part and not (yield from reader.skip(part if at else " " + part)):
            return False
    return True


class _Tagged:
    """Reads tagged arguments, up to the end of the call."""

    def __init__(self, shape: CallShape, tags: TaggedArguments) -> None:
        self._key = _tokens(tags.before_key)
        self._key_end, *self._after_key = _tokens(tags.after_key)
        # Where the model says whether a value is a text: the end of that, and its words for it.
        self._says_end = common_end(tags.after_key, tags.text_after_key)
        says = tags.text_after_key.removesuffix(self._says_end)
        self._says_text = says.removeprefix(self._key_end).strip()
        self._between = _tokens(tags.separator)
        self._suffix = _tokens(shape.suffix)
        self._value_end = tags.after_value.strip()
        self._takes_cdata = tags.cdata
        self._line_before = "\n" if tags.after_key.endswith("\n") else ""
        self._line_behind = "\n" if tags.after_value.startswith("\n") else ""
        self._next = [*self._between[:1], *self._key[:1], *self._suffix[:1]]

    def read(self, reader: CallReader, tools: Tools, name: str) -> Wait:
        parameters = tools.get(name, {})
        before = "{"
        while (yield from self._has_argument(reader, first=before == "{")):
            key = (yield from reader.until(self._key_end)).strip()
            is_text = yield from self._says_is_text(reader)
            if before == "{":
                reader.start(name)
            reader.arguments(f"{before}{quoted(key)}: ")
            before = ", "
            allowed = kinds(member(parameters, key, parameters), parameters)
            yield from self._value(reader, allowed, is_text)
        for token in self._suffix[:1]:
            yield from reader.expect(" " + token)
        for token in self._suffix[1:]:
            yield from reader.skip(" " + token)
        if before == "{":
            reader.call(name, "{}")
        else:
            reader.arguments("}")
            reader.finish()

    def _has_argument(self, reader: CallReader, *, first: bool) -> Reading[bool]:
        if not first:
            for token in self._between:
                yield from reader.skip(" " + token)
        head, *rest = self._key
        if not (yield from reader.skip(" " + head)):
            return False
        for token in rest:
            yield from reader.expect(" " + token)
        return True

    def _says_is_text(self, reader: CallReader) -> Reading[bool | None]:
        """Reads what is between a key and its value: whether it says that this is a text."""
        if self._says_text:
            return self._says_text in (yield from reader.until(self._says_end))
        for token in self._after_key:
            yield from reader.expect(" " + token)
        if self._line_before:
            yield from reader.skip(self._line_before)
        return None

    def _value(self, reader: CallReader, allowed: frozenset[str], is_text: bool | None) -> Wait:
        """A value of these types: a string streams, others are emitted when they are complete."""
        streams = allowed == STRING or (is_text is True and "string" in allowed)
        parts = Held(MAX_HELD)

        def sink(text: str) -> None:
            if streams:
                reader.arguments(inside(text))
            else:
                parts.add(text)

        if streams:
            reader.arguments('"')
        if self._takes_cdata and (yield from reader.skip(_CDATA)):
            yield from stream_until(reader, _CDATA_END, sink)
            yield from reader.expect(" " + self._value_end)
        else:
            while True:
                # The mark may be part of the value: it ends it only if the format continues behind.
                mark = yield from reader.up_to(self._value_end, sink, self._line_behind)
                if mark is None:
                    raise Malformed
                if (yield from reader.starts(self._next)):
                    break
                sink(mark)
        if streams:
            reader.arguments('"')
            return
        value = "".join(parts)
        says_json = is_text is False and value.strip().startswith('"') and is_json(value)
        reader.arguments(value.strip() if says_json else typed(value, allowed))
