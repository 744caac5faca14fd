"""Muse Glimmer's answers: messages to a recipient, and calls as XML (ATEM)::

    <|start|>assistant to=self<|message|>I look it up.<|eom|>
    <|start|>assistant to=get_weather<|message|><atem:function_calls>
    <atem:invoke name="get_weather">
    <atem:parameter name="city">Oslo</atem:parameter>
    </atem:invoke>
    </atem:function_calls><|eom|>
    <|start|>assistant to=user<|message|>It is sunny.<|eot|>

(without line breaks between messages). The prompt ends with ``<|start|>assistant``.

Source: the template of that name in llama.cpp, models/templates/muse-glimmer.jinja.
"""

from __future__ import annotations

from .answers import marks_in
from .base import NAME, CallFormat, CallShape, TaggedArguments, Tools
from .messages import Header, messages
from .reader import CallReader, Malformed, Wait
from .tagged import Arguments, typed_until

_START, _MESSAGE = "<|start|>assistant", "<|message|>"
_CALLS, _CALLS_END = "<atem:function_calls>", "</atem:function_calls>"
_INVOKE, _INVOKE_END = '<atem:invoke name="', "</atem:invoke>"
_PARAMETER, _PARAMETER_END = '<atem:parameter name="', "</atem:parameter>"


def _header(text: str, tools: Tools) -> Header:
    _, _, recipient = text.partition("to=")
    recipient = recipient.strip()
    if recipient in ("", "user"):
        return Header(kind="text")
    if recipient == "self":
        return Header(kind="reasoning")
    return Header(kind="call" if tools else "other", name=recipient)


def _read(reader: CallReader, tools: Tools, name: str) -> Wait:
    yield from reader.expect(f" {_CALLS}")
    while (yield from reader.skip(f" {_INVOKE}")):
        name = yield from reader.until('"')
        yield from reader.expect(" >")
        reader.start(name)
        arguments = Arguments(reader, tools, name)
        while (yield from reader.skip(f" {_PARAMETER}")):
            key = yield from reader.until('"')
            yield from reader.expect(" >")
            arguments.key(key)
            yield from typed_until(reader, _PARAMETER_END, arguments.kinds(key))
        yield from reader.expect(f" {_INVOKE_END}")
        arguments.end()
    if not reader.behind_call:
        raise Malformed
    yield from reader.skip(f" {_CALLS_END}")


MUSE = CallFormat(
    name="muse",
    opening=(_CALLS,),
    shape=CallShape(
        before_name=" to=",
        after_name=f'{_MESSAGE}{_CALLS}\n{_INVOKE}{NAME}">\n',
        suffix=f"{_INVOKE_END}\n{_CALLS_END}",
        separator=f"<|eom|>{_START}",
        tagged=TaggedArguments(
            before_key=_PARAMETER, after_key='">', after_value=f"{_PARAMETER_END}\n"
        ),
    ),
    body=messages(
        start=_START,
        openings=("to=", _MESSAGE),
        message=_MESSAGE,
        ends=("<|eom|>", "<|eot|>"),
        header=_header,
        read=_read,
    ),
    reads_reasoning=True,
    turns=(_START,),
    reasoning=(f" to=self{_MESSAGE}", f"<|eom|>{_START}"),
    content=(f" to=user{_MESSAGE}", ""),
    stops=("<|eot|>",),
    tokens=("<|eom|>", "<|start|>", "<atem:invoke", "<atem:parameter"),
    matches=marks_in(_CALLS, "<|eom|>"),
)
