"""DeepSeek V3.2's and V4's tool calls: XML whose names begin with a token of their own (DSML)::

    <｜DSML｜tool_calls>
    <｜DSML｜invoke name="get_weather">
    <｜DSML｜parameter name="city" string="true">Oslo</｜DSML｜parameter>
    <｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>
    </｜DSML｜invoke>
    </｜DSML｜tool_calls>

V3.2 writes ``function_calls``. Two newlines precede the block, and it may stand in reasoning that
is not closed. The prompt ends with the opening tag of reasoning, or with reasoning that is over.

Source: the chat templates of deepseek-ai/DeepSeek-V3.2 and DeepSeek-V4.
"""

from __future__ import annotations

from .answers import answer, marks_in
from .base import CallFormat, CallShape, TaggedArguments, Tools
from .reader import CallReader, Malformed, Wait
from .tagged import Arguments, declared_until

_DSML = "｜DSML｜"
_BLOCKS = ("function_calls", "tool_calls")
_OPEN = tuple(f"<{_DSML}{block}>" for block in _BLOCKS)
_CLOSE = tuple(f"</{_DSML}{block}>" for block in _BLOCKS)
_INVOKE, _INVOKE_END = f'<{_DSML}invoke name="', f"</{_DSML}invoke>"
_PARAMETER, _PARAMETER_END = f'<{_DSML}parameter name="', f"</{_DSML}parameter>"
_TAGS = ("<think>", "</think>")


def _read(reader: CallReader, tools: Tools, mark: str) -> Wait:
    while (yield from reader.skip(f" {_INVOKE}")):
        name = yield from reader.until('"')
        yield from reader.expect(" >")
        reader.start(name)
        arguments = Arguments(reader, tools, name)
        while (yield from reader.skip(f" {_PARAMETER}")):
            key = yield from reader.until('"')
            is_text = 'string="true"' in (yield from reader.until(">"))
            arguments.key(key)
            yield from declared_until(reader, _PARAMETER_END, arguments.kinds(key), is_text)
        yield from reader.expect(f" {_INVOKE_END}")
        arguments.end()
    if not reader.behind_call:
        raise Malformed
    yield from reader.spaces()
    yield from reader.skip_one(_CLOSE)


def _format(name: str, opening: str, closing: str, *without: str) -> CallFormat:
    return CallFormat(
        name=name,
        opening=(opening,),
        shape=CallShape(
            prefix=f"{opening}\n",
            before_name=_INVOKE,
            after_name='">\n',
            suffix=f"{_INVOKE_END}\n",
            end=closing,
            tagged=TaggedArguments(
                before_key=_PARAMETER,
                after_key='" string="false">',
                text_after_key='" string="true">',
                after_value=f"{_PARAMETER_END}\n",
            ),
        ),
        body=answer(_TAGS, _OPEN, _read, breaks=True),
        reads_reasoning=True,
        turns=("<｜Assistant｜>", "</function_results>"),
        reasoning=_TAGS,
        stops=("<｜end▁of▁sentence｜>",),
        tokens=(_DSML,),
        matches=marks_in("dsml_token", "DSML", name_of_block(opening), without=without),
    )


def name_of_block(opening: str) -> str:
    """The name in the opening tag of a block of calls."""
    return opening.removeprefix(f"<{_DSML}").removesuffix(">")


DSML_V3 = _format("deepseek-v3.2", _OPEN[0], _CLOSE[0])
DSML_V4 = _format("deepseek-v4", _OPEN[1], _CLOSE[1], _BLOCKS[0])
