"""Kimi K3's answers: sections between tags, and calls with tagged arguments::

    <|open|>think<|sep|>I look it up.<|close|>think<|sep|>
    <|open|>response<|sep|>One moment.<|close|>response<|sep|>
    <|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|>
    <|open|>argument key="city" type="string"<|sep|>Oslo<|close|>argument<|sep|>
    <|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>

(without line breaks). The prompt opens the first section. A call may have all its arguments as one
JSON object in a section ``json``.

Source: the template of that name in llama.cpp, models/templates/Kimi-K3.jinja.
"""

from __future__ import annotations

from .answers import marks_in, opened, thoughts
from .base import ID, TYPE, CallFormat, CallShape, TaggedArguments, Tools
from .objects import read_arguments
from .reader import Body, CallReader, Malformed, Reading, Wait
from .tagged import Arguments, declared_until

_SEP = "<|sep|>"
_THINK, _THINK_END = f"<|open|>think{_SEP}", f"<|close|>think{_SEP}"
_TEXT, _TEXT_END = f"<|open|>response{_SEP}", f"<|close|>response{_SEP}"
_TOOLS, _TOOLS_END = f"<|open|>tools{_SEP}", f"<|close|>tools{_SEP}"
_CALL, _CALL_END = '<|open|>call tool="', f"<|close|>call{_SEP}"
_KEY, _KEY_END = '<|open|>argument key="', f"<|close|>argument{_SEP}"
_JSON, _JSON_END = "<|open|>json", f"<|close|>json{_SEP}"
_END = f"<|close|>message{_SEP}"
_STOP = "<|end_of_msg|>"
_ENDS = (_TEXT_END, _END, _STOP)


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    while (yield from reader.skip(f" {_CALL}")):
        name = yield from reader.until('"')
        yield from reader.until(_SEP)
        if (yield from reader.skip(f" {_JSON}")):
            yield from reader.until(_SEP)
            yield from read_arguments(reader, name)
            yield from reader.skip(f" {_JSON_END}")
        else:
            reader.start(name)
            arguments = Arguments(reader, tools, name)
            while (yield from reader.skip(f" {_KEY}")):
                key = yield from reader.until('"')
                is_text = 'type="string"' in (yield from reader.until(_SEP))
                arguments.key(key)
                yield from declared_until(reader, _KEY_END, arguments.kinds(key), is_text)
            yield from reader.expect(f" {_CALL_END}")
            arguments.end()
        yield from reader.skip(f" {_CALL_END}")
    if not reader.behind_call:
        raise Malformed
    yield from reader.skip(f" {_TOOLS_END}")


def _body(tools: Tools) -> Body:
    calls = (_TOOLS,) if tools else ()

    def run(reader: CallReader) -> Wait:
        if (yield from reader.skip(f" {_THINK}")):
            yield from reader.spaces()
            yield from thoughts(reader, (_THINK_END, _TEXT), calls, _read, tools)
            yield from reader.spaces()
        yield from reader.skip(_TEXT)
        while mark := (yield from reader.text_until(calls, _ENDS)):
            if mark == _TOOLS:
                yield from opened(reader, tools, mark, _read)
            elif not (yield from _is_end(reader)):
                reader.degrade(len(mark))

    return run


def _is_end(reader: CallReader) -> Reading[bool]:
    """Whether another section or the end of the answer follows."""
    yield from reader.spaces()
    following = (_TOOLS, _END, _STOP)
    return not (yield from reader.more()) or (yield from reader.look(following)) is not None


KIMI_K3 = CallFormat(
    name="kimi-k3",
    opening=(_TOOLS,),
    shape=CallShape(
        prefix=_TOOLS,
        before_name=_CALL,
        after_name=f'" index="{ID}"{_SEP}',
        suffix=_CALL_END,
        end=f"{_TOOLS_END}{_END}",
        ids="index",
        tagged=TaggedArguments(
            before_key=_KEY,
            after_key=f'" type="{TYPE}"{_SEP}',
            text_after_key=f'" type="string"{_SEP}',
            after_value=_KEY_END,
        ),
    ),
    body=_body,
    reads_reasoning=True,
    turns=(f'<|open|>message role="assistant"{_SEP}',),
    reasoning=(_THINK, _THINK_END),
    content=(_TEXT, _TEXT_END),
    stops=(_STOP,),
    matches=marks_in("<|open|>", "<|close|>", _STOP),
)
