"""MiniMax M3's tool calls: XML in which each tag has a prefix, and values are expanded to elements
(here the prefix is ``NS``, for ``]<]minimax[>[``)::

    NS<tool_call>
    NS<invoke name="plan">NS<city>OsloNS</city>NS<stops>NS<item>BergenNS</item>NS</stops>NS</invoke>
    NS</tool_call>

Members of objects are elements of their name, and items of arrays elements ``item``. A turn without
reasoning begins with its closing tag.

Source: the template of that name in llama.cpp, models/templates/MiniMax-M3.jinja.
"""

from __future__ import annotations

from typing import Any

from .answers import answer, marks_in
from .base import KEY, CallFormat, CallShape, TaggedArguments, Tools
from .reader import MAX_HELD, CallReader, Malformed, Wait
from .tagged import STRING, Arguments, items, kinds, member, quoted, typed, typed_until

_NS = "]<]minimax[>["
_OPEN, _CLOSE = f"{_NS}<tool_call>", f"{_NS}</tool_call>"
_INVOKE, _INVOKE_END = f'{_NS}<invoke name="', f"{_NS}</invoke>"
_ELEMENT, _END, _ITEM = f"{_NS}<", f"{_NS}</", f"{_NS}<item>"
_TAGS = ("<mm:think>", "</mm:think>")
_MAX_DEPTH = 32


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    while (yield from reader.skip(f" {_INVOKE}")):
        name = yield from reader.until('"')
        yield from reader.expect(" >")
        reader.start(name)
        arguments = Arguments(reader, tools, name)
        while not (yield from reader.skip(f" {_INVOKE_END}")):
            yield from reader.expect(_ELEMENT)
            key = yield from reader.until(">")
            arguments.key(key)
            schema = member(arguments.root, key, arguments.root)
            yield from _value(reader, schema, arguments.root, f"{_END}{key}>")
        arguments.end()
    if not reader.behind_call:
        raise Malformed
    yield from reader.skip(f" {_CLOSE}")


def _value(reader: CallReader, schema: Any, root: Any, close: str, depth: int = 0) -> Wait:
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
        yield from _value(reader, schema, root, f"{_END}item>", depth + 1)
        before = ", "
    reader.arguments("]")


def _members(reader: CallReader, schema: Any, root: Any, close: str, depth: int) -> Wait:
    reader.arguments("{")
    before = ""
    while not (yield from reader.skip(f" {close}")):
        yield from reader.expect(_ELEMENT)
        key = yield from reader.until(">")
        reader.arguments(f"{before}{quoted(key)}: ")
        yield from _value(reader, member(schema, key, root), root, f"{_END}{key}>", depth + 1)
        before = ", "
    reader.arguments("}")


MINIMAX_M3 = CallFormat(
    name="minimax-m3",
    opening=(_OPEN,),
    shape=CallShape(
        prefix=f"{_OPEN}\n",
        before_name=_INVOKE,
        after_name='">',
        suffix=f"{_INVOKE_END}\n",
        end=_CLOSE,
        tagged=TaggedArguments(before_key=_ELEMENT, after_key=">", after_value=f"{_END}{KEY}>"),
    ),
    # Nested values as elements are not JSON.
    binds=False,
    body=answer(_TAGS, (_OPEN,), _read),
    reads_reasoning=True,
    turns=("]~b]ai\n",),
    reasoning=_TAGS,
    stops=("[e~[",),
    tokens=(_NS,),
    matches=marks_in(_NS, "<tool_call>", "<invoke name="),
)
