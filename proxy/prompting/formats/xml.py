"""MiniMax M3's calls: XML, typed by the schema of their tool."""

from __future__ import annotations

from typing import Any

from .base import KEY, CallFormat, CallShape, TaggedArguments, Tools, marks_in, text_with_marks
from .reader import MAX_HELD, CallReader, Malformed, Wait
from .tagged import items, kinds, member, quoted, typed, typed_until

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
_MAX_DEPTH = 32


def _minimax_read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    while (yield from reader.skip(f" {_MINIMAX_INVOKE}")):
        name = yield from reader.until('"')
        yield from reader.expect(" >")
        reader.start(name)
        schema = tools.get(name, {})
        yield from _elements(reader, schema, schema, _MINIMAX_INVOKE_END, 0)
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
        yield from typed_until(reader, close, allowed)
        return
    yield from reader.spaces()
    if (yield from reader.look((_ELEMENT,))) and (yield from reader.look((close,))) is None:
        yield from _elements(reader, schema, root, close, depth)
    else:
        text = yield from reader.until(close, MAX_HELD)
        empty = {"array": "[]", "object": "{}"}
        if not text.strip() and "string" not in allowed:
            text = next((empty[kind] for kind in empty if kind in allowed), text)
        reader.arguments(typed(text, allowed))


def _elements(reader: CallReader, schema: Any, root: Any, close: str, depth: int) -> Wait:
    """Reads the items of an array or the members of an object, and the closing tag."""
    is_array = depth > 0 and (yield from reader.look((_ITEM,))) is not None
    reader.arguments("[" if is_array else "{")
    before = ""
    while not (yield from reader.skip(f" {close}")):
        yield from reader.expect(_ITEM if is_array else _ELEMENT)
        if is_array:
            key, inside = "item", items(schema, root)
        else:
            key = yield from reader.until(">")
            before, inside = f"{before}{quoted(key)}: ", member(schema, key, root)
        reader.arguments(before)
        yield from _value(reader, inside, root, f"{_MINIMAX_END}{key}>", depth + 1)
        before = ", "
    reader.arguments("]" if is_array else "}")


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
    body=text_with_marks((_MINIMAX_OPEN,), _minimax_read),
    stops=("[e~[",),
    tokens=(_NS,),
    matches=marks_in(_NS, "<tool_call>", "<invoke name="),
)
