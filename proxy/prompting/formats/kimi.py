"""Kimi K2's tool calls, each with an id that contains the name and the number of the call::

    <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0
    <|tool_call_argument_begin|>{"city": "Oslo"}<|tool_call_end|><|tool_calls_section_end|>

(without line breaks). The model may leave out the marks of the section and the end of a call, and
call a tool without closing its reasoning.

Source: the chat template of moonshotai/Kimi-K2-Thinking, and its tool calling guide.
"""

from __future__ import annotations

import re

from .answers import answer, marks_in
from .base import ID, CallFormat, CallShape, Tools
from .objects import read_arguments
from .reader import CallReader, Malformed, Wait

_BEGIN, _END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _CALL_END = "<|tool_call_begin|>", "<|tool_call_end|>"
_ARGUMENTS = "<|tool_call_argument_begin|>"
_TAGS = ("<think>", "</think>")
_ID = re.compile(r"\s*(?:functions\.)?(.+?)(?::[0-9]+)?\s*")


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    inside = mark == _CALL
    while inside or (yield from reader.skip(f" {_CALL}")):
        inside = False
        match = _ID.fullmatch((yield from reader.until(_ARGUMENTS)))
        if match is None:
            raise Malformed
        yield from read_arguments(reader, match[1])
        yield from reader.skip(f" {_CALL_END}")
    if not reader.behind_call:
        raise Malformed
    yield from reader.skip(f" {_END}")


KIMI_K2 = CallFormat(
    name="kimi-k2",
    opening=(_BEGIN, _CALL),
    shape=CallShape(
        prefix=_BEGIN,
        before_name=f"{_CALL}functions.",
        after_name=f":{ID}{_ARGUMENTS}",
        suffix=_CALL_END,
        end=_END,
        ids="index",
    ),
    body=answer(_TAGS, (_BEGIN, _CALL), _read, breaks=True),
    reads_reasoning=True,
    turns=("<|im_assistant|>assistant<|im_middle|>",),
    reasoning=_TAGS,
    stops=("<|im_end|>",),
    matches=marks_in(_BEGIN, _CALL),
)
