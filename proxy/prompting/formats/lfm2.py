"""LFM2's and LFM2.5's tool calls: a list of calls that look like Python::

    <|tool_call_start|>[get_weather(city="Oslo", days=3), now()]<|tool_call_end|>

Values are literals of Python or JSON; they are parsed, never evaluated. The template writes strings
in single quotes without escapes, so a quote ends a string only where a value may end. Names may
contain dots.

Source: the chat templates of LiquidAI/LFM2-8B-A1B and LFM2.5-8B-A1B, and Liquid's tool use guide.
"""

from __future__ import annotations

import json
import sys

from .answers import answer, marks_in
from .base import CallFormat, CallShape, TaggedArguments, Tools
from .notation import Sink, read_value
from .reader import CallReader, Malformed, Reading, Wait
from .tagged import inside

_OPEN, _CLOSE = "<|tool_call_start|>", "<|tool_call_end|>"
_TAGS = ("<think>", "</think>")
_QUOTES = ('"""', "'''", '"', "'")
_VALUE_ENDS = frozenset([*",)]}:", ""])
_ESCAPES = {
    **{"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0"},
    **{"\\": "\\", "'": "'", '"': '"', "\n": ""},
}
_HEX = {"x": 2, "u": 4, "U": 8}
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


def _string(reader: CallReader, sink: Sink) -> Reading[bool]:
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
    if char not in _HEX:
        return inside(_ESCAPES.get(char, f"\\{char}"))
    digits = ""
    while len(digits) < _HEX[char] and (yield from reader.peek()) in _HEX_DIGITS:
        digits += yield from reader.char()
    if len(digits) < _HEX[char] or int(digits, 16) > sys.maxunicode:
        return inside(f"\\{char}{digits}")
    code = int(digits, 16)
    # Half of a surrogate pair is written as JSON writes it.
    return f"\\u{code:04x}" if 0xD800 <= code < 0xE000 else inside(chr(code))


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    yield from reader.expect(" [")
    while True:
        yield from reader.spaces()
        name = yield from reader.run(lambda c: c.isalnum() or c in "_.-")
        yield from reader.expect(" (")
        yield from _read_call(reader, name)
        if not (yield from reader.skip(" ,")):
            break
    yield from reader.skip(" ]")
    yield from reader.skip(f" {_CLOSE}")


def _read_call(reader: CallReader, name: str) -> Wait:
    """Reads the arguments of a call; its "(" has been read."""
    reader.start(name)
    before = "{"
    while not (yield from reader.skip(" )")):
        if before != "{":
            yield from reader.expect(",")
            if (yield from reader.skip(" )")):
                break
        yield from reader.spaces()
        key = yield from reader.run(lambda c: c.isalnum() or c in "_-")
        space = yield from reader.run(str.isspace)
        if not key or not (yield from reader.skip("=")):
            reader.put_back(key + space)
            raise Malformed
        reader.arguments(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
        yield from read_value(reader, reader.arguments, _string)
        before = ", "
    reader.arguments("}" if before != "{" else "{}")
    reader.finish()


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
    body=answer(_TAGS, (_OPEN,), _read),
    reads_reasoning=True,
    turns=("<|im_start|>assistant\n",),
    reasoning=_TAGS,
    stops=("<|im_end|>",),
    matches=_matches,
)
