"""Formats whose values are no JSON, but XML or quoted differently: converted while they stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .base import (
    KEY,
    CallFormat,
    CallShape,
    TaggedArguments,
    Tools,
    follows,
    marks_in,
    opened,
    text_with_marks,
    thoughts,
)
from .objects import WORDS, inside, items, kinds, member, quoted, quoted_until, typed, typed_until
from .reader import MAX_HELD, Body, CallReader, Malformed, Reading, Wait
from .scanner import is_json

Sink = Callable[[str], None]
String = Callable[[CallReader, Sink], Reading[bool]]
"""Reads a string if one comes next, passing its JSON to the sink; False if none comes."""

MAX_DEPTH = 64
_CLOSING = {"[": "]", "(": ")"}
_NO_KEY = frozenset("{}[](),:=\"'\n")


def _read_value(reader: CallReader, sink: Sink, string: String, depth: int) -> Wait:
    if depth > MAX_DEPTH:
        raise Malformed
    yield from reader.spaces()
    if (yield from string(reader, sink)):
        return
    if (yield from reader.skip("{")):
        yield from read_members(reader, sink, string, depth=depth + 1)
    elif opening := (yield from reader.skip_one(tuple(_CLOSING))):
        yield from _items(reader, sink, string, _CLOSING[opening], depth + 1)
    else:
        word = yield from reader.run(lambda c: c.isalnum() or c in "+-._")
        word = WORDS.get(word, word)
        if not is_json(word):
            raise Malformed
        sink(word)


def read_members(
    reader: CallReader,
    sink: Sink,
    string: String,
    closing: str = "}",
    colon: str = ":",
    depth: int = 0,
) -> Wait:
    """Takes the members of an object and its end; its beginning has been read."""
    sink("{")
    before = ""
    while (yield from _follows(reader, before, closing)):
        parts: list[str] = []
        if not (yield from string(reader, parts.append)):
            key = (yield from reader.run(lambda c: c not in _NO_KEY)).strip()
            if not key:
                raise Malformed
            parts = [quoted(key)]
        yield from reader.expect(f" {colon}")
        sink(f"{before}{''.join(parts)}: ")
        yield from _read_value(reader, sink, string, depth)
        before = ", "
    sink("}")


def _items(reader: CallReader, sink: Sink, string: String, closing: str, depth: int) -> Wait:
    sink("[")
    before = ""
    while (yield from _follows(reader, before, closing)):
        sink(before)
        yield from _read_value(reader, sink, string, depth)
        before = ", "
    sink("]")


def _follows(reader: CallReader, before: str, closing: str) -> Reading[bool]:
    """Whether another member or item follows; a comma behind the last one is no fault."""
    if (yield from reader.skip(f" {closing}")):
        return False
    if not before:
        return True
    yield from reader.expect(",")
    return not (yield from reader.skip(f" {closing}"))


# Gemma 4's answers: a channel of thoughts, and calls with strings between ``<|"|>`` marks::
#
#     <|channel>thought
#     I look it up.<channel|>One moment.<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,days:3}
#     <tool_call|>
#
# (without the last line break). Nested values have the same notation, and names of members no
# quotes. The model may open a channel twice, and close one that is not open.
#
# Source: the chat template of google/gemma-4-31B-it, and ai.google.dev/gemma/docs/core.

_CHANNEL, _CHANNEL_END = "<|channel>", "<channel|>"
_THOUGHT = "thought"
_CALL, _CALL_END = "<|tool_call>", "<tool_call|>"
_QUOTE = '<|"|>'


def _gemma_string(reader: CallReader, sink: Sink) -> Reading[bool]:
    yield from reader.spaces()
    if (yield from reader.skip(_QUOTE)):
        yield from quoted_until(reader, _QUOTE, sink)
        return True
    if (yield from reader.peek()) != '"':
        return False
    yield from reader.value(sink)
    return True


def _gemma_read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    yield from reader.expect(" call:")
    name = (yield from reader.until("{")).strip()
    reader.start(name)
    yield from read_members(reader, reader.arguments, _gemma_string)
    reader.finish()
    yield from reader.skip(f" {_CALL_END}")


def _channel(reader: CallReader, tools: Tools) -> Reading[bool]:
    """Reads behind the mark of a channel; False if it opens none."""
    yield from reader.spaces()
    if not (yield from reader.skip(_THOUGHT)):
        return (yield from follows(reader, _CHANNEL))
    yield from reader.spaces()
    yield from thoughts(reader, (_CHANNEL_END,), (), _gemma_read, tools)
    return True


def _body(tools: Tools) -> Body:
    calls = (_CALL,) if tools else ()

    def run(reader: CallReader) -> Wait:
        while mark := (yield from reader.text_until(calls, (_CHANNEL, _CHANNEL_END))):
            if mark == _CALL:
                yield from opened(reader, tools, mark, _gemma_read)
            elif mark == _CHANNEL:
                if not (yield from _channel(reader, tools)):
                    reader.degrade(len(mark))
            elif not (yield from follows(reader, _CHANNEL, _CHANNEL_END, _CALL)):
                reader.degrade(len(mark))

    return run


GEMMA4 = CallFormat(
    name="gemma4",
    opening=(_CALL,),
    shape=CallShape(
        before_name=f"{_CALL}call:",
        after_name="{",
        suffix=f"}}{_CALL_END}",
        tagged=TaggedArguments(
            before_key="",
            after_key=":",
            after_value="",
            separator=",",
            text_after_key=f":{_QUOTE}",
            text_after_value=_QUOTE,
        ),
    ),
    # Nested values in the model's own notation are not JSON.
    binds=False,
    body=_body,
    turns=("<|turn>model\n", "<tool_response|>"),
    reasoning=(f"{_CHANNEL}{_THOUGHT}\n", _CHANNEL_END),
    stops=("<turn|>",),
    matches=marks_in("'<|tool_call>call:'"),
)


# LFM2's and LFM2.5's tool calls: a list of calls that look like Python::
#
#     <|tool_call_start|>[get_weather(city="Oslo", days=3), now()]<|tool_call_end|>
#
# Values are literals of Python or JSON; they are parsed, never evaluated. The template writes
# strings in single quotes without escapes, so a quote ends a string only where a value may end.
# Names may contain dots.
#
# Source: the chat templates of LiquidAI/LFM2-8B-A1B and LFM2.5-8B-A1B, and Liquid's tool use
# guide.

_OPEN, _CLOSE = "<|tool_call_start|>", "<|tool_call_end|>"
_QUOTES = ('"""', "'''", '"', "'")
_VALUE_ENDS = frozenset([*",)]}:", ""])
_ESCAPES = {
    **{"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0"},
    **{"\\": "\\", "'": "'", '"': '"', "\n": ""},
}
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


