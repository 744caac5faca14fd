"""Ling 3's tool calls: a name, and arguments as pairs of tags::

    <tool_call>get_weather
    <arg_key>city</arg_key>
    <arg_value>Oslo</arg_value>
    </tool_call>

A call may come before the reasoning is closed. The model may write its end token as text.

Source: the chat template of inclusionAI/Ling-3.0-flash.
"""

from __future__ import annotations

from .answers import answer, marks_in
from .base import CallFormat, CallShape, TaggedArguments, Tools
from .reader import CallReader, Malformed, Wait
from .tagged import Arguments, typed_until

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_KEY, _KEY_END = "<arg_key>", "</arg_key>"
_VALUE, _VALUE_END = "<arg_value>", "</arg_value>"
_TAGS = ("<think>", "</think>")
_END = "<|role_end|>"


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    yield from reader.spaces()
    name = yield from reader.run(lambda char: not (char.isspace() or char == "<"))
    yield from reader.spaces()
    if (yield from reader.look((_KEY, _CLOSE))) is None:
        raise Malformed
    reader.start(name)
    arguments = Arguments(reader, tools, name)
    while not (yield from reader.skip(f" {_CLOSE}")):
        yield from reader.expect(_KEY)
        key = yield from reader.until(_KEY_END)
        yield from reader.expect(f" {_VALUE}")
        arguments.key(key.strip())
        yield from typed_until(reader, _VALUE_END, arguments.kinds(key.strip()))
    arguments.end()


LING3 = CallFormat(
    name="ling3",
    opening=(_OPEN,),
    shape=CallShape(
        before_name=_OPEN,
        after_name="\n",
        suffix=_CLOSE,
        separator="\n",
        tagged=TaggedArguments(
            before_key=_KEY, after_key=f"{_KEY_END}\n{_VALUE}", after_value=f"{_VALUE_END}\n"
        ),
    ),
    body=answer(_TAGS, (_OPEN,), _read, breaks=True, end=_END),
    reads_reasoning=True,
    turns=("<role>ASSISTANT</role>",),
    reasoning=_TAGS,
    stops=(_END,),
    matches=marks_in("<role>ASSISTANT</role>", _KEY),
)
