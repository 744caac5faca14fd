"""Formats whose calls are a name, or an object with a name, and JSON arguments between marks."""

from __future__ import annotations

import re

from .base import ID, CallFormat, CallShape, Tools, marks_in, opened, text_with_marks
from .objects import read_arguments, read_named, read_object
from .reader import Body, CallReader, Malformed, Wait

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


def _functionary_body(tools: Tools) -> Body:
    marks = (_TO,) if tools else ()

    def run(reader: CallReader) -> Wait:
        reader.keep()
        yield from reader.skip(_TO)
        if not (yield from reader.skip(_ALL)):
            try:
                yield from read_named(reader, tools)
            except Malformed:
                reader.rewind()
        while mark := (yield from reader.text_until(marks)):
            if (yield from reader.skip(_ALL)):
                reader.accept()
            else:
                yield from opened(reader, tools, mark, lambda *_: read_named(reader, tools))

    return run


FUNCTIONARY_V3 = CallFormat(
    name="functionary-v3",
    opening=(_TO,),
    # The prompt ends with the first ">>>".
    shape=CallShape(after_name="\n", separator=_TO),
    body=_functionary_body,
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
