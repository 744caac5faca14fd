"""The gateway's own tool-call format, for templates without tools: a reply of JSON only::

    {"tool_calls": [{"name": "get_weather", "arguments": {"city": "Oslo"}}]}

``{"tool_call": {…}}``, a bare ``{"name", "arguments"}`` and a code fence around either are accepted
too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .base import ID, CallFormat, CallShape, Tools, text_with_marks
from .objects import read_list, read_object, write_calls
from .reader import CallReader, Malformed, Wait

PLAIN = "If no tool is needed, reply with plain text."


def instructions(
    tools: Sequence[Mapping[str, Any]], otherwise: str = PLAIN, form: CallFormat | None = None
) -> str:
    """Describes the tools for the system message, for calls in this format or in our own."""
    lines = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    call = ("tool name", {"argument name": "value"})
    what = "this JSON" if form is None else "this"
    sample = write_calls((form or GENERIC).shape, call).replace(ID, "0")
    return (
        "You can call these tools (one JSON description a line):\n"
        f"{lines}\n\n"
        f"To call tools, reply with {what} and nothing else:\n"
        f"{sample}\n"
        f"{otherwise}"
    )


def _at_start(reader: CallReader, tools: Tools) -> Wait:
    fenced = yield from reader.skip(" ```")
    if fenced:
        yield from reader.skip("json")
    yield from _whole(reader, tools)
    if not reader.behind_call:
        raise Malformed
    if fenced:
        yield from reader.skip(" ```")


def _whole(reader: CallReader, tools: Tools) -> Wait:
    # '{"tool_call' decides, so that other JSON is not held back for long.
    yield from reader.expect(" {")
    yield from reader.spaces()
    wrapper = yield from reader.skip_one(('"tool_calls"', '"tool_call"'))
    if wrapper is None:
        yield from read_object(reader, tools, opened=True)
        return
    yield from reader.expect(" :")
    yield from reader.spaces()
    if (yield from reader.peek()) == "[":
        yield from read_list(reader, tools)
    else:
        yield from read_object(reader, tools)
    yield from reader.expect(" }")


GENERIC = CallFormat(
    name="generic",
    opening=(),
    shape=CallShape(
        prefix='{"tool_calls": [',
        before_name='{"name": "',
        after_name='", "arguments": ',
        suffix="}",
        separator=", ",
        end="]}",
    ),
    body=text_with_marks((), lambda reader, tools, mark: _whole(reader, tools), _at_start),
)
