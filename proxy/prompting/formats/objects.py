"""Reads and writes the arguments of calls, and calls that are JSON objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from ...gbnf.json_types import ALL_TYPES, type_of, types_named
from .base import NAME, CallShape, Tools
from .reader import MAX_HELD, MAX_NAME, CallReader, Held, Malformed, Reading, Wait
from .scanner import is_json

# Calls that are JSON objects, {"name": …, "arguments": {…}} and variants.

_OTHERS = frozenset({"type", "id", "index", "tool_call_id", "call_id"})
_NO_CALLS = frozenset({"directly-answer", "directly_answer"})
"""The pseudo tool that Command R calls if it needs none."""


class Keys(Struct, frozen=True):
    name: frozenset[str] = frozenset({"name", "tool_name", "function", "function_name"})
    arguments: frozenset[str] = frozenset({"arguments", "parameters", "args", "input"})


_USUAL = Keys()


class _Call:
    """A call whose members are being read. With `tools`, only calls of these are accepted,
    and a key that calls do not have is Malformed."""

    def __init__(self, tools: Tools | None, keys: Keys) -> None:
        self.tools = tools
        self.keys = keys
        self.name = ""
        self.waiting: str | None = None  # arguments read before the name
        self.done = False

    def emit(self, reader: CallReader, arguments: str) -> None:
        if self.name in _NO_CALLS:
            reader.keep()
        else:
            reader.call(self.name, arguments)
        self.done = True

    def members(self, reader: CallReader) -> Wait:
        """Reads the members of an object up to its end; its "{" has been read."""
        if (yield from reader.skip(" }")):
            return
        while True:
            key = yield from read_string(reader)
            yield from reader.expect(" :")
            yield from reader.spaces()
            yield from self._member(reader, key)
            if not (yield from reader.skip(" ,")):
                yield from reader.expect("}")
                return

    def _member(self, reader: CallReader, key: str) -> Wait:
        char = yield from reader.peek()
        if key == "function" and char == "{" and not self.done:
            yield from reader.expect("{")
            yield from self.members(reader)
        elif key in self.keys.name and char == '"' and not self.name:
            self.name = yield from read_string(reader)
            if self.tools is not None and self.name not in self.tools:
                raise Malformed
            if self.waiting is not None:
                self.emit(reader, self.waiting)
        elif key in self.keys.arguments and not self.done:
            yield from self._arguments(reader, char)
        elif self.tools is not None and not self.done and key not in _OTHERS:
            raise Malformed
        else:
            yield from reader.value(lambda text: None)

    def _arguments(self, reader: CallReader, char: str) -> Wait:
        if char == "{" and self.name and self.name not in _NO_CALLS:
            yield from read_arguments(reader, self.name)
            self.done = True
            return
        parts: list[str] = []
        yield from reader.value(parts.append)
        text = "".join(parts)
        if char == '"':
            # Some models write the arguments as JSON in a string, like the API.
            text = json.loads(text).strip()
        if text in ("", "null"):
            text = "{}"
        if not (is_json(text) and text.lstrip().startswith("{")):
            raise Malformed
        self.waiting = text
        if self.name:
            self.emit(reader, text)


def read_object(
    reader: CallReader, tools: Tools | None = None, opened: bool = False, keys: Keys = _USUAL
) -> Wait:
    """Reads one call object (``opened``: its "{" has been read)."""
    call = _Call(tools, keys)
    if not opened:
        yield from reader.expect(" {")
    yield from call.members(reader)
    if not call.done:
        if not call.name:
            raise Malformed
        call.emit(reader, call.waiting or "{}")


def read_list(reader: CallReader, tools: Tools | None = None, keys: Keys = _USUAL) -> Wait:
    yield from reader.expect(" [")
    if (yield from reader.skip(" ]")):
        return
    while True:
        yield from read_object(reader, tools, keys=keys)
        if not (yield from reader.skip(" ,")):
            yield from reader.expect("]")
            return


def read_string(reader: CallReader) -> Reading[str]:
    parts = Held(MAX_NAME)
    yield from reader.spaces()
    if (yield from reader.peek()) != '"':
        raise Malformed
    yield from reader.value(parts.add)
    return str(json.loads("".join(parts)))


def read_named(reader: CallReader, tools: Tools) -> Wait:
    """Reads a call that is a line with the name of a known tool, and its arguments below."""
    yield from read_arguments(reader, (yield from read_name(reader, tools)))


def read_name(reader: CallReader, tools: Tools) -> Reading[str]:
    """Takes a line that is the name of a known tool."""
    name = yield from reader.skip_one(sorted(f"{name}\n" for name in tools))
    if name is None:
        raise Malformed
    return name[:-1]


def read_arguments(reader: CallReader, name: str) -> Wait:
    """Reads the arguments of a call of ``name``, a JSON object, as they stream."""
    yield from reader.spaces()
    if (yield from reader.peek()) != "{":
        raise Malformed
    reader.start(name)
    yield from reader.value(reader.arguments)
    reader.finish()


# Arguments that models write between tags: text that becomes JSON of the type in the schema.
#
# Where the schema allows strings and more, the text is JSON if that has another type that the
# schema allows, else a string.

STRING = frozenset({"string"})
WORDS = {"True": "true", "False": "false", "None": "null"}
_MAX_NESTED = 16


def typed_until(reader: CallReader, close: str, allowed: frozenset[str]) -> Wait:
    """Takes an argument of these types up to `close`, and `close`. Strings stream."""
    if allowed == STRING:
        yield from quoted_until(reader, close, reader.arguments)
    else:
        reader.arguments(typed((yield from reader.until(close, MAX_HELD)), allowed))


def typed(text: str, allowed: frozenset[str]) -> str:
    """An argument as JSON of one of these types, if it can be."""
    value = WORDS.get(text.strip(), text.strip())
    if allowed == STRING or not is_json(value):
        return quoted(text)
    # As JSON a string is no other type.
    other = not value.startswith('"') and type_of(json.loads(value)) in allowed
    return value if other or "string" not in allowed else quoted(text)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def inside(text: str) -> str:
    """The text as it stands inside a JSON string."""
    return quoted(text)[1:-1]


def quoted_until(reader: CallReader, mark: str, sink: Callable[[str], None]) -> Wait:
    """Passes the text up to `mark` to the sink as a JSON string, and takes the mark."""
    sink('"')
    yield from stream_until(reader, mark, lambda text: sink(inside(text)))
    sink('"')


def stream_until(reader: CallReader, mark: str, sink: Callable[[str], None]) -> Wait:
    """Passes the text up to `mark` to the sink as it streams, and takes the mark."""
    if not (yield from reader.up_to(mark, sink)):
        raise Malformed


def member(schema: Any, key: str, root: Any) -> Any:
    """The schema of a member of an object; True if there is none."""
    others: Any = True
    for part in _parts(schema, root):
        properties, more = part.get("properties"), part.get("additionalProperties")
        if isinstance(properties, Mapping) and key in properties:
            return properties[key]
        if others is True and isinstance(more, Mapping):
            others = more
    return others


def items(schema: Any, root: Any) -> Any:
    return next(
        (p["items"] for p in _parts(schema, root) if isinstance(p.get("items"), dict)), True
    )


def kinds(schema: Any, root: Any, depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema allows; all if that is not clear."""
    schema = _resolved(schema, root)
    if not isinstance(schema, Mapping) or depth > _MAX_NESTED:
        return ALL_TYPES
    allowed = types_named(schema.get("type")) or ALL_TYPES
    if schema.get("nullable") is True:
        allowed |= {"null"}
    if "const" in schema:
        allowed &= {type_of(schema["const"])}
    if isinstance(schema.get("enum"), list):
        allowed &= {*map(type_of, schema["enum"])}
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            parts = (kinds(part, root, depth + 1) for part in schema[word])
            allowed &= frozenset().union(*parts)
    if isinstance(schema.get("allOf"), list):
        for part in schema["allOf"]:
            allowed &= kinds(part, root, depth + 1)
    return allowed or ALL_TYPES


