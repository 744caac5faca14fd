"""GigaChat 3's tool calls: a message of another role, and in 3.1 a mark, before a JSON object::

    <|message_sep|>

    function call<|role_sep|>
    {"name": "get_weather", "arguments": {"city": "Oslo"}}

    <|function_call|>{"name": "get_weather", "arguments": {"city": "Oslo"}}

Source: the chat templates of ai-sage/GigaChat3-10B-A1.8B and GigaChat3.1-10B-A1.8B.
"""

from __future__ import annotations

from .answers import marks_in, opened
from .base import CallFormat, CallShape, Tools
from .objects import read_object
from .reader import Body, CallReader, Wait

_ROLE, _END = "<|role_sep|>", "<|message_sep|>"
_MESSAGE = f"{_END}\n\nfunction call{_ROLE}\n"
_CALL = "<|function_call|>"
_MARKS = (_MESSAGE, _CALL)


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    yield from read_object(reader)


def _body(tools: Tools) -> Body:
    marks = _MARKS if tools else ()

    def run(reader: CallReader) -> Wait:
        while mark := (yield from reader.text_until(marks)):
            yield from opened(reader, tools, mark, _read)

    return run


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
        body=_body,
        reads_reasoning=True,
        turns=(f"assistant{_ROLE}\n",),
        # In version 3 this mark begins a call as well.
        stops=(_END,) if opening == _CALL else (),
        tokens=(_ROLE, _END),
        matches=marks_in(_ROLE, _END, *marks, without=[without] if without else []),
    )


GIGACHAT3 = _format("gigachat3", _MESSAGE, without=_CALL)
GIGACHAT31 = _format("gigachat3.1", _CALL, _CALL, without="")
