"""Formats whose calls are Python, or once were: parsed, and never evaluated."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

from .base import CallFormat, CallShape, Tools, marks_in, text_with_marks
from .objects import read_name, read_named
from .reader import MAX_HELD, CallReader, Malformed, Wait
from .scanner import is_json
from .shaped import ShapeReader

_MAX_SOURCE = 65_536


def parse_call(source: str) -> tuple[str, str]:
    """Name (dotted as written) and JSON arguments of ``name(key=literal, …)``; Malformed for
    anything else."""
    if len(source) > _MAX_SOURCE:
        raise Malformed
    try:
        # Invalid escapes in a model's strings must not emit warnings.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source.strip(), mode="eval").body
        if not isinstance(tree, ast.Call) or tree.args:
            raise Malformed
        arguments: dict[str, Any] = {}
        for keyword in tree.keywords:
            if keyword.arg is None or keyword.arg in arguments:
                raise Malformed
            arguments[keyword.arg] = ast.literal_eval(keyword.value)
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        if not is_json(text):
            raise Malformed
        return _dotted(tree.func), text
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        # ast raises MemoryError for deep nesting. Sets, bytes and complex numbers are Python
        # literals that json rejects.
        raise Malformed from error


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise Malformed


# ChatGLM3's and GLM-4's tool calls: the first line of a turn is the name of the tool.
#
# ChatGLM3 continues with Python, which is parsed but never evaluated, and GLM-4 with JSON::
#
#     get_weather                         get_weather
#      ```python                          {"city": "Oslo"}
#     tool_call(city='Oslo')
#     ```
#
# After text and between calls, the header of a new turn (``<|assistant|>``) comes first.

_HEADER = "<|assistant|>"
_AS_JSON = "tool_call(**"
"""How a grammar makes ChatGLM3 write its arguments: valid Python that contains a JSON object."""


def _python(reader: CallReader, tools: Tools, mark: str = "") -> Wait:
    yield from reader.spaces()
    name = yield from read_name(reader, tools)
    yield from reader.expect(" ```python")
    if (yield from reader.skip(f" {_AS_JSON}")):
        if (yield from reader.peek()) != "{":
            raise Malformed
        parts: list[str] = []
        yield from reader.value(parts.append)
        reader.call(name, "".join(parts))
        yield from reader.skip(")")
        yield from reader.skip(" ```")
        return
    _, arguments = parse_call((yield from reader.until("```", MAX_HELD)))
    reader.call(name, arguments)


def _json(reader: CallReader, tools: Tools, mark: str = "") -> Wait:
    yield from reader.spaces()
    yield from read_named(reader, tools)


CHATGLM3 = CallFormat(
    name="chatglm3",
    opening=(_HEADER,),
    shape=CallShape(
        after_name=f"\n ```python\n{_AS_JSON}",
        suffix=")\n```",
        separator=_HEADER,
        parallel=False,
    ),
    body=text_with_marks((_HEADER,), _python, _python),
    matches=marks_in("[gMASK]sop", "tool_call("),
)

GLM4 = CallFormat(
    name="glm4",
    opening=(_HEADER,),
    shape=CallShape(after_name="\n", separator=_HEADER, parallel=False),
    body=text_with_marks((_HEADER,), _json, _json),
    # Later templates of the family write tags.
    matches=marks_in("[gMASK]<sop>", without=["<tool_call>"]),
)


# Llama 3.x's tool calls: the reply is ``{"name": …, "parameters": {…}}``, possibly after
# ``<|python_tag|>``; calls of built-in tools are ``<|python_tag|>name.call(key="value")``.

_TAG = "<|python_tag|>"
_OTHERS = re.compile(r"<tool_call|<TOOLCALL|<function=|>>>|functools\[|\[TOOL_CALLS\]")


_SHAPE = CallShape(
    before_name='{"name": "', after_name='", "parameters": ', suffix="}", separator="; "
)
_OBJECTS = ShapeReader(_SHAPE)


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    yield from reader.spaces()
    if (yield from reader.peek()) == "{":
        yield from _OBJECTS.read(reader, tools, mark)
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
    shape=_SHAPE,
    body=text_with_marks((_TAG,), _read, _OBJECTS.read_at_start),
    matches=_matches,
)
