"""MiniCPM5's tool calls: XML with attributes, and CDATA around text with special characters::

    <function name="get_weather"><param name="city">Oslo</param></function>

Source: the chat template of openbmb/MiniCPM5-1B.
"""

from __future__ import annotations

from .answers import answer, marks_in
from .base import CallFormat, CallShape, TaggedArguments, Tools
from .reader import CallReader, Malformed, Wait
from .tagged import Arguments, typed_until

_OPEN, _CLOSE = '<function name="', "</function>"
_PARAMETER, _PARAMETER_END = '<param name="', "</param>"
_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_TAGS = ("<think>", "</think>")


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    name = yield from reader.until('"')
    yield from reader.expect(" >")
    if name not in tools:  # the mark is no token of its own, so it may be HTML
        raise Malformed
    reader.start(name)
    arguments = Arguments(reader, tools, name)
    while not (yield from reader.skip(f" {_CLOSE}")):
        yield from reader.expect(_PARAMETER)
        key = yield from reader.until('"')
        yield from reader.expect(" >")
        arguments.key(key)
        if (yield from reader.skip(_CDATA)):
            yield from typed_until(reader, _CDATA_END, arguments.kinds(key))
            yield from reader.expect(f" {_PARAMETER_END}")
        else:
            yield from typed_until(reader, _PARAMETER_END, arguments.kinds(key))
    arguments.end()


MINICPM5 = CallFormat(
    name="minicpm5",
    opening=(_OPEN,),
    shape=CallShape(
        before_name=_OPEN,
        after_name='">',
        suffix=_CLOSE,
        separator="\n",
        tagged=TaggedArguments(before_key=_PARAMETER, after_key='">', after_value=_PARAMETER_END),
    ),
    # The model also writes values in CDATA sections.
    binds=False,
    body=answer(_TAGS, (_OPEN,), _read),
    reads_reasoning=True,
    turns=("<|im_start|>assistant\n",),
    reasoning=_TAGS,
    stops=("<|im_end|>",),
    tokens=("<function", "<param"),
    matches=marks_in("Tool usage guidelines:", '<function name="', '<param name="'),
)
