"""DeepSeek's tool calls: the format of V3 and R1, and the shorter one of V3.1::

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>name
```json
{…}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜>…
"""

from __future__ import annotations

from .base import CallFormat, CallShape, Tools, marked
from .objects import read_arguments
from .reader import CallReader, Malformed, Wait

_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEP = "<｜tool▁sep｜>"


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    inside = mark == _CALL
    while True:
        yield from reader.spaces()
        if not inside and not (yield from reader.skip(_CALL)):
            break
        inside = False
        yield from _read_call(reader)
    if not reader.behind_call:
        raise Malformed
    yield from reader.skip(_END)


def _read_call(reader: CallReader) -> Wait:
    name = yield from reader.until(_SEP)
    if (yield from reader.peek()) != "{":
        name = yield from reader.until("\n")
        yield from reader.skip(" ```json")
    yield from read_arguments(reader, name.strip())
    yield from reader.skip(" ```")
    yield from reader.skip(f" {_CALL_END}")


DEEPSEEK = CallFormat(
    name="deepseek",
    opening=(_BEGIN, _CALL),
    shape=CallShape(
        prefix=_BEGIN,
        before_name=f"{_CALL}function{_SEP}",
        after_name="\n```json\n",
        suffix=f"\n```{_CALL_END}",
        separator="\n",
        end=_END,
    ),
    body=marked((_BEGIN, _CALL), _read),
)
