"""Functionary v3.2's answers: a recipient per part, a tool with JSON below or all with text::

    >>>all
    One moment.
    >>>get_weather
    {"city": "Oslo"}

The prompt ends with the first ``>>>``. Only the name of a known tool before a JSON object opens a
call, and only a line ``>>>all`` opens text, so the prompt of a Python session is text.

Source: the chat template of meetkai/functionary-medium-v3.2.
"""

from __future__ import annotations

from .answers import marks_in, opened
from .base import CallFormat, CallShape, Tools
from .objects import read_arguments
from .reader import Body, CallReader, Malformed, Wait

_TO = ">>>"
_ALL = "all\n"


def _read(reader: CallReader, tools: Tools, mark: str = _TO) -> Wait:
    name = yield from reader.skip_one(sorted(f"{name}\n" for name in tools))
    if name is None:
        raise Malformed
    yield from read_arguments(reader, name[:-1])


def _body(tools: Tools) -> Body:
    marks = (_TO,) if tools else ()

    def run(reader: CallReader) -> Wait:
        reader.keep()
        yield from reader.skip(_TO)
        if not (yield from reader.skip(_ALL)):
            try:
                yield from _read(reader, tools)
            except Malformed:
                reader.rewind()
        while mark := (yield from reader.text_until(marks)):
            if (yield from reader.skip(_ALL)):
                reader.accept()
            else:
                yield from opened(reader, tools, mark, _read)

    return run


FUNCTIONARY_V3 = CallFormat(
    name="functionary-v3",
    opening=(_TO,),
    # The prompt ends with the first ">>>".
    shape=CallShape(after_name="\n", separator=_TO),
    body=_body,
    reads_reasoning=True,
    turns=("<|start_header_id|>assistant<|end_header_id|>\n\n",),
    content=(_ALL, ""),
    stops=("<|eot_id|>", "<|end_of_text|>"),
    matches=marks_in(">>>all", ">>>${recipient}"),
)
