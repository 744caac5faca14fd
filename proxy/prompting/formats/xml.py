"""Formats whose calls are XML: arguments between tags, typed by the schema of their tool."""

from __future__ import annotations

from typing import Any

from .base import KEY, CallFormat, CallShape, TaggedArguments, Tools, answer, marks_in
from .reader import MAX_HELD, CallReader, Malformed, Wait
from .shaped import reads
from .tagged import STRING, items, kinds, member, quoted, typed, typed_until

# MiniCPM5's tool calls: XML with attributes, and CDATA around text with special characters::
#
#     <function name="get_weather"><param name="city">Oslo</param></function>
#
# Source: the chat template of openbmb/MiniCPM5-1B.

_THINK = ("<think>", "</think>")
_MINICPM_OPEN = '<function name="'
_MINICPM_SHAPE = CallShape(
    before_name=_MINICPM_OPEN,
    after_name='">',
    suffix="</function>",
    separator="\n",
    tagged=TaggedArguments(
        before_key='<param name="', after_key='">', after_value="</param>", cdata=True
    ),
)
MINICPM5 = CallFormat(
    name="minicpm5",
    opening=(_MINICPM_OPEN,),
    shape=_MINICPM_SHAPE,
    # A grammar knows no CDATA.
    binds=False,
    body=answer(_THINK, (_MINICPM_OPEN,), reads(_MINICPM_SHAPE)),
    turns=("<|im_start|>assistant\n",),
    reasoning=_THINK,
    stops=("<|im_end|>",),
    tokens=("<function", "<param"),
    matches=marks_in("Tool usage guidelines:", '<function name="', '<param name="'),
)


# MiniMax M3's tool calls: XML in which each tag has a prefix, and values are expanded to elements
# (here the prefix is ``NS``, for ``]<]minimax[>[``)::
#
#     NS<tool_call>
#     NS<invoke name="plan">NS<city>OsloNS</city>NS<stops>NS<item>BergenNS</item>NS</stops>
#     NS</invoke>
#     NS</tool_call>
#
# Members of objects are elements of their name, and items of arrays elements ``item``. A turn
# without reasoning begins with its closing tag.
#
# Source: the template of that name in llama.cpp, models/templates/MiniMax-M3.jinja.

_NS = "]<]minimax[>["
_MINIMAX_OPEN, _MINIMAX_CLOSE = f"{_NS}<tool_call>", f"{_NS}</tool_call>"
_MINIMAX_INVOKE, _MINIMAX_INVOKE_END = f'{_NS}<invoke name="', f"{_NS}</invoke>"
_ELEMENT, _MINIMAX_END, _ITEM = f"{_NS}<", f"{_NS}</", f"{_NS}<item>"
_MINIMAX_TAGS = ("<mm:think>", "</mm:think>")
_MAX_DEPTH = 32


def _minimax_read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    while (yield from reader.skip(f" {_MINIMAX_INVOKE}")):
        name = yield from reader.until('"')
        yield from reader.expect(" >")
        reader.start(name)
        schema = tools.get(name, {})
        yield from _members(reader, schema, schema, _MINIMAX_INVOKE_END, 0)
        reader.finish()
    if not reader.behind_call:
        raise Malformed
    yield from reader.skip(f" {_MINIMAX_CLOSE}")


def _value(reader: CallReader, schema: Any, root: Any, close: str, depth: int) -> Wait:
    """Reads a value and its closing tag. Where the schema allows text, elements are text too."""
    allowed = kinds(schema, root)
    if depth > _MAX_DEPTH:
        raise Malformed
    if "string" in allowed and schema is not True:
        if allowed == STRING:
            yield from typed_until(reader, close, STRING)
        else:
            reader.arguments(typed((yield from reader.until(close, MAX_HELD)), allowed))
        return
    yield from reader.spaces()
    if (yield from reader.look((_ITEM,))):
        yield from _items(reader, items(schema, root), root, close, depth)
    elif (yield from reader.look((close,))) is None and (yield from reader.look((_ELEMENT,))):
        yield from _members(reader, schema, root, close, depth)
    else:
        text = yield from reader.until(close, MAX_HELD)
        empty = {"array": "[]", "object": "{}"}
        if not text.strip() and "string" not in allowed:
            text = next((empty[kind] for kind in empty if kind in allowed), text)
        reader.arguments(typed(text, allowed))


def _items(reader: CallReader, schema: Any, root: Any, close: str, depth: int) -> Wait:
    reader.arguments("[")
    before = ""
    while not (yield from reader.skip(f" {close}")):
        yield from reader.expect(_ITEM)
        reader.arguments(before)
        yield from _value(reader, schema, root, f"{_MINIMAX_END}item>", depth + 1)
        before = ", "
    reader.arguments("]")


def _members(reader: CallReader, schema: Any, root: Any, close: str, depth: int) -> Wait:
    reader.arguments("{")
    before = ""
    while not (yield from reader.skip(f" {close}")):
        yield from reader.expect(_ELEMENT)
        key = yield from reader.until(">")
        reader.arguments(f"{before}{quoted(key)}: ")
        yield from _value(
            reader, member(schema, key, root), root, f"{_MINIMAX_END}{key}>", depth + 1
        )
        before = ", "
    reader.arguments("}")


MINIMAX_M3 = CallFormat(
    name="minimax-m3",
    opening=(_MINIMAX_OPEN,),
    shape=CallShape(
        prefix=f"{_MINIMAX_OPEN}\n",
        before_name=_MINIMAX_INVOKE,
        after_name='">',
        suffix=f"{_MINIMAX_INVOKE_END}\n",
        end=_MINIMAX_CLOSE,
        tagged=TaggedArguments(
            before_key=_ELEMENT, after_key=">", after_value=f"{_MINIMAX_END}{KEY}>"
        ),
    ),
    # Nested values as elements are not JSON.
    binds=False,
    body=answer(_MINIMAX_TAGS, (_MINIMAX_OPEN,), _minimax_read),
    turns=("]~b]ai\n",),
    reasoning=_MINIMAX_TAGS,
    stops=("[e~[",),
    tokens=(_NS,),
    matches=marks_in(_NS, "<tool_call>", "<invoke name="),
)
