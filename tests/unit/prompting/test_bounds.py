"""Each bound on templates, schemas, grammars and tool calls, at its limit."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from proxy import compiling
from proxy.core.events import TextDelta, ToolCallDelta
from proxy.gbnf import NEW, GrammarError, check
from proxy.gbnf.alternatives import MAX_ALTERNATIVES
from proxy.gbnf.check import MAX_RULES
from proxy.gbnf.document import MAX_DEPTH
from proxy.gbnf.gbnf import MAX_NESTING, MAX_TEXT
from proxy.gbnf.regex import MAX_COUNT
from proxy.gbnf.regex import MAX_NESTING as MAX_GROUPS
from proxy.gbnf.rules import MAX_REPEAT
from proxy.prompting.constraints import Constraint
from proxy.prompting.formats.notation import LFM2
from proxy.prompting.formats.notation import MAX_DEPTH as MAX_NOTATION_DEPTH
from proxy.prompting.formats.reader import MAX_CALLS, MAX_HELD, MAX_NAME
from proxy.prompting.formats.scanner import MAX_DEPTH as MAX_JSON_DEPTH
from proxy.prompting.formats.scanner import JsonScanner
from proxy.prompting.profile.messages import LONGEST
from proxy.prompting.template import TemplateError
from proxy.prompting.template.bounds import MAX_RANGE, MAX_SIZE, MAX_STEPS
from proxy.prompting.template.sandbox import MAX_NODES
from proxy.prompting.template.templates import MAX_SOURCE, PROBING, compile
from tests.call_formats import FORMS, parse

SAID = [{"role": "user", "content": "x"}]
LONG = [{"role": "user", "content": "x" * 16}] * 2000  # it has the whole budget of steps


def render(source: str, **variables: object) -> str:
    return compile(source, "made").render(LONG, variables=variables)


def test_template_text_length_is_bounded() -> None:
    compile("x" * MAX_SOURCE, "made")
    with pytest.raises(TemplateError, match=f"at most {MAX_SOURCE} are"):
        compile("x" * (MAX_SOURCE + 1), "made")


def test_number_of_template_nodes_is_bounded() -> None:
    def parts(count: int) -> str:  # an output, and in it three of a name and a text each
        return "{{ a }}x" * count

    most = MAX_NODES // 3
    compile(parts(most - 3), "made")
    with pytest.raises(TemplateError, match=f"more than {MAX_NODES} parts"):
        compile(parts(MAX_NODES), "made")


TAKES_TOOLS = "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}"


def test_work_of_probes_is_bounded() -> None:
    work = "{% for i in range(N) %}{% endfor %}" + TAKES_TOOLS
    assert compile(work.replace("N", f"{PROBING // 100}"), "made").rules.tools
    assert not compile(work.replace("N", f"{PROBING // 2}"), "made").rules.tools


def test_text_of_probes_is_bounded() -> None:
    long = "{{ 'x' * N }}" + TAKES_TOOLS
    assert compile(long.replace("N", f"{LONGEST - 1000}"), "made").rules.tools
    assert not compile(long.replace("N", f"{LONGEST}"), "made").rules.tools


def test_number_of_template_steps_is_bounded() -> None:
    """An iteration of a loop is one step, an element of its iterable a tenth."""
    turns = "{% for i in range(1000) %}{% for j in range(count) %}{% endfor %}{% endfor %}"
    assert render(turns, count=MAX_STEPS // 1000 - 100) == ""
    with pytest.raises(TemplateError, match="too much work"):
        render(turns, count=MAX_STEPS // 1000)


def test_size_of_rendered_values_is_bounded() -> None:
    assert len(render("{{ 'x' * count }}", count=MAX_SIZE)) == MAX_SIZE
    with pytest.raises(TemplateError, match="too large"):
        render("{{ 'x' * count }}", count=MAX_SIZE + 1)


def test_template_range_is_bounded() -> None:
    assert render("{{ range(count) | length }}", count=MAX_RANGE) == str(MAX_RANGE)
    with pytest.raises(TemplateError, match="Range too big"):
        render("{{ range(count) | length }}", count=MAX_RANGE + 1)


def bound(size: int) -> compiling.CompileResult:
    start, end = b'{"type":"object","description":"', b'"}'
    schema = start + b"x" * (size - len(start) - len(end)) + end
    return compiling.do(compiling.Bind(Constraint(schema=schema), "new"))


def test_schema_size_is_bounded() -> None:
    assert bound(compiling.MAX_SCHEMAS).text
    assert f"at most {compiling.MAX_SCHEMAS} are" in bound(compiling.MAX_SCHEMAS + 1).reason


def grammar_of(schema: object) -> compiling.CompileResult:
    return compiling.do(
        compiling.Bind(Constraint(schema=json.dumps(schema).encode(), strict=True), "new")
    )


@pytest.mark.parametrize(
    ("schema", "most"),
    [
        (lambda n: {"anyOf": [{"const": f"a{i}"} for i in range(n)]}, MAX_ALTERNATIVES),
        (lambda n: {"type": "string", "minLength": n, "maxLength": n}, MAX_REPEAT),
        (lambda n: {"type": "string", "pattern": f"^a{{{n}}}$"}, MAX_COUNT),
        (lambda n: {"type": "string", "pattern": "^" + "(" * n + "a" + ")" * n + "$"}, MAX_GROUPS),
    ],
    ids=["alternatives", "length", "count in a pattern", "groups in a pattern"],
)
def test_counted_size_of_a_schema(schema: object, most: int) -> None:
    assert callable(schema)
    fits, not_fits = grammar_of(schema(most)), grammar_of(schema(most + 1))
    assert fits.text and not fits.reason, fits.reason
    assert not_fits.reason and "work" not in not_fits.reason


def test_schema_nesting_is_bounded() -> None:
    def nested(depth: int) -> object:
        schema: object = {"const": 1}
        for i in range(depth):
            schema = {"anyOf": [schema, {"const": f"{i}"}]}
        return schema

    assert grammar_of(nested(MAX_DEPTH - 1)).text
    assert f"deeper than {MAX_DEPTH}" in grammar_of(nested(MAX_DEPTH + 1)).reason


ROOT = 'root ::= "a"\n'


def rules(count: int) -> str:
    return ROOT + "".join(f'r{i} ::= "b"\n' for i in range(count - 1))


@pytest.mark.parametrize(
    ("text", "most", "why"),
    [
        (lambda n: ROOT.ljust(n, "#"), MAX_TEXT, "longer than"),
        (lambda n: f'root ::= {"(" * n}"a"{")" * n}', MAX_NESTING, "nested deeper than 64"),
        (rules, MAX_RULES, f"more than {MAX_RULES} rules"),
    ],
    ids=["length", "nesting", "rules"],
)
def test_size_of_a_grammar_is_bounded(text: Callable[[int], str], most: int, why: str) -> None:
    check(text(most), NEW)
    with pytest.raises(GrammarError, match=why):
        check(text(most + 1), NEW)


def hermes(*texts: str) -> list[object]:
    parser = FORMS["hermes"].parser({"f": {}, "n" * (MAX_NAME - 2): {}, "n" * (MAX_NAME - 1): {}})
    return [*(one for text in texts for one in parser.feed(text)), *parser.close()]


def called(pieces: list[object]) -> int:
    return sum(isinstance(piece, ToolCallDelta) and piece.name != "" for piece in pieces)


CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'


def test_number_of_calls_of_an_answer_is_bounded() -> None:
    for count in (MAX_CALLS, MAX_CALLS + 1):
        pieces = hermes(*[CALL] * count)
        assert called(pieces) == MAX_CALLS
        text = "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))
        assert ("tool_call" in text) is (count > MAX_CALLS)


def test_nesting_of_notation_is_bounded() -> None:
    for depth, called in ((MAX_NOTATION_DEPTH, True), (MAX_NOTATION_DEPTH + 1, False)):
        lists = "[" * depth + "1" + "]" * depth
        text = f"<|tool_call_start|>[f(a={lists})]<|tool_call_end|>"
        answer = parse(LFM2, [text], {"f": {}}, "<|im_start|>assistant\n")
        assert (type(answer.calls[0][1]) is dict) is called


def test_call_name_length_is_bounded() -> None:
    for length, is_call in ((MAX_NAME - 2, True), (MAX_NAME - 1, False)):  # and its quotes
        found = hermes(CALL.replace('"f"', f'"{"n" * length}"'))
        assert called(found) == is_call


def test_length_of_text_held_for_a_call_is_bounded() -> None:
    """Text is held back until it is known not to be a call, up to the bound."""
    for blanks, is_call in ((MAX_HELD - 200, True), (MAX_HELD, False)):
        found = hermes(CALL.replace("{", " " * blanks + "{", 1))
        assert called(found) == is_call


def test_nesting_of_generated_json_is_bounded() -> None:
    for depth, good in ((MAX_JSON_DEPTH, True), (MAX_JSON_DEPTH + 1, False)):
        scanner = JsonScanner()
        scanner.scan("[" * depth + "]" * depth)
        scanner.finish()
        assert scanner.done is good
