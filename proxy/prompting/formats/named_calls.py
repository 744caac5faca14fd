"""Formats whose calls are a name, or an object with a name, and arguments in JSON or in Python. The
latter is parsed, and never evaluated."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

from .base import ID, CallFormat, CallShape, Tools, marks_in, text_with_marks
from .objects import read_arguments, read_name, read_named, read_object
from .reader import MAX_HELD, CallReader, Malformed, Wait
from .scanner import is_json
from .shaped import ShapeReader

# Kimi K2's tool calls, each with an id that contains the name and the number of the call::
#
#     <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0
#     <|tool_call_argument_begin|>{"city": "Oslo"}<|tool_call_end|><|tool_calls_section_end|>
#
# (without line breaks). The model may leave out the marks of the section and the end of a call.
#
# Source: the chat template of moonshotai/Kimi-K2-Thinking, and its tool calling guide.

_BEGIN, _KIMI_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_KIMI_CALL, _CALL_END = "<|tool_call_begin|>", "<|tool_call_end|>"
_KIMI_ARGUMENTS = "<|tool_call_argument_begin|>"
_ID = re.compile(r"\s*(?:functions\.)?(.+?)(?::[0-9]+)?\s*")


def _kimi_read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    inside = mark == _KIMI_CALL
    while inside or (yield from reader.skip(f" {_KIMI_CALL}")):
        inside = False
        match = _ID.fullmatch((yield from reader.until(_KIMI_ARGUMENTS)))
        if match is None:
            raise Malformed
        yield from read_arguments(reader, match[1])
        yield from reader.skip(f" {_CALL_END}")
    if not reader.behind_call:
        raise Malformed
    yield from reader.skip(f" {_KIMI_END}")


KIMI_K2 = CallFormat(
    name="kimi-k2",
    opening=(_BEGIN, _KIMI_CALL),
    shape=CallShape(
        prefix=_BEGIN,
        before_name=f"{_KIMI_CALL}functions.",
        after_name=f":{ID}{_KIMI_ARGUMENTS}",
        suffix=_CALL_END,
        end=_KIMI_END,
        ids="index",
    ),
    body=text_with_marks((_BEGIN, _KIMI_CALL), _kimi_read),
    matches=marks_in(_BEGIN, _KIMI_CALL),
)


# Functionary v3.2's answers: a recipient per part, a tool with JSON below or all with text::
#
#     >>>all
#     One moment.
#     >>>get_weather
#     {"city": "Oslo"}
#
# The prompt ends with the first ``>>>``. Only the name of a known tool before a JSON object opens
# a call, and only a line ``>>>all`` opens text, so the prompt of a Python session is text.
#
# Source: the chat template of meetkai/functionary-medium-v3.2.

_TO = ">>>"
_ALL = "all\n"


def _functionary_part(reader: CallReader, tools: Tools, mark: str = "") -> Wait:
    if not mark:
        yield from reader.skip(_TO)
    if not (yield from reader.skip(_ALL)):
        yield from read_named(reader, tools)


FUNCTIONARY_V3 = CallFormat(
    name="functionary-v3",
    opening=(_TO,),
    # The prompt ends with the first ">>>".
    shape=CallShape(after_name="\n", separator=_TO),
    body=text_with_marks((_TO,), _functionary_part, _functionary_part),
    turns=("<|start_header_id|>assistant<|end_header_id|>\n\n",),
    content=(_ALL, ""),
    stops=("<|eot_id|>", "<|end_of_text|>"),
    matches=marks_in(">>>all", ">>>${recipient}"),
)


# GigaChat 3's tool calls: a message of another role before a JSON object::
#
#     <|message_sep|>
#
#     function call<|role_sep|>
#     {"name": "get_weather", "arguments": {"city": "Oslo"}}
#
# Source: the chat template of ai-sage/GigaChat3-10B-A1.8B.

_ROLE, _GIGACHAT_END = "<|role_sep|>", "<|message_sep|>"
_GIGACHAT_CALL = f"{_GIGACHAT_END}\n\nfunction call{_ROLE}\n"


GIGACHAT3 = CallFormat(
    name="gigachat3",
    opening=(_GIGACHAT_CALL,),
    shape=CallShape(
        before_name=f'{_GIGACHAT_CALL}{{"name": "',
        after_name='", "arguments": ',
        suffix="}",
        parallel=False,
    ),
    body=text_with_marks((_GIGACHAT_CALL,), lambda reader, *_: read_object(reader)),
    turns=(f"assistant{_ROLE}\n",),
    tokens=(_ROLE, _GIGACHAT_END),
    # Version 3.1 writes a mark before its calls.
    matches=marks_in(_ROLE, _GIGACHAT_END, without=["<|function_call|>"]),
)


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
