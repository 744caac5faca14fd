"""Reads calls written as JSON objects, {"name": …, "arguments": {…}} and variants."""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct

from .base import Tools
from .reader import MAX_NAME, CallReader, Malformed, Reading, Wait
from .scanner import is_json

_NAMES = frozenset({"name", "tool_name", "function", "function_name"})
_ARGUMENTS = frozenset({"arguments", "parameters", "args", "input"})
_OTHERS = frozenset({"type", "id", "index", "tool_call_id", "call_id"})
_NO_CALLS = frozenset({"directly-answer", "directly_answer"})
"""The pseudo tool that Command R calls if it needs none."""


class Keys(Struct, frozen=True):
    """The keys of a call's name and arguments."""

    name: frozenset[str] = _NAMES
    arguments: frozenset[str] = _ARGUMENTS

    @classmethod
    def also(cls, name: str, arguments: str) -> Keys:
        """The usual keys, and those of a template."""
        return cls(_NAMES | {name}, _ARGUMENTS | {arguments})


_USUAL = Keys()


class _Call:
    def __init__(self, known: Tools | None, keys: Keys) -> None:
        self.known = known
        self.keys = keys
        self.name = ""
        self.waiting: str | None = None  # arguments read before the name
        self.done = False


def read_object(
    reader: CallReader, known: Tools | None = None, opened: bool = False, keys: Keys = _USUAL
) -> Wait:
    """Reads one call object (``opened``: its "{" has been read).

    With ``known`` only calls of these tools are accepted, and a key that calls do not have is
    Malformed."""
    call = _Call(known, keys)
    if not opened:
        yield from reader.expect(" {")
    yield from _members(reader, call)
    if not call.done:
        if not call.name:
            raise Malformed
        if call.name in _NO_CALLS:
            reader.keep()
            return
        reader.call(call.name, call.waiting or "{}")


def read_list(reader: CallReader, known: Tools | None = None, keys: Keys = _USUAL) -> Wait:
    """Reads a JSON list of call objects."""
    yield from reader.expect(" [")
    if (yield from reader.skip(" ]")):
        return
    while True:
        yield from read_object(reader, known, keys=keys)
        if not (yield from reader.skip(" ,")):
            yield from reader.expect("]")
            return


def read_string(reader: CallReader, limit: int = MAX_NAME) -> Reading[str]:
    """Reads and decodes a JSON string."""
    parts: list[str] = []
    size = 0

    def sink(text: str) -> None:
        nonlocal size
        size += len(text)
        if size > limit:
            raise Malformed
        parts.append(text)

    yield from reader.spaces()
    if (yield from reader.peek()) != '"':
        raise Malformed
    yield from reader.value(sink)
    return str(json.loads("".join(parts)))


def read_arguments(reader: CallReader, name: str) -> Wait:
    """Reads the arguments of a call of ``name``, a JSON object, as they stream."""
    yield from reader.spaces()
    if (yield from reader.peek()) != "{":
        raise Malformed
    reader.start(name)
    yield from reader.value(reader.arguments)
    reader.finish()


def _members(reader: CallReader, call: _Call) -> Wait:
    """Reads the members of an object up to its end; its "{" has been read."""
    if (yield from reader.skip(" }")):
        return
    while True:
        key = yield from read_string(reader)
        yield from reader.expect(" :")
        yield from reader.spaces()
        yield from _member(reader, call, key)
        if not (yield from reader.skip(" ,")):
            yield from reader.expect("}")
            return


def _member(reader: CallReader, call: _Call, key: str) -> Wait:
    char = yield from reader.peek()
    if call.done:
        yield from reader.value(lambda text: None)
    elif key == "function" and char == "{":
        yield from reader.expect("{")
        yield from _members(reader, call)
    elif key in call.keys.name and char == '"' and not call.name:
        call.name = yield from read_string(reader)
        if call.known is not None and call.name not in call.known:
            raise Malformed
        if call.waiting is not None and call.name not in _NO_CALLS:
            reader.call(call.name, call.waiting)
            call.done = True
    elif key in call.keys.arguments:
        yield from _member_arguments(reader, call, char)
    elif call.known is not None and key not in _OTHERS:
        raise Malformed
    else:
        yield from reader.value(lambda text: None)


def _member_arguments(reader: CallReader, call: _Call, char: str) -> Wait:
    if char == "{" and call.name and call.name not in _NO_CALLS:
        yield from read_arguments(reader, call.name)
        call.done = True
        return
    parts: list[str] = []
    yield from reader.value(parts.append)
    text = "".join(parts)
    value: Any = json.loads(text)
    if isinstance(value, str):
        # Some models write the arguments as JSON in a string, like the API.
        text = value.strip() or "{}"
        if not is_json(text):
            raise Malformed
        value = json.loads(text)
    if value is None:
        text, value = "{}", {}
    if not isinstance(value, dict):
        raise Malformed
    if call.name and call.name not in _NO_CALLS:
        reader.call(call.name, text)
        call.done = True
    else:
        call.waiting = text
