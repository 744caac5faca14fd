"""Values that look like JSON but are quoted differently, converted to JSON while they stream.

Read are objects, lists, tuples, numbers, and the words for true, false and null of JSON and Python.
Strings are read by a function of the format. Nothing is evaluated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from .reader import CallReader, Malformed, Reading, Wait
from .scanner import is_json

Sink = Callable[[str], None]
String = Callable[[CallReader, Sink], Reading[bool]]
"""Reads a string if one comes next, passing its JSON to the sink; False if none comes."""

MAX_DEPTH = 64
_WORDS = {
    "true": "true",
    "True": "true",
    "false": "false",
    "False": "false",
    "null": "null",
    "None": "null",
}
_CLOSING = {"[": "]", "(": ")"}
_IN_KEY = frozenset("{}[](),:\"'\n")


def read_value(reader: CallReader, sink: Sink, string: String, depth: int = 0) -> Wait:
    """Takes a value. Raises Malformed if there is none, or it is nested too deeply."""
    if depth > MAX_DEPTH:
        raise Malformed
    yield from reader.spaces()
    if (yield from string(reader, sink)):
        return
    if (yield from reader.skip("{")):
        yield from read_members(reader, sink, string, depth)
    elif opening := (yield from reader.skip_one(tuple(_CLOSING))):
        yield from _items(reader, sink, string, _CLOSING[opening], depth)
    else:
        word = yield from reader.run(lambda c: c.isalnum() or c in "+-._")
        try:
            sink(_plain(word))
        except Malformed:
            reader.put_back(word)
            raise


def read_members(reader: CallReader, sink: Sink, string: String, depth: int = 0) -> Wait:
    """Takes the members of an object and its end; its "{" has been read."""
    sink("{")
    before = ""
    while not (yield from reader.skip(" }")):
        if before:
            yield from reader.expect(",")
            if (yield from reader.skip(" }")):
                break
        parts: list[str] = []
        if not (yield from string(reader, parts.append)):
            key = (yield from reader.run(lambda c: c not in _IN_KEY)).strip()
            if not key:
                raise Malformed
            parts = [json.dumps(key, ensure_ascii=False)]
        yield from reader.expect(" :")
        sink(f"{before}{''.join(parts)}: ")
        yield from read_value(reader, sink, string, depth + 1)
        before = ", "
    sink("}")


def _items(reader: CallReader, sink: Sink, string: String, closing: str, depth: int) -> Wait:
    sink("[")
    before = ""
    while not (yield from reader.skip(f" {closing}")):
        if before:
            yield from reader.expect(",")
            if (yield from reader.skip(f" {closing}")):
                break
        sink(before)
        yield from read_value(reader, sink, string, depth + 1)
        before = ", "
    sink("]")


def _plain(word: str) -> str:
    """A number or word as JSON. Raises Malformed."""
    if word in _WORDS:
        return _WORDS[word]
    if is_json(word):
        return word
    try:
        number = float(word)
        if not math.isfinite(number):
            raise Malformed
        return json.dumps(int(word) if word.replace("_", "").lstrip("+-").isdigit() else number)
    except ValueError:
        raise Malformed from None
