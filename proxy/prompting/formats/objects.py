"""Reads calls written as JSON objects, {"name": …, "arguments": {…}} and variants."""

from __future__ import annotations

import json

from msgspec import Struct

from .base import Tools
from .reader import MAX_NAME, CallReader, Held, Malformed, Reading, Wait
from .scanner import is_json

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
