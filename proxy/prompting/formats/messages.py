"""Answers that consist of messages, each with a header that says what it is::

    MESSAGE (end start MESSAGE)*      MESSAGE = HEADER message TEXT

The prompt ends with ``start``. An end is one only if another message or nothing follows, and in
the answer's text a mark in code is text. An answer that does not begin with a header is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from msgspec.structs import replace

from ...core.events import ReasoningDelta, TextDelta
from .base import NAME, CallFormat, CallShape, TaggedArguments, Tools, marks_in
from .objects import read_arguments
from .reader import Body, CallReader, Malformed, Reading, Wait
from .shaped import ShapeReader

_BREAK = "\n\n"
"""Between two messages of text, or of reasoning."""


Header = tuple[Literal["text", "reasoning", "call", "other"], str]
"""What a message is, and the name of the tool of a call; "other" is for nobody here."""


def messages(
    *,
    start: str,
    openings: Sequence[str],
    message: str,
    ends: Sequence[str],
    header: Callable[[str, Tools], Header],
    read: Callable[[CallReader, Tools, str], Wait],
) -> Callable[[Tools], Body]:
    """The body of such a format. A header begins with one of `openings`, behind white space;
    ``read`` reads the call of a named tool."""

    def next_header(reader: CallReader, tools: Tools) -> Reading[Header]:
        at = reader.position
        yield from reader.spaces()
        if (yield from reader.look(openings)) is None:
            raise Malformed
        reader.call_at = at
        return header((yield from reader.until(message)), tools)

    def following(reader: CallReader, tools: Tools, drops: bool) -> Reading[Header | None]:
        """Reads, or drops, the rest of a message. The header of the next one, None at the end."""
        while True:
            if drops:
                while (yield from reader.more()) and not (yield from reader.skip_one(ends)):
                    yield from reader.char()
            elif not (yield from reader.text_until((), ends)):
                return None
            try:
                yield from reader.spaces()
                if not (yield from reader.more()):
                    return None
                yield from reader.expect(start)
                return (yield from next_header(reader, tools))
            except Malformed:
                if not drops:
                    reader.degrade()

    def body(tools: Tools) -> Body:
        def run(reader: CallReader) -> Wait:
            now: Header | None = ("text", "")
            try:
                reader.keep()
                now = yield from next_header(reader, tools)
            except Malformed:
                reader.rewind()
            written: set[str] = set()
            while now is not None:
                kind, name = now
                reader.begin_text(ReasoningDelta if kind == "reasoning" else TextDelta)
                if kind == "call":
                    reader.keep()
                    try:
                        yield from read(reader, tools, name)
                    except Malformed:
                        reader.degrade()
                elif kind != "other" and kind in written and (yield from reader.more()):
                    reader.text(_BREAK)
                written.add(kind)
                now = yield from following(reader, tools, drops=kind == "other")

        return run

    return body


# gpt-oss' answers: messages with a channel, and a recipient if they are calls (OpenAI Harmony)::
#
#     <|start|>assistant<|channel|>analysis<|message|>I look it up.<|end|>
#     <|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>
#     <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>
#     {"city": "Oslo"}<|call|>
#     <|start|>assistant<|channel|>final<|message|>It is sunny.<|return|>
#
# (without line breaks). The recipient may also stand behind ``assistant``. The prompt ends with
# ``<|start|>assistant``. Messages to tools that the client does not have, such as the model's own
# browser, are dropped: nobody could answer them.
#
# Source: the chat template of openai/gpt-oss-120b, and OpenAI's Harmony response format.

_START, _MESSAGE, _CHANNEL = "<|start|>assistant", "<|message|>", "<|channel|>"
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNELS = re.compile(re.escape(_CHANNEL) + r"\s*(\w+)")
_PEOPLE = frozenset({"assistant", "user", "all"})


def _harmony_header(text: str, tools: Tools) -> Header:
    recipients = [name for name in _RECIPIENT.findall(text) if name not in _PEOPLE]
    channels = _CHANNELS.findall(text)
    if not recipients:
        return ("reasoning" if channels[-1:] == ["analysis"] else "text"), ""
    name = recipients[-1].removeprefix("functions.")
    is_tool = name in tools or (bool(tools) and name != recipients[-1])
    return ("call" if is_tool else "other"), name


HARMONY = CallFormat(
    name="harmony",
    opening=(f"{_CHANNEL}commentary to=functions.", f"{_START} to=functions."),
    shape=CallShape(
        before_name=f"{_CHANNEL}commentary to=functions.",
        after_name=f" <|constrain|>json{_MESSAGE}",
        parallel=False,
    ),
    body=messages(
        start=_START,
        openings=("to=", _CHANNEL, _MESSAGE),
        message=_MESSAGE,
        ends=("<|end|>", "<|call|>", "<|return|>"),
        header=_harmony_header,
        read=lambda reader, tools, name: read_arguments(reader, name),
    ),
    turns=(_START,),
    reasoning=(f"{_CHANNEL}analysis{_MESSAGE}", f"<|end|>{_START}"),
    content=(f"{_CHANNEL}final{_MESSAGE}", ""),
    stops=("<|return|>", "<|call|>"),
    tokens=("<|end|>", "<|start|>", "<|constrain|>"),
    matches=marks_in(_CHANNEL),
)


# Muse Glimmer's answers: messages to a recipient, and calls as XML (ATEM)::
#
#     <|start|>assistant to=self<|message|>I look it up.<|eom|>
#     <|start|>assistant to=get_weather<|message|><atem:function_calls>
#     <atem:invoke name="get_weather">
#     <atem:parameter name="city">Oslo</atem:parameter>
#     </atem:invoke>
#     </atem:function_calls><|eom|>
#     <|start|>assistant to=user<|message|>It is sunny.<|eot|>
#
# (without line breaks between messages). The prompt ends with ``<|start|>assistant``.
#
# Source: the template of that name in llama.cpp, models/templates/muse-glimmer.jinja.

_CALLS, _CALLS_END = "<atem:function_calls>", "</atem:function_calls>"
_INVOKE, _INVOKE_END = '<atem:invoke name="', "</atem:invoke>"
_MUSE_SHAPE = CallShape(
    before_name=" to=",
    after_name=f'{_MESSAGE}{_CALLS}\n{_INVOKE}{NAME}">\n',
    suffix=f"{_INVOKE_END}\n{_CALLS_END}",
    separator=f"<|eom|>{_START}",
    tagged=TaggedArguments(
        before_key='<atem:parameter name="', after_key='">', after_value="</atem:parameter>\n"
    ),
)
_INVOKES = ShapeReader(
    replace(
        _MUSE_SHAPE,
        prefix=_CALLS,
        before_name=_INVOKE,
        after_name='">\n',
        suffix=_INVOKE_END,
        separator="\n",
        end=_CALLS_END,
    )
)


def _muse_header(text: str, tools: Tools) -> Header:
    _, _, recipient = text.partition("to=")
    recipient = recipient.strip()
    if recipient in ("", "user"):
        return "text", ""
    if recipient == "self":
        return "reasoning", ""
    return ("call" if tools else "other"), recipient


def _muse_read(reader: CallReader, tools: Tools, name: str) -> Wait:
    yield from reader.expect(f" {_CALLS}")
    yield from _INVOKES.read(reader, tools, _CALLS)


MUSE = CallFormat(
    name="muse",
    opening=(_CALLS,),
    shape=_MUSE_SHAPE,
    body=messages(
        start=_START,
        openings=("to=", _MESSAGE),
        message=_MESSAGE,
        ends=("<|eom|>", "<|eot|>"),
        header=_muse_header,
        read=_muse_read,
    ),
    turns=(_START,),
    reasoning=(f" to=self{_MESSAGE}", f"<|eom|>{_START}"),
    content=(f" to=user{_MESSAGE}", ""),
    stops=("<|eot|>",),
    tokens=("<|eom|>", "<|start|>", "<atem:invoke", "<atem:parameter"),
    matches=marks_in(_CALLS, "<|eom|>"),
)
