"""Llama 3.x's tool calls: the reply is ``{"name": …, "parameters": {…}}``, possibly after
``<|python_tag|>``; calls of built-in tools are ``<|python_tag|>name.call(key="value")``."""

from __future__ import annotations

import re

from .base import CallFormat, CallShape, Tools, marked
from .objects import read_object
from .python_source import parse_call
from .reader import MAX_HELD, CallReader, Malformed, Wait

_TAG = "<|python_tag|>"
_OTHERS = re.compile(r"<tool_call|<TOOLCALL|<function=|>>>|functools\\[|\\[TOOL_CALLS\\]")


def _objects(reader: CallReader, tools: Tools | None) -> Wait:
    while True:
        yield from reader.spaces()
        if (yield from reader.peek()) != "{":
            if reader.behind_call:
                return
            raise Malformed
        yield from read_object(reader, tools)
        yield from reader.spaces()
        yield from reader.skip_one((";", ","))


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    yield from reader.spaces()
    if (yield from reader.peek()) == "{":
        yield from _objects(reader, None)
        return
    # The call of a built-in tool extends to the end of the reply.
    name, arguments = parse_call((yield from reader.run(lambda char: True, MAX_HELD)))
    reader.call(name.removesuffix(".call"), arguments)


def _matches(source: str) -> bool:
    """Whether this is a template of Llama 3.1 or later, or one made from it with its format: others
    of the same look write their calls between marks."""
    own = "<|start_header_id|>" in source and '"parameters"' in source
    return own and ("ipython" in source or _TAG in source) and not _OTHERS.search(source)


LLAMA3 = CallFormat(
    name="llama3",
    opening=(_TAG,),
    shape=CallShape(
        before_name='{"name": "', after_name='", "parameters": ', suffix="}", separator="; "
    ),
    body=marked((_TAG,), _read, _objects),
    matches=_matches,
)
