"""Command R's tool calls: ``Action:`` and a fenced JSON list of {"tool_name", "parameters"}.
Command R7B writes ``<|START_ACTION|>[…]<|END_ACTION|>``, and answers between ``<|START_RESPONSE|>``
marks."""

from __future__ import annotations

from .base import CallFormat, CallShape, Tools, marked
from .objects import read_list
from .reader import CallReader, Wait

_ACTION = "Action:"
_BEGIN, _END = "<|START_ACTION|>", "<|END_ACTION|>"
_ANSWER = ("<|START_RESPONSE|>", "<|END_RESPONSE|>")


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    yield from reader.expect(" ```json")
    yield from read_list(reader)
    yield from reader.skip(" ```")


def _read_r7b(reader: CallReader, tools: Tools, mark: str) -> Wait:
    if mark in _ANSWER:
        return
    yield from read_list(reader)
    yield from reader.skip(f" {_END}")


COMMAND_R = CallFormat(
    name="command-r",
    opening=(_ACTION,),
    shape=CallShape(
        prefix="Action: ```json\n[\n",
        before_name='    {\n        "tool_name": "',
        after_name='",\n        "parameters": ',
        suffix="\n    }",
        separator=",\n",
        end="\n]```",
    ),
    body=marked((_ACTION,), _read),
)

COMMAND_R7B = CallFormat(
    name="command-r7b",
    opening=(_BEGIN,),
    shape=CallShape(
        prefix=f"{_BEGIN}[\n",
        before_name='    {"tool_call_id": "0", "tool_name": "',
        after_name='", "parameters": ',
        suffix="}",
        separator=",\n",
        end=f"\n]{_END}",
    ),
    body=marked((_BEGIN, *_ANSWER), _read_r7b),
)
