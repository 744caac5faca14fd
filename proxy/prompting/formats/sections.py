"""Answers in sections between marks: thoughts, text and calls."""

from __future__ import annotations

from .base import (
    ID,
    TYPE,
    CallFormat,
    CallShape,
    TaggedArguments,
    Tools,
    follows,
    marks_in,
    opened,
    opening_tag,
    thoughts,
)
from .objects import read_list
from .reader import Body, CallReader, Malformed, Wait
from .shaped import reads

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


def _cohere_read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    yield from read_list(reader)
    if not reader.behind_call:
        raise Malformed
    yield from reader.skip(f" {_COHERE_END}")


def _cohere_body(tools: Tools) -> Body:
    calls = (_BEGIN,) if tools else ()

    def run(reader: CallReader) -> Wait:
        begins = yield from opening_tag(reader, (_COHERE_THINK, _COHERE_THINK_END))
        if begins == _COHERE_THINK:
            yield from reader.spaces()
            yield from reader.skip(_COHERE_THINK)  # some models repeat the prompt's mark
            yield from thoughts(reader, (_COHERE_THINK_END, *_TEXTS), calls, _cohere_read, tools)
        yield from opening_tag(reader, _TEXTS)  # it may be missing
        while mark := (yield from reader.text_until(calls, _COHERE_ENDS)):
            if mark in calls:
                if (yield from opened(reader, tools, mark, _cohere_read)):
                    yield from opening_tag(reader, _TEXTS)
            elif not (yield from follows(reader, _BEGIN, _TURN_END)):
                reader.degrade(len(mark))

    return run


def _format(name: str, text: tuple[str, str], *marks: str) -> CallFormat:
    return CallFormat(
        name=name,
        opening=(_BEGIN,),
        shape=CallShape(
            prefix=f"{_BEGIN}[\n",
            before_name=f'    {{"tool_call_id": "{ID}", "tool_name": "',
            after_name='", "parameters": ',
            suffix="}",
            separator=",\n",
            end=f"\n]{_COHERE_END}",
            ids="index",
        ),
        body=_cohere_body,
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
_KIMI_ENDS = (_KIMI_TEXT_END, _KIMI_END, _STOP)


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
_kimi_read = reads(_KIMI_SHAPE)


def _kimi_body(tools: Tools) -> Body:
    calls = (_TOOLS,) if tools else ()

    def run(reader: CallReader) -> Wait:
        if (yield from reader.skip(f" {_KIMI_THINK}")):
            yield from reader.spaces()
            yield from thoughts(reader, (_KIMI_THINK_END, _KIMI_TEXT), calls, _kimi_read, tools)
            yield from reader.spaces()
        yield from reader.skip(_KIMI_TEXT)
        while mark := (yield from reader.text_until(calls, _KIMI_ENDS)):
            if mark == _TOOLS:
                yield from opened(reader, tools, mark, _kimi_read)
            elif not (yield from follows(reader, _TOOLS, _KIMI_END, _STOP)):
                reader.degrade(len(mark))

    return run


KIMI_K3 = CallFormat(
    name="kimi-k3",
    opening=(_TOOLS,),
    shape=_KIMI_SHAPE,
    body=_kimi_body,
    turns=(f'<|open|>message role="assistant"{_SEP}',),
    reasoning=(_KIMI_THINK, _KIMI_THINK_END),
    content=(_KIMI_TEXT, _KIMI_TEXT_END),
    stops=(_STOP,),
    matches=marks_in("<|open|>", "<|close|>", _STOP),
)
