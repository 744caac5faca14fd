"""Command R7B's and Cohere's later answers: all parts stand between marks::

    <|START_THINKING|>I look it up.<|END_THINKING|><|START_ACTION|>[
        {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Oslo"}}
    ]<|END_ACTION|>

    <|START_RESPONSE|>It is sunny.<|END_RESPONSE|>

Models after Command R7B write ``TEXT`` instead of ``RESPONSE``.

Source: the chat templates of CohereForAI/c4ai-command-r7b-12-2024, and Cohere2MoE in llama.cpp.
"""

from __future__ import annotations

from .answers import marks_in, opened, thoughts
from .base import ID, CallFormat, CallShape, Tools
from .objects import read_list
from .reader import Body, CallReader, Malformed, Reading, Wait

_THINK, _THINK_END = "<|START_THINKING|>", "<|END_THINKING|>"
_BEGIN, _END = "<|START_ACTION|>", "<|END_ACTION|>"
_RESPONSE, _RESPONSE_END = "<|START_RESPONSE|>", "<|END_RESPONSE|>"
_TEXT, _TEXT_END = "<|START_TEXT|>", "<|END_TEXT|>"
_TURN_END = "<|END_OF_TURN_TOKEN|>"
_TEXTS = (_RESPONSE, _TEXT)
_ENDS = (_RESPONSE_END, _TEXT_END, _TURN_END)


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    yield from read_list(reader)
    if not reader.behind_call:
        raise Malformed
    yield from reader.skip(f" {_END}")


def _body(tools: Tools) -> Body:
    calls = (_BEGIN,) if tools else ()

    def run(reader: CallReader) -> Wait:
        reader.keep()
        yield from reader.spaces()
        begins = yield from reader.skip_one((_THINK, _THINK_END))
        if begins is None:
            reader.rewind()
        elif begins == _THINK:
            yield from reader.spaces()
            yield from reader.skip(_THINK)  # some models repeat the prompt's mark
            yield from thoughts(reader, (_THINK_END, *_TEXTS), calls, _read, tools)
        yield from _begin_text(reader)
        while mark := (yield from reader.text_until(calls, _ENDS)):
            if mark in calls:
                if (yield from opened(reader, tools, mark, _read)):
                    yield from _begin_text(reader)
            elif not (yield from _is_end(reader)):
                reader.degrade(len(mark))

    return run


def _begin_text(reader: CallReader) -> Wait:
    """Takes the mark before text, which may be missing."""
    reader.keep()
    yield from reader.spaces()
    if (yield from reader.skip_one(_TEXTS)) is None:
        reader.rewind()


def _is_end(reader: CallReader) -> Reading[bool]:
    """Whether calls or the end of the answer follow."""
    yield from reader.spaces()
    following = (_BEGIN, _TURN_END)
    return not (yield from reader.more()) or (yield from reader.look(following)) is not None


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
            end=f"\n]{_END}",
            ids="index",
        ),
        body=_body,
        reads_reasoning=True,
        turns=("<|CHATBOT_TOKEN|>",),
        reasoning=(_THINK, _THINK_END),
        content=text,
        stops=(_TURN_END,),
        tokens=(*_TEXTS, *_ENDS[:-1]),
        matches=marks_in(_BEGIN, *marks),
    )


COHERE2_MOE = _format("cohere2-moe", (_TEXT, _TEXT_END), _TEXT)
COMMAND_R7B = _format("command-r7b", (_RESPONSE, _RESPONSE_END), _RESPONSE)
