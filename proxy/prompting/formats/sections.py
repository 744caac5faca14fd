"""Answers in sections between marks: thoughts, text and calls."""

from __future__ import annotations

from collections.abc import Callable

from .base import (
    ID,
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
from .reader import Body, CallReader, Wait
from .shaped import ShapeReader


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
