"""Gemma 4's answers: a channel of thoughts, and calls with strings between ``<|"|>`` marks::

    <|channel>thought
    I look it up.<channel|>One moment.<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,days:3}
    <tool_call|>

(without the last line break). Nested values have the same notation, and names of members no quotes.
The model may open a channel twice, and close one that is not open.

Source: the chat template of google/gemma-4-31B-it, and ai.google.dev/gemma/docs/core.
"""

from __future__ import annotations

from .answers import marks_in, opened, thoughts
from .base import CallFormat, CallShape, TaggedArguments, Tools
from .notation import Sink, read_members
from .reader import Body, CallReader, Reading, Wait
from .tagged import inside, stream_until

_CHANNEL, _CHANNEL_END = "<|channel>", "<channel|>"
_THOUGHT = "thought"
_CALL, _CALL_END = "<|tool_call>", "<tool_call|>"
_QUOTE = '<|"|>'


def _string(reader: CallReader, sink: Sink) -> Reading[bool]:
    yield from reader.spaces()
    if (yield from reader.skip(_QUOTE)):
        sink('"')
        yield from stream_until(reader, _QUOTE, lambda text: sink(inside(text)))
        sink('"')
        return True
    if (yield from reader.peek()) != '"':
        return False
    yield from reader.value(sink)
    return True


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    yield from reader.expect(" call:")
    name = (yield from reader.until("{")).strip()
    reader.start(name)
    yield from read_members(reader, reader.arguments, _string)
    reader.finish()
    yield from reader.skip(f" {_CALL_END}")


def _channel(reader: CallReader, tools: Tools) -> Reading[bool]:
    """Reads behind the mark of a channel; False if it opens none."""
    yield from reader.spaces()
    if not (yield from reader.skip(_THOUGHT)):
        return (yield from _follows(reader, _CHANNEL))
    yield from reader.spaces()
    yield from thoughts(reader, (_CHANNEL_END,), (), _read, tools)
    return True


def _follows(reader: CallReader, *marks: str) -> Reading[bool]:
    """Whether one of ``marks`` follows, or the end."""
    yield from reader.spaces()
    return not (yield from reader.more()) or (yield from reader.look(marks)) is not None


def _body(tools: Tools) -> Body:
    calls = (_CALL,) if tools else ()

    def run(reader: CallReader) -> Wait:
        while mark := (yield from reader.text_until(calls, (_CHANNEL, _CHANNEL_END))):
            if mark == _CALL:
                yield from opened(reader, tools, mark, _read)
            elif mark == _CHANNEL:
                if not (yield from _channel(reader, tools)):
                    reader.degrade(len(mark))
            elif not (yield from _follows(reader, _CHANNEL, _CHANNEL_END, _CALL)):
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
    reads_reasoning=True,
    turns=("<|turn>model\n", "<tool_response|>"),
    reasoning=(f"{_CHANNEL}{_THOUGHT}\n", _CHANNEL_END),
    stops=("<turn|>",),
    matches=marks_in("'<|tool_call>call:'"),
)
