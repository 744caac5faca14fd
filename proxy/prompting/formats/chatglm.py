"""ChatGLM3's and GLM-4's tool calls: the first line of a turn is the name of the tool.

ChatGLM3 continues with Python, which is parsed but never evaluated, and GLM-4 with JSON::

    get_weather                         get_weather
     ```python                          {"city": "Oslo"}
    tool_call(city='Oslo')
    ```

After text and between calls, the header of a new turn (``<|assistant|>``) comes first.
"""

from __future__ import annotations

from .base import CallFormat, CallShape, Tools, marked
from .objects import read_arguments
from .python_source import parse_call
from .reader import MAX_HELD, CallReader, Malformed, Reading, Wait

_HEADER = "<|assistant|>"
_AS_JSON = "tool_call(**"
"""How a grammar makes ChatGLM3 write its arguments: valid Python that contains a JSON object."""


def _name(reader: CallReader, tools: Tools) -> Reading[str]:
    """Reads a line that is the name of a known tool."""
    yield from reader.spaces()
    name = yield from reader.skip_one(sorted(f"{name}\n" for name in tools))
    if name is None:
        raise Malformed
    return name[:-1]


def _python(reader: CallReader, tools: Tools) -> Wait:
    name = yield from _name(reader, tools)
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


def _json(reader: CallReader, tools: Tools) -> Wait:
    name = yield from _name(reader, tools)
    yield from read_arguments(reader, name)


def _writes_python(source: str) -> bool:
    """Whether this is ChatGLM3's template."""
    return "[gMASK]sop" in source and "tool_call(" in source


def _writes_json(source: str) -> bool:
    """Whether this is GLM-4's template; later ones write tags."""
    return "[gMASK]<sop>" in source and "<tool_call>" not in source


CHATGLM3 = CallFormat(
    name="chatglm3",
    opening=(_HEADER,),
    shape=CallShape(
        after_name=f"\n ```python\n{_AS_JSON}",
        suffix=")\n```",
        separator=_HEADER,
        parallel=False,
    ),
    body=marked((_HEADER,), lambda reader, tools, mark: _python(reader, tools), _python),
    matches=_writes_python,
)

GLM4 = CallFormat(
    name="glm4",
    opening=(_HEADER,),
    shape=CallShape(after_name="\n", separator=_HEADER, parallel=False),
    body=marked((_HEADER,), lambda reader, tools, mark: _json(reader, tools), _json),
    matches=_writes_json,
)
