"""gpt-oss' answers: messages with a channel, and a recipient if they are calls (OpenAI Harmony)::

    <|start|>assistant<|channel|>analysis<|message|>I look it up.<|end|>
    <|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>
    <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>
    {"city": "Oslo"}<|call|>
    <|start|>assistant<|channel|>final<|message|>It is sunny.<|return|>

(without line breaks). The recipient may also stand behind ``assistant``. The prompt ends with
``<|start|>assistant``. Messages to tools that the client does not have, such as the model's own
browser, are dropped: nobody could answer them.

Source: the chat template of openai/gpt-oss-120b, and OpenAI's Harmony response format.
"""

from __future__ import annotations

import re

from .answers import marks_in
from .base import CallFormat, CallShape, Tools
from .messages import Header, messages
from .objects import read_arguments
from .reader import CallReader, Wait

_START, _MESSAGE, _CHANNEL = "<|start|>assistant", "<|message|>", "<|channel|>"
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNELS = re.compile(re.escape(_CHANNEL) + r"\s*(\w+)")
_PEOPLE = frozenset({"assistant", "user", "all"})


def _header(text: str, tools: Tools) -> Header:
    recipients = [name for name in _RECIPIENT.findall(text) if name not in _PEOPLE]
    channels = _CHANNELS.findall(text)
    if not recipients:
        return Header(kind="reasoning" if channels[-1:] == ["analysis"] else "text")
    name = recipients[-1].removeprefix("functions.")
    known = name in tools or (bool(tools) and name != recipients[-1])
    return Header(kind="call" if known else "other", name=name)


def _read(reader: CallReader, tools: Tools, name: str) -> Wait:
    yield from read_arguments(reader, name)


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
        header=_header,
        read=_read,
    ),
    reads_reasoning=True,
    turns=(_START,),
    reasoning=(f"{_CHANNEL}analysis{_MESSAGE}", f"<|end|>{_START}"),
    content=(f"{_CHANNEL}final{_MESSAGE}", ""),
    stops=("<|return|>", "<|call|>"),
    tokens=("<|end|>", "<|start|>", "<|constrain|>"),
    matches=marks_in(_CHANNEL),
)
