"""Bounds on templates, schemas, grammars and tool calls, each at its edge."""

from __future__ import annotations

import json

import pytest

from proxy.compiling import by_schema
from proxy.prompting import work
from proxy.prompting.bind import Bound
from proxy.prompting.bounds import MAX_RANGE, MAX_SIZE, MAX_STEPS
from proxy.prompting.grammar import NEW, GrammarError, check
from proxy.prompting.grammar.check import MAX_RULES
from proxy.prompting.grammar.document import MAX_ALTERNATIVES, MAX_DEPTH
from proxy.prompting.grammar.gbnf import MAX_NESTING, MAX_TEXT
from proxy.prompting.grammar.regex import MAX_COUNT
from proxy.prompting.grammar.regex import MAX_NESTING as MAX_GROUPS
from proxy.prompting.grammar.rules import MAX_REPEAT
from proxy.prompting.sandbox import MAX_NODES
from proxy.prompting.templates import MAX_SOURCE, TemplateError, compile
from proxy.prompting.toolcalls import FORMS, CallEnd, CallStart, TextPiece
from proxy.prompting.toolcalls.jsonscan import MAX_DEPTH as MAX_JSON_DEPTH
from proxy.prompting.toolcalls.jsonscan import JsonScanner
from proxy.prompting.toolcalls.reader import MAX_CALLS, MAX_HELD, MAX_NAME
from proxy.prompting.validation import MAX_REFERENCES

SAID = [{"role": "user", "content": "x"}]
LONG = [{"role": "user", "content": "x" * 16}] * 2000  # it has the whole budget of steps


def render(source: str, **variables: object) -> str:
    return compile(source, "made").render(LONG, variables=variables)


def test_text_of_a_template() -> None:
    compile("x" * MAX_SOURCE, "made")
    with pytest.raises(TemplateError, match=f"{MAX_SOURCE} may be"):
        compile("x" * (MAX_SOURCE + 1), "made")


def test_parts_of_a_template() -> None:
    def parts(count: int) -> str:  # an output, and in it three of a name and a text each
        return "{{ a }}x" * count

    most = MAX_NODES // 3
    compile(parts(most - 3), "made")
    with pytest.raises(TemplateError, match=f"more than {MAX_NODES} parts"):
        compile(parts(MAX_NODES), "made")


def test_steps_of_a_template() -> None:
    """A turn of a loop is one, and what makes the loop a tenth of one."""
    turns = "{% for i in range(1000) %}{% for j in range(count) %}{% endfor %}{% endfor %}"
    assert render(turns, count=MAX_STEPS // 1000 - 100) == ""
    with pytest.raises(TemplateError, match="too much work"):
        render(turns, count=MAX_STEPS // 1000)


def test_what_a_template_builds() -> None:
    assert len(render("{{ 'x' * count }}", count=MAX_SIZE)) == MAX_SIZE
    with pytest.raises(TemplateError, match="too large"):
        render("{{ 'x' * count }}", count=MAX_SIZE + 1)


def test_range_of_a_template() -> None:
    assert render("{{ range(count) | length }}", count=MAX_RANGE) == str(MAX_RANGE)
    with pytest.raises(TemplateError, match="too long a range"):
        render("{{ range(count) | length }}", count=MAX_RANGE + 1)


def bound(size: int) -> work.Outcome:
    start, end = b'{"type":"object","description":"', b'"}'
    schema = start + b"x" * (size - len(start) - len(end)) + end
    return work.do(work.Bind(Bound(schema=schema), "new"))


def test_bytes_of_schemas() -> None:
    assert bound(work.MAX_SCHEMAS).text
    assert f"{work.MAX_SCHEMAS} may be" in bound(work.MAX_SCHEMAS + 1).reason


def grammar_of(schema: object) -> work.Outcome:
    return work.do(work.Bind(Bound(schema=json.dumps(schema).encode(), strict=True), "new"))


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
def test_what_a_schema_counts(schema: object, most: int) -> None:
    assert callable(schema)
    fits, not_fits = grammar_of(schema(most)), grammar_of(schema(most + 1))
    assert fits.text and not fits.reason, fits.reason
    assert not_fits.reason and "work" not in not_fits.reason


def test_nesting_of_a_schema() -> None:
    def nested(depth: int) -> object:
        schema: object = {"const": 1}
        for i in range(depth):
            schema = {"anyOf": [schema, {"const": f"{i}"}]}
        return schema

    assert grammar_of(nested(MAX_DEPTH - 1)).text
    assert f"deeper than {MAX_DEPTH}" in grammar_of(nested(MAX_DEPTH + 1)).reason


def test_text_of_a_grammar() -> None:
    start = 'root ::= "a"\n'
    check(start + "#" * (MAX_TEXT - len(start)), NEW)
    with pytest.raises(GrammarError, match="longer than"):
        check(start + "#" * (MAX_TEXT - len(start) + 1), NEW)


def test_nesting_of_a_grammar() -> None:
    check("root ::= " + "(" * MAX_NESTING + '"a"' + ")" * MAX_NESTING, NEW)
    with pytest.raises(GrammarError, match="inside each other"):
        check("root ::= " + "(" * (MAX_NESTING + 1) + '"a"' + ")" * (MAX_NESTING + 1), NEW)


def test_rules_of_a_grammar() -> None:
    def rules(count: int) -> str:
        return 'root ::= "a"\n' + "".join(f'r{i} ::= "b"\n' for i in range(count - 1))

    check(rules(MAX_RULES), NEW)
    with pytest.raises(GrammarError, match=f"more than {MAX_RULES} rules"):
        check(rules(MAX_RULES + 1), NEW)


def test_references_while_an_answer_is_judged() -> None:
    schema = {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "integer"}}}
    judge = by_schema(json.dumps(schema).encode())
    assert judge.fault(json.dumps([1] * (MAX_REFERENCES - 2))) == ""
    assert "too much work" in judge.fault(json.dumps([1] * (MAX_REFERENCES + 2)))


def hermes(*texts: str) -> list[object]:
    parser = FORMS["hermes"].parser(frozenset({"f", "n" * (MAX_NAME - 2), "n" * (MAX_NAME - 1)}))
    return [one for text in texts for one in parser.feed(text)] + list(parser.close())


CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'


def test_calls_of_an_answer() -> None:
    for count, whole in ((MAX_CALLS, True), (MAX_CALLS + 1, False)):
        found = hermes(*[CALL] * count)
        assert sum(isinstance(one, CallEnd) and one.whole for one in found) == MAX_CALLS
        assert any(isinstance(one, TextPiece) and "tool_call" in one.text for one in found) is (
            not whole
        )


def test_name_of_a_call() -> None:
    for length, called in ((MAX_NAME - 2, True), (MAX_NAME - 1, False)):  # and its quotes
        found = hermes(CALL.replace('"f"', f'"{"n" * length}"'))
        assert any(isinstance(one, CallStart) for one in found) is called


def test_text_that_may_become_a_call() -> None:
    """Held back until it is known, no longer than that."""
    for blanks, called in ((MAX_HELD - 200, True), (MAX_HELD, False)):
        found = hermes(CALL.replace("{", " " * blanks + "{", 1))
        assert any(isinstance(one, CallStart) for one in found) is called


def test_nesting_of_a_models_json() -> None:
    for depth, good in ((MAX_JSON_DEPTH, True), (MAX_JSON_DEPTH + 1, False)):
        scanner = JsonScanner()
        scanner.scan("[" * depth + "]" * depth)
        scanner.finish()
        assert scanner.done is good
