"""Hermes' and Qwen's tool calls: ``<tool_call>`` around JSON; Qwen3-Coder writes XML inside.

<tool_call>
{"name": "get_weather", "arguments": {"city": "Oslo"}}
</tool_call>

<tool_call>
<function=get_weather>
<parameter=city>
Oslo
</parameter>
</function>
</tool_call>
"""

from __future__ import annotations

import json
from typing import Any

from .base import CallFormat, CallShape, Tools, marked
from .objects import read_list, read_object
from .reader import MAX_HELD, CallReader, Malformed, Wait

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    try:
        yield from reader.spaces()
        char = yield from reader.peek()
        if mark != _OPEN:
            yield from _read_xml(reader, tools)
        elif char == "{":
            yield from read_object(reader)
        elif char == "[":
            yield from read_list(reader)
        else:
            yield from reader.expect("<function=")
            yield from _read_xml(reader, tools)
        yield from reader.spaces()
    except Malformed:
        # Models often omit the last brace; the closing tag is not text either way.
        reader.degrade()
    if reader.behind_call:
        yield from reader.skip(f" {_CLOSE}")


def _read_xml(reader: CallReader, tools: Tools) -> Wait:
    """Reads the call after ``<function=``. The arguments stream parameter by parameter."""
    name = (yield from reader.until(">")).strip()
    properties = tools.get(name, {}).get("properties", {})
    started = False
    while True:
        yield from reader.spaces()
        tag = yield from reader.skip_one(("<parameter=", "</function>"))
        if tag is None:
            raise Malformed
        if tag == "</function>":
            break
        key = (yield from reader.until(">")).strip()
        text = yield from reader.until("</parameter>", MAX_HELD)
        value = _typed(text.removeprefix("\n").removesuffix("\n"), properties, key)
        if not started:
            reader.start(name)
        reader.arguments(("," if started else "{") + json.dumps(key) + ": " + value)
        started = True
    if started:
        reader.arguments("}")
        reader.finish()
    else:
        reader.call(name, "{}")


def _typed(text: str, properties: Any, key: str) -> str:
    """A parameter as JSON: a string if the schema says so or if it is not valid JSON."""
    schema = properties.get(key) if isinstance(properties, dict) else None
    if isinstance(schema, dict) and schema.get("type") == "string":
        return json.dumps(text, ensure_ascii=False)
    try:
        return json.dumps(json.loads(text, parse_constant=_refuse), ensure_ascii=False)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


HERMES = CallFormat(
    name="hermes",
    opening=(_OPEN,),
    shape=CallShape(
        before_name='<tool_call>\n{"name": "',
        after_name='", "arguments": ',
        suffix="}\n</tool_call>",
        separator="\n",
    ),
    body=marked((_OPEN,), _read),
)

QWEN_XML = CallFormat(
    name="qwen-xml",
    opening=(_OPEN, "<function="),
    # Under a grammar it writes Hermes' JSON, which the parser reads as well.
    shape=HERMES.shape,
    body=marked((_OPEN, "<function="), _read),
)
