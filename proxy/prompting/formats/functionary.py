"""Functionary's tool calls. Version 3.1 writes ``<function=name>{…}</function>``. Versions 3 and
3.2 write a recipient per line: ``>>>name`` and JSON below it, or ``>>>all`` and text below it.
Their prompt ends with ``>>>``, so a reply begins with the name."""

from __future__ import annotations

from .base import CallFormat, CallShape, Tools, marked
from .objects import read_arguments
from .reader import CallReader, Malformed, Wait

_TAG, _CLOSE = "<function=", "</function>"
_TO = ">>>"


def _read_tag(reader: CallReader, tools: Tools, mark: str) -> Wait:
    name = yield from reader.until(">")
    yield from read_arguments(reader, name)
    yield from reader.skip(f" {_CLOSE}")


def _read_recipient(reader: CallReader, tools: Tools, mark: str = "") -> Wait:
    yield from reader.skip(_TO)
    to = yield from reader.skip_one(sorted(f"{name}\n" for name in (*tools, "all")))
    if to is None:
        raise Malformed
    if to == "all\n":
        reader.keep()
        return
    yield from read_arguments(reader, to[:-1])


FUNCTIONARY = CallFormat(
    name="functionary",
    opening=(_TAG,),
    shape=CallShape(before_name=_TAG, after_name=">", suffix=_CLOSE),
    body=marked((_TAG,), _read_tag),
)

FUNCTIONARY_V3 = CallFormat(
    name="functionary-v3",
    opening=(_TO,),
    # The prompt ends with the first ">>>".
    shape=CallShape(after_name="\n", separator=_TO),
    body=marked((_TO,), _read_recipient, _read_recipient),
)
