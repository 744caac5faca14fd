"""Formats whose calls are a name, or an object with a name, and JSON arguments between marks."""

from __future__ import annotations

import re

from .base import ID, CallFormat, CallShape, Tools, answer, marks_in, opened, text
from .objects import read_arguments, read_object
from .reader import Body, CallReader, Malformed, Wait
from .shaped import reads

# Ministral 3's, Magistral's and Devstral's answers: thoughts, text, then calls by name::
#
#     [THINK]I look it up.[/THINK]One moment.[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}
#
# Source: the chat templates of mistralai/Ministral-3-14B-Reasoning-2512 and Devstral-Small-2507.

_MINISTRAL_TAGS = ("[THINK]", "[/THINK]")
_MINISTRAL_SHAPE = CallShape(before_name="[TOOL_CALLS]", after_name="[ARGS]")
MINISTRAL3 = CallFormat(
    name="ministral3",
    opening=("[TOOL_CALLS]",),
    shape=_MINISTRAL_SHAPE,
    body=answer(_MINISTRAL_TAGS, ("[TOOL_CALLS]",), reads(_MINISTRAL_SHAPE)),
    turns=("[/INST]", "[/TOOL_RESULTS]"),
    reasoning=_MINISTRAL_TAGS,
    stops=("</s>",),
    matches=marks_in("[SYSTEM_PROMPT]", "[TOOL_CALLS]", "[ARGS]", without=["[CALL_ID]"]),
)


# Kimi K2's tool calls, each with an id that contains the name and the number of the call::
#
#     <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0
#     <|tool_call_argument_begin|>{"city": "Oslo"}<|tool_call_end|><|tool_calls_section_end|>
#
# (without line breaks). The model may leave out the marks of the section and the end of a call,
# and call a tool without closing its reasoning.
#
# Source: the chat template of moonshotai/Kimi-K2-Thinking, and its tool calling guide.

_BEGIN, _KIMI_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_KIMI_CALL, _CALL_END = "<|tool_call_begin|>", "<|tool_call_end|>"
_KIMI_ARGUMENTS = "<|tool_call_argument_begin|>"
_KIMI_TAGS = ("<think>", "</think>")
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
    body=answer(_KIMI_TAGS, (_BEGIN, _KIMI_CALL), _kimi_read, breaks=True),
    turns=("<|im_assistant|>assistant<|im_middle|>",),
    reasoning=_KIMI_TAGS,
    stops=("<|im_end|>",),
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


def _functionary_read(reader: CallReader, tools: Tools, mark: str = _TO) -> Wait:
    name = yield from reader.skip_one(sorted(f"{name}\n" for name in tools))
    if name is None:
        raise Malformed
    yield from read_arguments(reader, name[:-1])


def _functionary_body(tools: Tools) -> Body:
    marks = (_TO,) if tools else ()

    def run(reader: CallReader) -> Wait:
        reader.keep()
        yield from reader.skip(_TO)
        if not (yield from reader.skip(_ALL)):
            try:
                yield from _functionary_read(reader, tools)
            except Malformed:
                reader.rewind()
        while mark := (yield from reader.text_until(marks)):
            if (yield from reader.skip(_ALL)):
                reader.accept()
            else:
                yield from opened(reader, tools, mark, _functionary_read)

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


# GigaChat 3's tool calls: a message of another role, and in 3.1 a mark, before a JSON object::
#
#     <|message_sep|>
#
#     function call<|role_sep|>
#     {"name": "get_weather", "arguments": {"city": "Oslo"}}
#
#     <|function_call|>{"name": "get_weather", "arguments": {"city": "Oslo"}}
#
# Source: the chat templates of ai-sage/GigaChat3-10B-A1.8B and GigaChat3.1-10B-A1.8B.

_ROLE, _GIGACHAT_END = "<|role_sep|>", "<|message_sep|>"
_MESSAGE = f"{_GIGACHAT_END}\n\nfunction call{_ROLE}\n"
_GIGACHAT_CALL = "<|function_call|>"
_MARKS = (_MESSAGE, _GIGACHAT_CALL)


def _gigachat_body(tools: Tools) -> Body:
    marks = _MARKS if tools else ()
    return lambda reader: text(reader, tools, marks, lambda reader, *_: read_object(reader))


def _format(name: str, opening: str, *marks: str, without: str) -> CallFormat:
    return CallFormat(
        name=name,
        opening=(opening,),
        shape=CallShape(
            before_name=f'{opening}{{"name": "',
            after_name='", "arguments": ',
            suffix="}",
            parallel=False,
        ),
        body=_gigachat_body,
        turns=(f"assistant{_ROLE}\n",),
        # In version 3 this mark begins a call as well.
        stops=(_GIGACHAT_END,) if opening == _GIGACHAT_CALL else (),
        tokens=(_ROLE, _GIGACHAT_END),
        matches=marks_in(_ROLE, _GIGACHAT_END, *marks, without=[without] if without else []),
    )


GIGACHAT3 = _format("gigachat3", _MESSAGE, without=_GIGACHAT_CALL)
GIGACHAT31 = _format("gigachat3.1", _GIGACHAT_CALL, _GIGACHAT_CALL, without="")
