"""Ministral 3's, Magistral's and Devstral's answers: thoughts, text, then calls by name::

    [THINK]I look it up.[/THINK]One moment.[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}

Source: the chat templates of mistralai/Ministral-3-14B-Reasoning-2512 and Devstral-Small-2507.
"""

from __future__ import annotations

from .answers import answer, marks_in
from .base import CallFormat, CallShape, Tools
from .objects import read_arguments
from .reader import CallReader, Wait

_CALL, _ARGUMENTS = "[TOOL_CALLS]", "[ARGS]"
_TAGS = ("[THINK]", "[/THINK]")


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    yield from reader.spaces()
    name = yield from reader.run(lambda char: not (char.isspace() or char in "[{"))
    yield from reader.expect(f" {_ARGUMENTS}")
    yield from read_arguments(reader, name)


MINISTRAL3 = CallFormat(
    name="ministral3",
    opening=(_CALL,),
    shape=CallShape(before_name=_CALL, after_name=_ARGUMENTS),
    body=answer(_TAGS, (_CALL,), _read),
    reads_reasoning=True,
    turns=("[/INST]", "[/TOOL_RESULTS]"),
    reasoning=_TAGS,
    stops=("</s>",),
    matches=marks_in("[SYSTEM_PROMPT]", _CALL, _ARGUMENTS, without=["[CALL_ID]"]),
)
