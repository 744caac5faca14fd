"""Mistral's tool calls: ``[TOOL_CALLS] [{"name", "arguments", "id"}, …]``, and since the v11
tokenizer ``[TOOL_CALLS]name[ARGS]{…}``, with an optional ``[CALL_ID]…`` before the arguments."""

from __future__ import annotations

from .base import CallFormat, CallShape, Tools, marked
from .objects import read_arguments, read_list, read_object
from .reader import CallReader, Malformed, Wait

_MARK = "[TOOL_CALLS]"


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    yield from reader.spaces()
    char = yield from reader.peek()
    if char == "[":
        yield from read_list(reader)
    elif char == "{":
        yield from read_object(reader)
    else:
        name = yield from reader.run(lambda char: char not in "[{ \n")
        if (yield from reader.skip("[CALL_ID]")):
            yield from reader.run(str.isalnum)
        yield from reader.skip("[ARGS]")
        yield from read_arguments(reader, name)


def _at_start(reader: CallReader, tools: Tools) -> Wait:
    # Backends that do not print control tokens send only the list.
    yield from reader.spaces()
    if (yield from reader.peek()) != "[":
        raise Malformed
    yield from read_list(reader, tools)
    if not reader.behind_call:
        raise Malformed


MISTRAL = CallFormat(
    name="mistral",
    opening=(_MARK,),
    shape=CallShape(
        prefix="[TOOL_CALLS] [",
        before_name='{"name": "',
        after_name='", "arguments": ',
        suffix="}",
        separator=", ",
        end="]",
    ),
    body=marked((_MARK,), _read, _at_start),
)

MISTRAL_ARGS = CallFormat(
    name="mistral-args",
    opening=(_MARK,),
    shape=CallShape(before_name=_MARK, after_name="[ARGS]"),
    body=marked((_MARK,), _read, _at_start),
)
