"""Grammars of whole answers: calls in every family's format, documents, or either."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.errors import InvalidParameter
from proxy.gbnf import NEW, OLD, GrammarLimits, check, matches
from proxy.prompting.constraints import Callee, Constraint, grammar, head
from proxy.prompting.formats.base import ID, CallShape
from proxy.prompting.formats.objects import write_calls
from tests.call_formats import FORMS

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
LIMITS = pytest.mark.parametrize("limits", [OLD, NEW], ids=lambda limits: limits.name)


def tool(name: str, schema: Any = CITY, strict: bool = False) -> Callee:
    return Callee(name, json.dumps(schema).encode(), strict)


TOOLS = (tool("get_weather"), tool("get", {"type": "object", "properties": {}}))


def said(bound: Constraint, limits: GrammarLimits, text: str) -> bool:
    return matches(check(grammar(bound, limits).text, limits), text)


def calls(form: str, *names: str) -> str:
    arguments: dict[str, dict[str, Any]] = {"get_weather": {"city": "北京"}, "get": {}, "rm": {}}
    shape = FORMS[form].shape
    written = write_calls(shape, *((name, arguments[name]) for name in names))
    return written.replace(ID, "0" if shape.ids == "index" else "123456789")


@LIMITS
@pytest.mark.parametrize("form", FORMS)
def test_call_grammar_in_every_familys_format(form: str, limits: GrammarLimits) -> None:
    shape = FORMS[form].shape
    one = Constraint(tools=TOOLS, shape=shape)
    several = Constraint(tools=TOOLS, shape=shape, most=8)
    assert said(one, limits, calls(form, "get_weather"))
    assert said(one, limits, calls(form, "get"))
    assert not said(one, limits, calls(form, "rm"))
    assert not said(one, limits, calls(form, "get", "get"))
    assert not said(one, limits, "It is sunny.")
    assert said(several, limits, calls(form, "get", "get_weather", "get"))
    assert not said(several, limits, calls(form, "get") + "It")


@LIMITS
@pytest.mark.parametrize("form", FORMS)
def test_rest_of_a_call_is_constrained_after_any_part_of_its_head(
    form: str, limits: GrammarLimits
) -> None:
    shape = FORMS[form].shape
    whole = calls(form, "get_weather")
    lead = len((shape.prefix + shape.before_name).partition(ID)[0])
    for at in (0, 1, lead):
        bound = Constraint(tools=TOOLS, shape=shape, begun=whole[:at])
        assert said(bound, limits, whole[at:])
    begin = head(shape, "get_weather")
    bound = Constraint(tools=TOOLS, shape=shape, begun=begin)
    assert said(bound, limits, whole[whole.index("get_weather") :].partition(_behind(shape))[2])
    assert not said(bound, limits, '{"town": "x"}')


def _behind(shape: CallShape) -> str:
    return "get_weather" + shape.after_name.replace(ID, "123456789")


@LIMITS
def test_inexpressible_schema_is_dropped_unless_strict(limits: GrammarLimits) -> None:
    unique = {"type": "array", "uniqueItems": True}
    odd = {"type": "object", "properties": {"x": unique}}
    assert said(Constraint(tools=(tool("f", odd),), shape=FORMS["hermes"].shape), limits, _f("{}"))
    with pytest.raises(InvalidParameter, match=r"'uniqueItems' at f/properties/x") as caught:
        grammar(Constraint(tools=(tool("f", odd, True),), shape=FORMS["hermes"].shape), limits)
    assert caught.value.param == "tools"
    with pytest.raises(InvalidParameter, match="'uniqueItems'") as caught:
        grammar(Constraint(schema=json.dumps(odd).encode(), strict=True), limits)
    assert caught.value.param == "response_format"
    assert said(Constraint(schema=json.dumps(odd).encode()), limits, "{}")


@LIMITS
def test_grammar_tells_the_keywords_it_leaves_out(limits: GrammarLimits) -> None:
    unique = {"type": "array", "items": {}, "uniqueItems": True}
    halves = {"type": "number", "multipleOf": 0.5}
    bound = Constraint(
        schema=json.dumps({"properties": {"x": unique, "y": halves, "z": unique}}).encode(),
        tools=(tool("f", {"properties": {"x": halves}}), tool("g")),
        shape=FORMS["hermes"].shape,
    )
    found = grammar(bound, limits)
    assert sorted(found.schema_gaps) == ["multipleOf", "uniqueItems"]
    assert found.tool_gaps == ("multipleOf",)
    plain = grammar(Constraint(schema=json.dumps(CITY).encode(), tools=TOOLS), limits)
    assert plain.schema_gaps == plain.tool_gaps == ()


@LIMITS
@pytest.mark.parametrize("strict", [False, True])
def test_undeclared_members_need_permission(limits: GrammarLimits, strict: bool) -> None:
    closed = Constraint(schema=json.dumps(CITY).encode(), strict=strict)
    assert said(closed, limits, '{"city":"x"}')
    assert not said(closed, limits, '{"city":"x","more":1}')
    allowed = json.dumps({**CITY, "additionalProperties": True}).encode()
    assert said(Constraint(schema=allowed, strict=strict), limits, '{"city":"x","more":1}')
    assert said(Constraint(schema=b'{"type":"object"}', strict=strict), limits, '{"more":1}')


def _f(arguments: str) -> str:
    return f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'


def test_arguments_must_be_an_object() -> None:
    with pytest.raises(InvalidParameter, match="f"):
        grammar(Constraint(tools=(tool("f", {"type": "array"}),), shape=FORMS["hermes"].shape), NEW)
