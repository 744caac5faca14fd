"""An example of a package with a format of tool calls: between stars, with shouted names::

    Let me look. ★CALL GET_WEATHER★{"city": "Oslo"}★END★

Its `pyproject.toml` would have::

    [project.entry-points."slotproxy.formats"]
    star = "star_calls:STAR"
"""

from __future__ import annotations

from proxy.prompting.formats.base import CallFormat, CallShape, Tools, marks_in, text_with_marks
from proxy.prompting.formats.objects import read_arguments
from proxy.prompting.formats.reader import CallReader, Malformed, Wait

CALL, END = "★CALL ", "★END★"


def read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    """Reads a call behind its mark; a name that no tool has is no call."""
    shouted = yield from reader.until("★")
    name = next((name for name in tools if name.upper() == shouted), None)
    if name is None:
        raise Malformed
    yield from read_arguments(reader, name)
    yield from reader.expect(END)


STAR = CallFormat(
    name="star",
    opening=(CALL,),
    shape=CallShape(before_name=CALL, after_name="★", suffix=END, parallel=False),
    # The grammar of the shape would have the model write names as they are.
    binds=False,
    body=text_with_marks((CALL,), read),
    matches=marks_in(CALL),
)