def _lfm_string(reader: CallReader, sink: Sink) -> Reading[bool]:
    yield from reader.spaces()
    quote = yield from reader.skip_one(_QUOTES)
    if quote is None:
        return False
    sink('"')
    while True:
        sink(inside((yield from reader.chunk(quote[0] + "\\"))))
        if (yield from reader.skip("\\")):
            sink((yield from _escape(reader)))
        elif (yield from reader.skip(quote)):
            space = yield from reader.run(str.isspace)
            following = yield from reader.peek()
            if following in _VALUE_ENDS:
                break
            sink(inside(quote + space))
        elif (yield from reader.skip(quote[0])):
            sink(inside(quote[0]))
        elif not (yield from reader.more()):
            raise Malformed
    sink('"')
    return True


def _escape(reader: CallReader) -> Reading[str]:
    """The JSON of an escape; its backslash has been read. An unknown one stays as it is."""
    char = yield from reader.char()
    if char != "u":
        return inside(_ESCAPES.get(char, f"\\{char}"))
    digits = ""
    while len(digits) < 4 and (yield from reader.peek()) in _HEX_DIGITS:
        digits += yield from reader.char()
    return f"\\u{digits}" if len(digits) == 4 else inside(f"\\u{digits}")


def _lfm_read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    yield from reader.expect(" [")
    while True:
        yield from reader.spaces()
        name = yield from reader.run(lambda c: c.isalnum() or c in "_.-")
        yield from reader.expect(" (")
        reader.start(name)
        yield from read_members(reader, reader.arguments, _lfm_string, ")", "=")
        reader.finish()
        if not (yield from reader.skip(" ,")):
            break
    yield from reader.skip(" ]")
    yield from reader.skip(f" {_CLOSE}")


def _matches(source: str) -> bool:
    """LFM2's template marks its list of tools with tokens, LFM2.5's only with words."""
    tokens = marks_in("<|tool_list_start|>", "<|tool_list_end|>")
    return tokens(source) or marks_in("List of tools: [", without=["<|tool_list_start|>"])(source)


LFM2 = CallFormat(
    name="lfm2",
    opening=(_OPEN,),
    shape=CallShape(
        prefix=f"{_OPEN}[",
        after_name="(",
        suffix=")",
        separator=", ",
        end=f"]{_CLOSE}",
        tagged=TaggedArguments(
            before_key="", after_key="=", after_value="", separator=", ", json_text=True
        ),
    ),
    # Strings in single quotes are the model's own as well.
    binds=False,
    body=text_with_marks((_OPEN,), _lfm_read),
    matches=_matches,
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
            text = next((empty[name] for name in empty if name in allowed), text)
        reader.arguments(typed(text, allowed))


def _elements(reader: CallReader, schema: Any, root: Any, close: str, depth: int) -> Wait:
    """Reads the items of an array or the members of an object, and the closing tag."""
    is_array = depth > 0 and (yield from reader.look((_ITEM,))) is not None
    reader.arguments("[" if is_array else "{")
    before = ""
    while not (yield from reader.skip(f" {close}")):
        yield from reader.expect(_ITEM if is_array else _ELEMENT)
        if is_array:
            key, kind = "item", items(schema, root)
        else:
            key = yield from reader.until(">")
            before, kind = f"{before}{quoted(key)}: ", member(schema, key, root)
        reader.arguments(before)
        yield from _value(reader, kind, root, f"{_MINIMAX_END}{key}>", depth + 1)
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
