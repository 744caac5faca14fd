"""Tagged arguments: their grammar admits what models write, and their values have the types of the
schema, in the grammar and in the parser."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.events import ToolCallDelta
from proxy.gbnf import NEW, OLD, GrammarLimits, check, matches
from proxy.prompting.constraints import Callee, Constraint, grammar
from proxy.prompting.formats.base import CallShape, TaggedArguments
from proxy.prompting.formats.shaped import shaped
from proxy.prompting.stages.calls import special_marks
from tests.call_formats import FORMS, parse

LIMITS = pytest.mark.parametrize("limits", [OLD, NEW], ids=lambda limits: limits.name)
CODER = FORMS["qwen-xml"]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "line": {"type": "integer"},
        "mode": {"enum": ["read", "write"]},
        "owner": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
    },
    "required": ["path", "line"],
    "$defs": {"tag": {"enum": ["a", "b"]}},
}


def call(*arguments: tuple[str, str]) -> str:
    written = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments)
    return f"<tool_call>\n<function=edit>\n{written}</function>\n</tool_call>"


def admitted(limits: GrammarLimits, *arguments: tuple[str, str], schema: Any = SCHEMA) -> bool:
    tool = Callee("edit", json.dumps(schema).encode())
    text = grammar(Constraint(tools=(tool,), shape=CODER.shape), limits).text
    return matches(check(text, limits), call(*arguments))


def read(*arguments: tuple[str, str], schema: Any = SCHEMA) -> Any:
    ((_, values),) = parse(CODER, [call(*arguments)], {"edit": schema}).calls
    return values


PATH, LINE = ("path", "a.c"), ("line", "3")


@LIMITS
def test_arguments_come_in_any_order_and_required_ones_must_come(limits: GrammarLimits) -> None:
    assert admitted(limits, PATH, LINE)
    assert admitted(limits, LINE, PATH)
    assert admitted(limits, LINE, ("mode", "read"), PATH, ("tags", '["a", "b"]'))
    assert not admitted(limits, PATH)
    assert not admitted(limits, PATH, LINE, ("colour", "red"))


@LIMITS
@pytest.mark.parametrize(
    ("argument", "fits"),
    [
        (("line", "x"), False),
        (("line", "-12"), True),
        (("mode", "append"), False),
        (("owner", "null"), True),
        (("owner", "12345"), True),
        (("tags", '["c"]'), False),
        (("path", "</function>\n<parameter=x> and </parameter> in a line\n\n"), True),
        (("path", ""), True),
    ],
)
def test_values_are_of_the_schemas_types(
    limits: GrammarLimits, argument: tuple[str, str], fits: bool
) -> None:
    others = [each for each in (PATH, LINE) if each[0] != argument[0]]
    assert admitted(limits, argument, *others) == fits


@LIMITS
def test_many_required_arguments_keep_a_small_grammar(limits: GrammarLimits) -> None:
    names = [f"a{n}" for n in range(40)]
    schema = {"properties": {name: {"type": "string"} for name in names}, "required": names}
    assert admitted(limits, *((name, "x") for name in reversed(names)), schema=schema)


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "12345", "12345"),
        ({"type": "string"}, '"quoted"', '"quoted"'),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "12345", "12345"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "null", None),
        ({"type": ["string", "null"]}, "true", "true"),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"type": ["string", "integer"]}, "42", 42),
        ({"type": ["string", "integer"]}, "4.5", "4.5"),
        ({"type": ["string", "object"]}, '{"a": 1}', {"a": 1}),
        ({"type": ["string", "object"]}, "{no json", "{no json"),
        ({"$ref": "#/$defs/name"}, "7", "7"),
        ({"type": "number"}, "2.50", 2.5),
        ({}, "[1, 2]", [1, 2]),
        ({}, "two\n lines ", "two\n lines "),
    ],
)
def test_text_is_json_only_of_another_type_that_the_schema_admits(
    schema: Any, text: str, value: Any
) -> None:
    whole = {"properties": {"x": schema}, "$defs": {"name": {"type": "string"}}}
    assert read(("x", text), schema=whole) == {"x": value}


@given(text=st.text(alphabet='ab <>/=\n"\\parmetfunciog{}é', max_size=60), size=st.integers(1, 9))
def test_string_is_read_exactly_however_split(text: str, size: int) -> None:
    if "</parameter>" in text:
        return
    reply = call(("path", text), LINE)
    parts = [reply[at : at + size] for at in range(0, len(reply), size)]
    answer = parse(CODER, parts, {"edit": SCHEMA})
    assert answer.calls == [("edit", {"path": text, "line": 3})]


def test_string_streams() -> None:
    parser = CODER.parser({"edit": SCHEMA})
    parser.feed("<tool_call>\n<function=edit>\n<parameter=path>\n")
    assert parser.feed("src/") == [ToolCallDelta(0, arguments="src/")]
    assert parser.feed("a.c\n") == [ToolCallDelta(0, arguments="a.c")]
    assert parser.feed("</para") == []
    assert parser.feed("graph>") == [ToolCallDelta(0, arguments="\\n</paragraph>")]


def test_value_in_cdata_may_have_the_closing_mark() -> None:
    tags = TaggedArguments(
        before_key='<param name="', after_key='">', after_value="</param>", cdata=True
    )
    form = shaped(
        CallShape(
            before_name='<function name="', after_name='">', suffix="</function>", tagged=tags
        )
    )
    assert {"<function", "<param", "</param>"} <= set(special_marks(form))
    reply = (
        '<function name="edit"><param name="path"><![CDATA[<b>&</param>]]></param>'
        '<param name="line">3</param></function>'
    )
    for pieces in ([reply], list(reply)):
        answer = parse(form, pieces, {"edit": SCHEMA})
        assert answer.calls == [("edit", {"path": "<b>&</param>", "line": 3})]
