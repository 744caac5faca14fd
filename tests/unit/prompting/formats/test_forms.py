"""Every tool-call format: its own cases, and properties of all of them."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from proxy.core.request import Message, ToolCall
from proxy.prompting.formats.base import CallFormat, Tools
from proxy.prompting.formats.reader import CallArguments, CallStart, TextPiece
from proxy.prompting.profile.adapt import as_texts
from proxy.prompting.profile.derive import syntax_of
from proxy.prompting.template.templates import compile
from tests.call_formats import FORMS, parse

ROOT = pathlib.Path(__file__).parents[4]
NAMES: Tools = {"get_weather": {}, "add": {}, "get": {}}
Found = tuple[str, list[tuple[str, Any]]]


def read(form: CallFormat, pieces: list[str], tools: Any = NAMES) -> Found:
    """The text, and each call with its arguments."""
    answer = parse(form, pieces, tools)
    assert not answer.reasoning, "only formats that read the whole answer split reasoning"
    return answer.text, answer.calls


OSLO = [("get_weather", {"city": "Oslo"})]
TWO = [("get_weather", {"city": "北京"}), ("add", {"a": [1, -2.5e3], "b": None})]
J = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'
P = '{"name": "get_weather", "parameters": {"city": "Oslo"}}'
SEP = "<｜tool▁sep｜>"
DS = "<｜tool▁call▁begin｜>"
DE = "<｜tool▁call▁end｜>"
FENCE = "```"

CASES: list[tuple[str, str, str, list[tuple[str, Any]]]] = [
    # hermes and qwen
    ("hermes", f"<tool_call>\n{J}\n</tool_call>", "", OSLO),
    ("hermes", f"I look.\n<tool_call>{J}</tool_call>\n", "I look.", OSLO),
    ("hermes", f"<tool_call>{J}</tool_call>\n<tool_call>{J}</tool_call>", "", OSLO * 2),
    ("hermes", f"<tool_call>{J}</tool_call>\n\nDone. ", "Done. ", OSLO),
    ("hermes", f"<tool_call>\n{J}", "", OSLO),
    ("hermes", f"<tool_call>\n{J[:-1]}\n</tool_call>", "", OSLO),
    ("hermes", '<tool_call>{"arguments": {"city": "Oslo"}, "name": "get_weather"}', "", OSLO),
    ("hermes", '<tool_call>{"name": "x", "arguments": {}}</tool_call>', "", [("x", {})]),
    ("hermes", '<tool_call>{"name": "add"}</tool_call>', "", [("add", {})]),
    ("hermes", '<tool_call>{"name": "add", "arguments": null}', "", [("add", {})]),
    (
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}</tool_call>',
        "",
        OSLO,
    ),
    ("hermes", f"<tool_call>[{J}, {J}]</tool_call>", "", OSLO * 2),
    ("hermes", '<tool_call>{"name": "add", "arg', '<tool_call>{"name": "add", "arg', []),
    (
        "hermes",
        '<tool_call>{"name": "add", "arguments": {"a": 1, "b"',
        "",
        [("add", '{"a": 1, "b"')],
    ),
    (
        "hermes",
        'a\n<tool_call>{"name": "add", "arguments": {"a": oops}} b',
        "a} b",
        [("add", '{"a": oops}')],
    ),
    (
        "hermes",
        'a <tool_call>{"name": "add", "arguments": {"a": oops}} b',
        'a <tool_call>{"name": "add", "arguments": {"a": oops}} b',
        [],
    ),
    *(
        ("hermes", said, said, [])
        for value in ("+1", "tru e", "None", "-Infinity", "[1,]", "[1 2]", "[NaN]", "[}", "]")
        for said in [f'a <tool_call>{{"name": "add", "arguments": {{"a": {value}}}}}</tool_call>']
    ),
    ("hermes", "a <tool_call> is a tag", "a <tool_call> is a tag", []),
    ("hermes", f"<tool_call><tool_call>{J}</tool_call>", "<tool_call>", OSLO),
    ("hermes", "a <tool_", "a <tool_", []),
    ("hermes", J, J, []),
    (  # raw control characters, in code
        "hermes",
        '<tool_call>{"name": "add", "arguments": {"a": "x\ny\tz\x01"}}</tool_call>',
        "",
        [("add", {"a": "x\ny\tz\x01"})],
    ),
    (
        "qwen-xml",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n"
        "</tool_call>",
        "",
        OSLO,
    ),
    (
        "qwen-xml",
        "Hm.\n<function=add><parameter=a>[1, 2]</parameter><parameter=b>two\nlines</parameter>"
        "</function></tool_call>",
        "Hm.",
        [("add", {"a": [1, 2], "b": "two\nlines"})],
    ),
    ("qwen-xml", f"<tool_call>{J}</tool_call>", "", OSLO),
    ("qwen-xml", "<function=add></function>", "", [("add", {})]),
    ("qwen-xml", "<function=add> and so on", "<function=add> and so on", []),
    # llama 3
    ("llama3", P, "", OSLO),
    ("llama3", f"\n{P}; {P}", "", OSLO * 2),
    ("llama3", f"<|python_tag|>{P}", "", OSLO),
    ("llama3", f"Let me see. <|python_tag|>{P}", "Let me see.", OSLO),
    ("llama3", '{"type": "function", ' + P[1:], "", OSLO),
    (
        "llama3",
        '<|python_tag|>brave_search.call(query="Oslo")',
        "",
        [("brave_search", {"query": "Oslo"})],
    ),
    ("llama3", "<|python_tag|>print(open('x'))", "<|python_tag|>print(open('x'))", []),
    ("llama3", '{"name": "Bob", "parameters": {}}', '{"name": "Bob", "parameters": {}}', []),
    ("llama3", ' {"answer": 42}', ' {"answer": 42}', []),
    ("llama3", "{", "{", []),
    # mistral
    ("mistral", f"[TOOL_CALLS] [{J}]", "", OSLO),
    ("mistral", f"[TOOL_CALLS][{J[:-1]}, " + '"id": "abcdefghi"}]', "", OSLO),
    ("mistral", f"[TOOL_CALLS] [{J}, {J}]", "", OSLO * 2),
    ("mistral-args", '[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}', "", OSLO),
    ("mistral-args", 'a[TOOL_CALLS]get_weather[CALL_ID]x1[ARGS]{"city": "Oslo"}', "a", OSLO),
    ("mistral-args", '[TOOL_CALLS]get_weather{"city": "Oslo"}', "", OSLO),
    ("mistral-args", '[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}' * 2, "", OSLO * 2),
    ("mistral", f"[{J}]", "", OSLO),
    ("mistral", "[1, 2]", "[1, 2]", []),
    ("mistral", "[]", "[]", []),
    ("mistral", "[INST] [TOOL_CALLS] none", "[INST] [TOOL_CALLS] none", []),
    # chatglm3
    ("chatglm3", "get_weather\n ```python\ntool_call(city='Oslo')\n```", "", OSLO),
    ("chatglm3", "\n get_weather\n```python\ntool_call(city='Oslo')\n```", "", OSLO),
    (
        "chatglm3",
        "I look.<|assistant|>add\n ```python\ntool_call(a=[1, -2.5], b={'c': None, 'd': (True,)})"
        "\n```",
        "I look.",
        [("add", {"a": [1, -2.5], "b": {"c": None, "d": [True]}})],
    ),
    ("chatglm3", "add\n```python\ntool_call()\n```", "", [("add", {})]),
    (
        "chatglm3",
        "add\n```python\ntool_call(a='\\d+ \\\\ \\u00e9', b=\"it's\")\n```",
        "",
        [("add", {"a": "\\d+ \\ é", "b": "it's"})],
    ),
    *(
        ("chatglm3", f"add\n```python\n{bad}\n```", f"add\n```python\n{bad}\n```", [])
        for bad in (
            "tool_call(a=__import__('os').system('x'))",
            "tool_call(1)",
            "tool_call(**{'a': 1})",
            "tool_call(a={1})",
            "tool_call(a=1e999)",
            "tool_call(a=1, a=2)",
            "x = 1",
            "f()(a=1)",
        )
    ),
    ("chatglm3", "\n Hello", "\n Hello", []),
    ("chatglm3", "get_weather is a tool", "get_weather is a tool", []),
    # glm-4
    ("glm4", 'get_weather\n{"city": "Oslo"}', "", OSLO),
    ("glm4", '\nget_weather\n{"city": "Oslo"}', "", OSLO),
    ("glm4", 'get_weather\n{"city": "Oslo"}<|assistant|>get\n{}', "", [*OSLO, ("get", {})]),
    ("glm4", 'Ok<|assistant|>get_weather\n{"city": "Oslo"}', "Ok", OSLO),
    ("glm4", 'other\n{"city": "Oslo"}', 'other\n{"city": "Oslo"}', []),
    ("glm4", "get_weather\nis a tool", "get_weather\nis a tool", []),
    # functionary
    ("functionary", '<function=get_weather>{"city": "Oslo"}</function>', "", OSLO),
    ("functionary", 'Hm. <function=get_weather>{"city": "Oslo"}</function> Ok', "Hm.Ok", OSLO),
    ("functionary", "<function=x>y</function>", "<function=x>y</function>", []),
    # deepseek
    (
        "deepseek",
        f"Ok<｜tool▁calls▁begin｜>{DS}function{SEP}get_weather\n{FENCE}json\n"
        f'{{"city": "北京"}}\n{FENCE}{DE}\n{DS}function{SEP}add\n{FENCE}json\n'
        f'{{"a": [1, -2.5e3], "b": null}}\n{FENCE}{DE}<｜tool▁calls▁end｜>',
        "Ok",
        TWO,
    ),
    (
        "deepseek-v3.1",
        f'<｜tool▁calls▁begin｜>{DS}get_weather{SEP}{{"city": "Oslo"}}{DE}<｜tool▁calls▁end｜>',
        "",
        OSLO,
    ),
    ("deepseek-v3.1", f'{DS}get_weather{SEP}{{"city": "Oslo"}}{DE}', "", OSLO),
    ("deepseek", "<｜tool▁calls▁begin｜> none", "<｜tool▁calls▁begin｜> none", []),
    # command r
    (
        "command-r",
        f"Plan: look.\nAction: {FENCE}json\n[\n"
        '    {\n        "tool_name": "get_weather",\n        "parameters": {"city": "Oslo"}\n'
        f"    }}\n]{FENCE}",
        "Plan: look.",
        OSLO,
    ),
    (
        "command-r",
        f'Action:{FENCE}json\n[{{"tool_name": "directly-answer", "parameters": {{}}}}]{FENCE}',
        "",
        [],
    ),
    ("command-r", "Action: none", "Action: none", []),
    # generic
    ("generic", f'{{"tool_calls": [{J}, {J}]}}', "", OSLO * 2),
    ("generic", f' {{"tool_call": {J}}} ', "", OSLO),
    ("generic", f'{FENCE}json\n{{"tool_call": {J}}}\n{FENCE}', "", OSLO),
    ("generic", J, "", OSLO),
    (
        "generic",
        '{"tool_calls": [{"type": "function", "function": ' + J + "}]}",
        "",
        OSLO,
    ),
    ("generic", '{"tool_calls": []}', '{"tool_calls": []}', []),
    ("generic", '{"tool_calls": {"a": 1}}', '{"tool_calls": {"a": 1}}', []),
    ("generic", '{"tool_call": {"name": "rm"}}', '{"tool_call": {"name": "rm"}}', []),
    ("generic", f"{FENCE}python\nx\n{FENCE}", f"{FENCE}python\nx\n{FENCE}", []),
    ("generic", '{"name": "Bob", "age": 4}', '{"name": "Bob", "age": 4}', []),
    ("generic", "No tool.", "No tool.", []),
]


@pytest.mark.parametrize(("name", "reply", "text", "calls"), CASES)
def test_reply_parses_the_same_however_split(
    name: str, reply: str, text: str, calls: list[tuple[str, Any]]
) -> None:
    form = FORMS[name]
    assert read(form, [reply]) == (text, calls)
    assert read(form, list(reply)) == (text, calls)
    for at in range(1, min(len(reply), 400)):
        assert read(form, [reply[:at], reply[at:]]) == (text, calls)


@pytest.mark.parametrize("deep", ["-" * 9000 + "1", "(" * 9000, "[" * 250 + "]" * 250, "'" * 9])
def test_deeply_nested_python_is_text(deep: str) -> None:
    reply = f"add\n```python\ntool_call(a={deep})\n```"
    assert read(FORMS["chatglm3"], [reply]) == (reply, [])


def test_arguments_are_streamed_as_they_arrive() -> None:
    parser = FORMS["hermes"].parser(NAMES)
    assert parser.feed('<tool_call>{"name": "ad') == []
    assert parser.feed('d", "arguments": {"a"') == [CallStart(0, "add"), CallArguments(0, '{"a"')]
    assert parser.feed(": 1") == [CallArguments(0, ": 1")]
    assert parser.feed("2}") == [CallArguments(0, "2}")]
    assert parser.feed("}</tool_call>") == []
    assert parser.close() == []


def test_plain_text_is_not_held_back() -> None:
    for form in FORMS.values():
        parser = form.parser(NAMES)
        assert parser.feed("Hello wor") == [TextPiece("Hello wor")]
        assert parser.feed("ld") == [TextPiece("ld")]


def test_json_answer_that_is_no_call_streams_at_once() -> None:
    for name in ("llama3", "generic"):
        assert FORMS[name].parser(NAMES).feed('{"answer": 4') == [TextPiece('{"answer": 4')]


WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "d", "parameters": {"type": "object"}},
}
CALLING = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call_Abc123xyz",
            "type": "function",
            "function": {"name": "get_weather", "arguments": {"city": "北京's", "n": [1, None]}},
        }
    ],
}


@pytest.mark.parametrize(
    "name",
    ["hermes", "qwen", "llama-3", "mistral", "deepseek", "chatglm3", "glm-4", "functionary"],
)
def test_parser_reads_calls_rendered_into_the_history(
    name: str,
) -> None:
    template = compile((ROOT / f"templates/chat/{name}.jinja").read_text("utf-8"), name)
    asked: list[dict[str, Any]] = [{"role": "user", "content": "天气?"}]
    before = template.render(asked, [WEATHER])
    after = template.render([*asked, CALLING], [WEATHER], add_generation_prompt=False)
    assert after.startswith(before)
    reply = after[len(before) :].rstrip()
    for stop in template.family.stops:
        reply = reply.removesuffix(stop)
    form = syntax_of(template).calls
    assert form is not None
    found = read(form, list(reply))
    assert found == ("", [("get_weather", {"city": "北京's", "n": [1, None]})])


def test_generic_tool_round_becomes_plain_turns() -> None:
    call = ToolCall("1", "get_weather", '{"city": "北京\'s", "n": [1, null]}')
    calling = Message(role="assistant", tool_calls=(call,))
    results = [
        Message(role="tool", tool_call_id="1", content="22"),
        Message(role="tool", tool_call_id="2", content="9"),
    ]
    messages = as_texts([calling, *results])
    assert [message.role for message in messages] == ["assistant", "user"]
    assert messages[1].content == "Result of get_weather:\n22\n\nResult of 2:\n9"
    found = read(FORMS["generic"], [messages[0].content])
    assert found == ("", [("get_weather", {"city": "北京's", "n": [1, None]})])