def _parts(schema: Any, root: Any, depth: int = 0) -> list[Mapping[str, Any]]:
    """A schema and its alternatives, references resolved."""
    schema = _resolved(schema, root)
    if not isinstance(schema, Mapping) or depth > _MAX_NESTED:
        return []
    parts = [schema]
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(word), list):
            for part in schema[word]:
                parts += _parts(part, root, depth + 1)
    return parts


def _resolved(schema: Any, root: Any) -> Any:
    """A schema without references: True where one leads nowhere."""
    for _ in range(_MAX_NESTED):
        if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
            return schema
        target = root
        for name in schema["$ref"].removeprefix("#").strip("/").split("/"):
            name = name.replace("~1", "/").replace("~0", "~")
            if name:
                target = target.get(name) if isinstance(target, Mapping) else None
        schema = True if target is None else target
    return True


# Writes calls in the form of a shape.


def write_calls(shape: CallShape, *calls: tuple[str, Mapping[str, Any]]) -> str:
    texts = [
        shape.before_name
        + name
        + shape.after_name.replace(NAME, name)
        + write_arguments(shape, arguments)
        + shape.suffix
        for name, arguments in calls
    ]
    return shape.prefix + shape.separator.join(texts) + shape.end


def write_arguments(shape: CallShape, arguments: Mapping[str, Any]) -> str:
    tags = shape.tagged
    if tags is None:
        return json.dumps(arguments, ensure_ascii=False)
    written = []
    for key, value in arguments.items():
        before, after = tags.around(key, type_of(value))
        is_text = isinstance(value, str) and not tags.json_text
        text = value if is_text else json.dumps(value, ensure_ascii=False)
        written.append(before + text + after)
    return tags.separator.join(written)
