"""Answers in parts: messages with headers, or sections between marks.

In the first, each header says what its message is::

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
from .base import (
    ID,
    NAME,
    TYPE,
    CallFormat,
    CallShape,
    Read,
    TaggedArguments,
    Tools,
    follows,
    marks_in,
    opened,
    opening_tag,
    thoughts,
)
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


# Sections: thoughts, text and calls between marks.


def sections(
    thoughts_marks: tuple[str, str],
    openings: tuple[str, ...],
    endings: tuple[str, ...],
    call: str,
    read: Read,
    behind: tuple[str, ...],
) -> Callable[[Tools], Body]:
    """The body of a format with thoughts between marks, and text between one of `openings`, which
    may be missing, and one of `endings`, which only ends it before `behind` or the answer's end."""
    think, think_end = thoughts_marks

    def body(tools: Tools) -> Body:
        calls = (call,) if tools else ()

        def run(reader: CallReader) -> Wait:
            if (yield from opening_tag(reader, thoughts_marks)) == think:
                yield from reader.spaces()
                yield from reader.skip(think)  # some models repeat the prompt's mark
                yield from thoughts(reader, (think_end, *openings), calls, read, tools)
            yield from opening_tag(reader, openings)
            while mark := (yield from reader.text_until(calls, endings)):
                if mark == call:
                    if (yield from opened(reader, tools, mark, read)):
                        yield from opening_tag(reader, openings)
                elif not (yield from follows(reader, *behind)):
                    reader.degrade(len(mark))

        return run

    return body


# Command R7B's and Cohere's later answers: all parts stand between marks::
#
#     <|START_THINKING|>I look it up.<|END_THINKING|><|START_ACTION|>[
#         {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Oslo"}}
#     ]<|END_ACTION|>
#
#     <|START_RESPONSE|>It is sunny.<|END_RESPONSE|>
#
# Models after Command R7B write ``TEXT`` instead of ``RESPONSE``.
#
# Source: the chat templates of CohereForAI/c4ai-command-r7b-12-2024, and Cohere2MoE in llama.cpp.

_COHERE_THINK, _COHERE_THINK_END = "<|START_THINKING|>", "<|END_THINKING|>"
_BEGIN, _COHERE_END = "<|START_ACTION|>", "<|END_ACTION|>"
_RESPONSE, _RESPONSE_END = "<|START_RESPONSE|>", "<|END_RESPONSE|>"
_COHERE_TEXT, _COHERE_TEXT_END = "<|START_TEXT|>", "<|END_TEXT|>"
_TURN_END = "<|END_OF_TURN_TOKEN|>"
_TEXTS = (_RESPONSE, _COHERE_TEXT)
_COHERE_ENDS = (_RESPONSE_END, _COHERE_TEXT_END, _TURN_END)


_COHERE_SHAPE = CallShape(
    prefix=f"{_BEGIN}[\n",
    before_name=f'    {{"tool_call_id": "{ID}", "tool_name": "',
    after_name='", "parameters": ',
    suffix="}",
    separator=",\n",
    end=f"\n]{_COHERE_END}",
    ids="index",
)


def _format(name: str, text: tuple[str, str], *marks: str) -> CallFormat:
    return CallFormat(
        name=name,
        opening=(_BEGIN,),
        shape=_COHERE_SHAPE,
        body=sections(
            (_COHERE_THINK, _COHERE_THINK_END),
            _TEXTS,
            _COHERE_ENDS,
            _BEGIN,
            ShapeReader(_COHERE_SHAPE).read,
            (_BEGIN, _TURN_END),
        ),
        turns=("<|CHATBOT_TOKEN|>",),
        reasoning=(_COHERE_THINK, _COHERE_THINK_END),
        content=text,
        stops=(_TURN_END,),
        tokens=(*_TEXTS, *_COHERE_ENDS[:-1]),
        matches=marks_in(_BEGIN, *marks),
    )


COHERE2_MOE = _format("cohere2-moe", (_COHERE_TEXT, _COHERE_TEXT_END), _COHERE_TEXT)
COMMAND_R7B = _format("command-r7b", (_RESPONSE, _RESPONSE_END), _RESPONSE)


# Kimi K3's answers: sections between tags, and calls with tagged arguments::
#
#     <|open|>think<|sep|>I look it up.<|close|>think<|sep|>
#     <|open|>response<|sep|>One moment.<|close|>response<|sep|>
#     <|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|>
#     <|open|>argument key="city" type="string"<|sep|>Oslo<|close|>argument<|sep|>
#     <|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>
#
# (without line breaks). The prompt opens the first section.
#
# Source: the template of that name in llama.cpp, models/templates/Kimi-K3.jinja.

_SEP = "<|sep|>"
_KIMI_THINK, _KIMI_THINK_END = f"<|open|>think{_SEP}", f"<|close|>think{_SEP}"
_KIMI_TEXT, _KIMI_TEXT_END = f"<|open|>response{_SEP}", f"<|close|>response{_SEP}"
_TOOLS = f"<|open|>tools{_SEP}"
_KIMI_END = f"<|close|>message{_SEP}"
_STOP = "<|end_of_msg|>"

_KIMI_SHAPE = CallShape(
    prefix=_TOOLS,
    before_name='<|open|>call tool="',
    after_name=f'" index="{ID}"{_SEP}',
    suffix=f"<|close|>call{_SEP}",
    end=f"<|close|>tools{_SEP}{_KIMI_END}",
    ids="index",
    tagged=TaggedArguments(
        before_key='<|open|>argument key="',
        after_key=f'" type="{TYPE}"{_SEP}',
        text_after_key=f'" type="string"{_SEP}',
        after_value=f"<|close|>argument{_SEP}",
    ),
)


KIMI_K3 = CallFormat(
    name="kimi-k3",
    opening=(_TOOLS,),
    shape=_KIMI_SHAPE,
    body=sections(
        (_KIMI_THINK, _KIMI_THINK_END),
        (_KIMI_TEXT,),
        (_KIMI_TEXT_END, _KIMI_END, _STOP),
        _TOOLS,
        ShapeReader(_KIMI_SHAPE).read,
        (_TOOLS, _KIMI_END, _STOP),
    ),
    turns=(f'<|open|>message role="assistant"{_SEP}',),
    reasoning=(_KIMI_THINK, _KIMI_THINK_END),
    content=(_KIMI_TEXT, _KIMI_TEXT_END),
    stops=(_STOP,),
    matches=marks_in("<|open|>", "<|close|>", _STOP),
)
