"""Formats of calls for tests: shapes as the templates of well-known models have them, and the
formats with parsers of their own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from proxy.core.events import Piece, ReasoningDelta, TextDelta, ToolCallDelta
from proxy.prompting.formats.base import ID, CallFormat, CallShape, TaggedArguments
from proxy.prompting.formats.generic import GENERIC
from proxy.prompting.formats.named_calls import CHATGLM3, GLM4, LLAMA3
from proxy.prompting.formats.shaped import shaped


class Answer(Struct):
    """An answer as it was parsed; a call that is cut off has its arguments as text."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, Any]] = []


def answer_of(pieces: Iterable[Piece]) -> Answer:
    """The answer that the pieces tell, which must be in order."""
    out, calls = Answer(), list[tuple[str, list[str]]]()
    last: Piece | None = None
    for piece in pieces:
        match piece:
            case TextDelta(text=text):
                out.text += text
            case ReasoningDelta(text=text):
                out.reasoning += text
            case ToolCallDelta(index=index, name=name) if name:
                assert name and index == len(calls)
                calls.append((name, []))
            case ToolCallDelta(index=index, arguments=text):
                assert text and index == len(calls) - 1
                assert isinstance(last, ToolCallDelta), "arguments behind a call"
                calls[-1][1].append(text)
        last = piece
    out.calls = [(name, _value("".join(parts))) for name, parts in calls]
    return out


def _value(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def parse(form: CallFormat, pieces: Sequence[str], tools: Any, prompt: str = "") -> Answer:
    """The answer in a stream of these pieces."""
    parser = form.parser(tools, prompt)
    return answer_of([*(piece for text in pieces for piece in parser.feed(text)), *parser.close()])


_ARGUMENTS = '", "arguments": '
_HERMES = CallShape(
    before_name='<tool_call>\n{"name": "',
    after_name=_ARGUMENTS,
    suffix="}\n</tool_call>",
    separator="\n",
)
_CODER = CallShape(
    before_name="<tool_call>\n<function=",
    after_name=">\n",
    suffix="</function>\n</tool_call>",
    separator="\n",
    tagged=TaggedArguments(
        before_key="<parameter=", after_key=">\n", after_value="\n</parameter>\n"
    ),
)
_GLM = CallShape(
    before_name="<tool_call>",
    suffix="\n</tool_call>",
    separator="\n",
    tagged=TaggedArguments(
        before_key="\n<arg_key>",
        after_key="</arg_key>\n<arg_value>",
        after_value="</arg_value>",
    ),
)
_MINIMAX = CallShape(
    prefix="<minimax:tool_call>\n",
    before_name='<invoke name="',
    after_name='">\n',
    suffix="</invoke>\n",
    end="</minimax:tool_call>",
    tagged=TaggedArguments(
        before_key='<parameter name="', after_key='">', after_value="</parameter>\n"
    ),
)
_MISTRAL = CallShape(
    prefix="[TOOL_CALLS] [",
    before_name='{"name": "',
    after_name=_ARGUMENTS,
    suffix=f', "id": "{ID}"}}',
    separator=", ",
    end="]",
    ids="nine",
)
_MISTRAL_ARGS = CallShape(before_name="[TOOL_CALLS]", after_name=f"[CALL_ID]{ID}[ARGS]", ids="nine")
_APERTUS = CallShape(
    prefix="<|tools_prefix|>[",
    before_name='{"',
    after_name='": ',
    suffix="}",
    separator=", ",
    end="]<|tools_suffix|>",
)
_DEEPSEEK = CallShape(
    prefix="<｜tool▁calls▁begin｜>",
    before_name="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    after_name="\n```json\n",
    suffix="\n```<｜tool▁call▁end｜>",
    separator="\n",
    end="<｜tool▁calls▁end｜>",
)
_DEEPSEEK_V31 = CallShape(
    prefix="<｜tool▁calls▁begin｜>",
    before_name="<｜tool▁call▁begin｜>",
    after_name="<｜tool▁sep｜>",
    suffix="<｜tool▁call▁end｜>",
    end="<｜tool▁calls▁end｜>",
)
_COMMAND_R = CallShape(
    prefix="Action: ```json\n[",
    before_name='\n    {\n        "tool_name": "',
    after_name='",\n        "parameters": ',
    suffix="\n    }",
    separator=",",
    end="\n]```",
)
_SOLAR = CallShape(
    prefix="<|tool_calls|>",
    before_name=f"<|tool_call:begin|>{ID}<|tool_call:name|>",
    after_name="<|tool_call:args|>",
    suffix="<|tool_call:end|>",
)
_FUNCTIONARY = CallShape(before_name="<function=", after_name=">", suffix="</function>")

FORMS: Mapping[str, CallFormat] = {
    "hermes": shaped(_HERMES),
    "qwen-xml": shaped(_CODER),
    "glm-4.6": shaped(_GLM),
    "minimax-m2": shaped(_MINIMAX),
    "mistral": shaped(_MISTRAL),
    "mistral-args": shaped(_MISTRAL_ARGS),
    "apertus": shaped(_APERTUS),
    "deepseek": shaped(_DEEPSEEK),
    "deepseek-v3.1": shaped(_DEEPSEEK_V31),
    "command-r": shaped(_COMMAND_R),
    "solar": shaped(_SOLAR),
    "functionary": shaped(_FUNCTIONARY),
    "llama3": LLAMA3,
    "chatglm3": CHATGLM3,
    "glm4": GLM4,
    "generic": GENERIC,
}
