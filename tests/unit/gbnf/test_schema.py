"""JSON schema to grammar: what each keyword allows, and what is refused by name."""

# ruff: noqa: E501 - the table of cases reads best a case a line

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from proxy.errors import InvalidParameter
from proxy.gbnf import (
    NEW,
    OLD,
    GrammarLimits,
    SchemaError,
    UnsupportedSchema,
    check,
    matches,
    schema_to_grammar,
)
from proxy.gbnf.document import MAX_DEPTH
from proxy.prompting.validation import OutputValidator
from tests.thorough import share
from tests.unit.gbnf.samples import Sampler

BOTH = pytest.mark.parametrize("limits", [OLD, NEW], ids=lambda limits: limits.name)
TREE = {
    "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}, "x": {"type": "null"}}}},
    "$ref": "#/$defs/node",
}
UNION = [
    {"properties": {"kind": {"const": "a"}, "n": {"type": "integer"}}, "required": ["kind", "n"]},
    {"properties": {"kind": {"const": "b"}}, "required": ["kind"]},
]


def accepts(schema: Any, text: str, limits: GrammarLimits = OLD, strict: bool = True) -> bool:
    return matches(check(schema_to_grammar(schema, limits, strict), limits), text)


CASES: list[tuple[Any, list[str], list[str]]] = [
    (True, ["null", '{"a": [1, {}]}', "-0.5e-3"], ["", "nul", "01", '"\n"', "[1,]"]),
    ({"type": "object"}, ["{}", '{"a":1, "b":2}'], ["[]"]),
    ({"type": "object", "properties": {}}, ["{}"], ['{"a":1}']),
    ({"type": "null"}, ["null"], ["0"]),
    ({"type": ["boolean", "null"]}, ["true", "null"], ["1"]),
    ({"type": "string", "nullable": True}, ["null", '"a"'], ["1"]),
    ({"allOf": [{"type": "string"}], "nullable": True}, ["null", '"a"'], ["1"]),
    ({"enum": ["a"], "nullable": True}, ['"a"'], ["null"]),
    # Strings.
    ({"type": "string"}, ['"\\u00e9\\n/\\/"', '"中😀"', '"\\ud83d\\ude00"'], ['"\\ud83d"', '"\\ude00"', '"\t"', '"\\x"']),
    ({"minLength": 2, "maxLength": 3}, ['"ab"', '"中\\n😀"'], ['"a"', '"abcd"']),
    ({"maxLength": 0}, ['""'], ['"a"']),
    ({"type": "string", "maxLength": 50_001}, ['"a"', '""'], ["1"]),
    ({"type": "string", "maxLength": 9_000, "pattern": "ab"}, ['"cab"'], ['"a"']),
    ({"pattern": "^(ab)*$", "minLength": 3, "maxLength": 7}, ['"abab"', '"ababab"'], ['"ab"', '"abababab"', '"aba"']),
    ({"type": "string", "minLength": 1, "maxLength": 345}, ['"' + "a" * 345 + '"'], ['""', '"' + "a" * 346 + '"']),
    ({"pattern": "^a+$", "maxLength": 2}, ['"a"', '"aa"'], ['""', '"aaa"']),
    ({"pattern": "b"}, ['"abc"', '"b"'], ['"ac"']),
    ({"allOf": [{"pattern": "^a"}, {"pattern": "z$"}]}, ['"az"', '"a z"'], ['"a"']),
    ({"format": "ipv4"}, ['"127.0.0.1"'], ['"256.1.1.1"', '"01.1.1.1"']),
    ({"format": "int8", "type": "integer"}, ["-128", "127"], ["128", "-129"]),
    ({"format": "int8", "type": ["string", "number"]}, ['"a"', "128"], []),
    ({"format": "color-of-ours", "type": "string"}, ['"a"', '""'], ["1"]),
    ({"format": "color-of-ours"}, ['"a"', "[1]"], []),
    ({"format": "date"}, ['"2000-02-29"'], ['"1900-02-29"', '"2023-04-31"', '"0000-01-01"']),
    # Numbers.
    ({"type": "integer"}, ["0", "-1", str(2**63)], ["-0", "1.0", "1e3", "01"]),
    ({"type": "integer", "minimum": -3, "exclusiveMaximum": 12}, ["-3", "0", "11"], ["-4", "12"]),
    ({"type": "integer", "minimum": 0.5, "maximum": 1.5}, ["1"], ["0", "2"]),
    ({"type": "integer", "minimum": 10, "exclusiveMinimum": True}, ["11"], ["10"]),
    ({"type": "integer", "multipleOf": 5, "maximum": 12}, ["-5", "0", "10"], ["11", "15"]),
    ({"type": "number", "multipleOf": 2}, ["4", "-2"], ["1", "2.5"]),
    ({"type": "number", "minimum": 0.25, "exclusiveMaximum": 3}, ["0.25", "0.3", "2.999", "1"], ["0.2", "3", "3.0", "-1"]),
    ({"type": "number", "exclusiveMinimum": -1, "maximum": 0}, ["-0.5", "0", "0.0"], ["-1", "-1.0", "0.1"]),
    ({"type": "number", "maximum": 1e300}, ["5", "-5.5"], []),
    # Listed values.
    ({"enum": ["a\"b", 1, 2.5, None, [1, "x"]]}, ['"a\\"b"', "1", "2.5", "null", '[1, "x"]'], ["2", "[1]"]),
    ({"const": {"a": [True]}}, ['{"a":[true]}', '{"a": [true]}'], ["{}"]),
    ({"enum": [1, 2, 3, "a"], "minimum": 2, "type": "integer"}, ["2", "3"], ["1", '"a"']),
    ({"allOf": [{"enum": [1, 2]}, {"enum": [2.0, True]}]}, ["2"], ["1", "true"]),
    ({"enum": [{"a": 1}, {"a": 2}, [1]], "properties": {"a": {"const": 2}}}, ['{"a":2}', "[1]"], ['{"a":1}']),
    ({"enum": [[1, 2], [1]], "not": {"const": [1]}}, ["[1,2]"], ["[1]"]),
    ({"allOf": [{"enum": [[1], []]}, {"not": {"not": {"minItems": 1}}}]}, ["[1]"], ["[]"]),
    # Objects.
    (
        {"properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "required": ["b"]},
        ['{"b":null}', '{"a": null, "b":null}'],
        ["{}", '{"b":null,"a":null}', '{"b":null,}', '{ "b":null}', '{"b":  null}'],
    ),
    ({"properties": {"a": True}, "additionalProperties": {"type": "null"}}, ['{"b":null}', '{"a":1,"aa":null}'], ['{"b":1}', '{"b":null,"a":1}']),
    ({"additionalProperties": {"type": "null"}, "maxProperties": 1}, ["{}", '{"x":null}'], ['{"x":null,"y":null}']),
    ({"properties": {"a": False, "b": True}}, ["{}", '{"b":1}'], ['{"a":1}']),
    ({"properties": {c: {"type": "null"} for c in "abc"}, "minProperties": 2, "maxProperties": 2}, ['{"a":null,"c":null}'], ['{"a":null}', '{"a":null,"b":null,"c":null}']),
    ({"type": "object", "required": ["x"]}, ['{"x":[]}'], ["{}"]),
    ({"allOf": [{"properties": {"a": {"type": "null"}}}, {"properties": {"b": {"type": "null"}}, "required": ["b"]}]}, ['{"a":null,"b":null}'], ['{"a":null}']),
    ({"allOf": [{"properties": {"a": {"minimum": 3}}}, {"properties": {"a": {"maximum": 4}}}]}, ['{"a":3}', "{}"], ['{"a":5}', '{"a":2}']),
    # Arrays.
    ({"items": {"type": "null"}, "minItems": 1, "maxItems": 2}, ["[null]", "[null, null]"], ["[]", "[null,null,null]"]),
    ({"items": False}, ["[]"], ["[1]"]),
    ({"prefixItems": [{"type": "null"}, {"const": 1}]}, ["[]", "[null]", "[null,1]"], ["[null,1,1]", "[1]"]),
    ({"items": [{"const": 1}], "additionalItems": {"const": 2}, "minItems": 1}, ["[1]", "[1,2,2]"], ["[]", "[1,1]"]),
    ({"items": {"type": "null"}, "maxItems": 1, "uniqueItems": True}, ["[]", "[null]"], []),
    ({"items": {"const": 0}, "minItems": 150}, ["[" + "0," * 149 + "0]"], ["[" + "0," * 148 + "0]"]),
    ({"contains": {"const": 1}, "items": {"type": "integer"}}, ["[1]", "[0,1,0]"], ["[]", "[0]"]),
    ({"contains": {"const": 1}, "items": {"enum": [0, 1]}, "minContains": 2, "maxContains": 3}, ["[1,1]", "[1,0,1,1,0]"], ["[1]", "[1,1,1,1]"]),
    ({"contains": {"const": 1}, "prefixItems": [{"const": 0}], "items": {"enum": [0, 1]}, "maxItems": 3}, ["[0,1]", "[0,0,1]"], ["[1]", "[0,0,0]", "[0,0,0,1]"]),
    ({"contains": {"const": 1}, "minContains": 0, "items": {"enum": [0, 1]}}, ["[]", "[0]"], ["[2]"]),
    ({"items": {"enum": ["a", "b", 3]}, "uniqueItems": True, "minItems": 1}, ['["b","a"]', '[3,"a","b"]'], ["[]", '["a","a"]', '["a","b","a"]']),
    ({"items": {"type": "boolean"}, "uniqueItems": True}, ["[]", "[true,false]"], ["[true,true]"]),
    ({"items": {"enum": list(range(20))}, "uniqueItems": True, "maxItems": 2}, ["[3,19]", "[]"], ["[3,3]", "[1,2,3]"]),
    ({"type": "array", "maxItems": 60_000, "items": {"const": 1}}, ["[]", "[1,1]"], ["[2]"]),
    # Names of members.
    ({"properties": {"ab": {"const": 1}}, "patternProperties": {"^a": {"type": "integer"}, "b$": {"minimum": 5}}, "additionalProperties": False}, ['{"a":1}', '{"cb":5}', '{"axb":7}', "{}"], ['{"ab":1}', '{"c":1}', '{"cb":4}', '{"axb":4}', '{"a":""}']),
    ({"patternProperties": {"^x-": True}, "properties": {"b": {"const": 1}}, "additionalProperties": {"const": 0}}, ['{"b":1,"x-a":[],"c":0}'], ['{"c":1}', '{"b":0}']),
    ({"propertyNames": {"pattern": "^[a-c]$"}, "properties": {"a": {"const": 1}, "d": True}, "additionalProperties": True}, ['{"a":1,"b":2}'], ['{"d":1}', '{"e":1}']),
    ({"propertyNames": {"enum": ["x", "y"]}, "additionalProperties": {"const": 0}}, ['{"x":0,"y":0}'], ['{"z":0}']),
    ({"properties": {"a": {"const": 1}, "b": {"const": 2}}, "dependentRequired": {"a": ["b"]}}, ['{"a":1,"b":2}', '{"b":2}', "{}"], ['{"a":1}']),
    ({"properties": {"a": {"const": 1}, "b": {"type": "integer"}}, "dependencies": {"a": {"properties": {"b": {"const": 2}}}}}, ['{"a":1,"b":2}', '{"b":3}', '{"a":1}'], ['{"a":1,"b":3}']),
    # Negations.
    ({"not": {"type": "null"}}, ["1", "[]"], ["null"]),
    ({"not": {"type": ["integer", "null"]}, "type": ["number", "null"]}, ["1.5"], ["1", "1.0", "null"]),
    ({"not": {"enum": ["a", 1, None]}, "type": ["string", "integer", "null"]}, ['"b"', "2", '""'], ['"a"', "1", "null"]),
    ({"not": {"const": 2}, "type": "number"}, ["1", "2.5", "-2"], ["2", "2.0"]),
    ({"not": {"pattern": "^a"}, "type": "string"}, ['"b"', '""'], ['"ab"']),
    ({"not": {"format": "date"}, "type": "string"}, ['"b"'], ['"2024-02-29"']),
    ({"not": {"minimum": 3}, "type": "integer"}, ["2"], ["3"]),
    ({"not": {"multipleOf": 3}, "type": "integer"}, ["1", "-2"], ["3", "0", "-6"]),
    ({"not": {"multipleOf": 3}, "type": "number"}, ["1", "0.5"], ["3", "3.0", "0"]),
    ({"not": {"minLength": 2}, "type": "string"}, ['"a"'], ['"ab"']),
    ({"not": {"required": ["a"]}, "properties": {"a": True, "b": {"const": 1}}}, ['{"b":1}', "{}"], ['{"a":1}']),
    ({"not": {"anyOf": [{"type": "string"}, {"type": "array"}]}}, ["1", "{}"], ['"a"', "[]"]),
    ({"not": {"not": {"type": "integer"}}}, ["1"], ['"a"']),
    ({"not": {"items": {"type": "integer"}}, "items": {"enum": [1, "a"]}}, ['["a"]', '[1,"a"]'], ["[]", "[1]"]),
    ({"not": {"contains": {"const": 1}}, "items": {"enum": [0, 1]}}, ["[]", "[0]"], ["[0,1]"]),
    ({"not": {"maxItems": 1}, "items": {"const": 1}}, ["[1,1]"], ["[1]"]),
    ({"not": {"additionalProperties": {"const": 0}}, "additionalProperties": {"enum": [0, 1]}}, ['{"a":1}', '{"a":0,"b":1}'], ["{}", '{"a":0}']),
    ({"not": {"patternProperties": {"^a": {"const": 0}}}, "additionalProperties": {"enum": [0, 1]}}, ['{"a":1}', '{"b":0,"a":1}'], ["{}", '{"b":1}', '{"a":0}']),
    ({"not": {"propertyNames": {"maxLength": 1}}, "additionalProperties": {"const": 0}}, ['{"ab":0}'], ["{}", '{"a":0}']),
    ({"not": {"const": {"a": 1}}, "properties": {"a": {"enum": [1, 2]}}}, ["{}", '{"a":2}'], ['{"a":1}']),
    # Conditions.
    ({"type": "integer", "if": {"minimum": 5}, "then": {"maximum": 9}, "else": {"multipleOf": 2}}, ["2", "7"], ["3", "10"]),
    ({"properties": {"k": {"enum": ["a", "b"]}, "n": {"type": "integer"}}, "required": ["k"], "if": {"properties": {"k": {"const": "a"}}}, "then": {"required": ["n"]}}, ['{"k":"a","n":1}', '{"k":"b"}', '{"k":"b","n":1}'], ['{"k":"a"}']),
    ({"if": {"type": "string"}, "then": {"minLength": 2}, "type": ["string", "null"]}, ['"ab"', "null"], ['"a"']),
    ({"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 2}]}, ["1", "2.5"], ["2", "1.5"]),
    ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {"a": {"const": 1}, "b": {"const": 2}}}, ['{"a":1}', '{"b":2}'], ["{}", '{"a":1,"b":2}']),
    # References and alternatives.
    ({"$defs": {"x": {"$anchor": "one", "const": 1}, "y": {"id": "#two", "const": 2}}, "anyOf": [{"$ref": "#one"}, {"$ref": "#two"}]}, ["1", "2"], ["3"]),
    ({"type": "string", "pattern": f"^({'a' * 20})*$", "minLength": 70, "maxLength": 80}, ['"' + "a" * 80 + '"'], ['"' + "a" * 60 + '"']),
    ({"$id": "http://a/b", "type": "array", "items": {"$ref": "http://a/b"}}, ["[[]]"], ["[1]"]),
    (TREE, ["{}", '{"next":{"next":{},"x":null}}'], ['{"next":null}']),
    ({"type": "array", "items": {"$ref": "#"}}, ["[]", "[[],[[]]]"], ["[1]"]),
    ({"definitions": {"a/b": {"const": 1}}, "$ref": "#/definitions/a~1b"}, ["1"], ["2"]),
    ({"$ref": "#/x%20y", "x y": {"const": 1}}, ["1"], ["2"]),
    ({"anyOf": [{"type": "integer"}, {"type": "number", "minimum": 0}, {"const": "a"}]}, ["-5", "0.5", '"a"'], ["-0.5"]),
    ({"anyOf": UNION}, ['{"kind":"a","n":1}', '{"kind":"b"}'], ['{"kind":"a"}']),
    ({"oneOf": UNION}, ['{"kind":"a","n":1}', '{"kind":"b"}'], ['{"kind":"c"}']),
    ({"oneOf": [{"type": "null"}, {"maximum": 1, "type": "integer"}, {"minimum": 2, "type": "integer"}]}, ["null", "1", "2"], []),
    ({"oneOf": [{"pattern": "^a", "type": "string"}, {"pattern": "^b", "type": "string"}]}, ['"ax"', '"b"'], ['"c"']),
    ({"anyOf": [{"type": "array", "items": {"const": 1}}, {"type": "array", "items": {"const": 2}}]}, ["[]", "[1,1]", "[2]"], ["[1,2]"]),
    ({"anyOf": [{"properties": {"x": False}, "required": ["x"]}, {"const": 1}]}, ["1"], ["{}"]),
    ({"properties": {"a": {"$ref": "#/properties/b"}, "b": {"const": 1}}}, ['{"a":1}'], ['{"a":2}']),
    # Keywords without influence on validity.
    ({"type": "null", "title": "t", "x-own": 1, "default": 1, "not": False, "dependentSchemas": {}}, ["null"], []),
]  # fmt: skip
"""A schema for each keyword, with texts that its closed grammar must allow, or must not."""


@BOTH
@pytest.mark.parametrize(("schema", "good", "bad"), CASES)
def test_schema_keywords_become_grammar(
    limits: GrammarLimits, schema: Any, good: list[str], bad: list[str]
) -> None:
    grammar = check(schema_to_grammar(schema, limits), limits)
    for text in good:
        json.loads(text)
        assert matches(grammar, text), text
    for text in bad:
        assert not matches(grammar, text), text


@pytest.mark.parametrize(
    ("one", "other", "good", "bad"),
    [
        ({"const": 1}, {"const": True}, '{"a":1,"b":true}', '{"a":1,"b":1}'),
        ({"const": "1"}, {"const": 1}, '{"a":"1","b":1}', '{"a":"1","b":"1"}'),
        (
            {"type": "object", "properties": {"x": {}, "y": {}}},
            {"type": "object", "properties": {"y": {}, "x": {}}},
            '{"a":{"x":1,"y":1},"b":{"y":1,"x":1}}',
            '{"a":{"x":1,"y":1},"b":{"x":1,"y":1}}',
        ),
        (
            {"type": "object", "properties": {"title": {"const": 1}}, "required": ["title"]},
            {"type": "object", "properties": {"title": {"const": 2}}, "required": ["title"]},
            '{"a":{"title":1},"b":{"title":2}}',
            '{"a":{"title":1},"b":{"title":1}}',
        ),
        (
            {"const": {"title": 1}},
            {"const": {"title": 2}},
            '{"a":{"title":1},"b":{"title":2}}',
            '{"a":{"title":1},"b":{"title":1}}',
        ),
        ({"not": {"const": 1}}, {"not": {"const": 2}}, '{"a":2,"b":1}', '{"a":2,"b":2}'),
    ],
)
def test_different_schemas_keep_their_own_rules(one: Any, other: Any, good: str, bad: str) -> None:
    schema = {"type": "object", "properties": {"a": one, "b": other}, "required": ["a", "b"]}
    grammar = check(schema_to_grammar(schema, NEW), NEW)
    assert matches(grammar, good)
    assert not matches(grammar, bad)


def test_deep_values_of_unknown_keywords_are_ignored() -> None:
    deep: Any = {}
    for _ in range(5_000):
        deep = {"items": [deep]}
    assert matches(check(schema_to_grammar({"const": 1, "x-own": deep}, NEW), NEW), "1")


@pytest.mark.parametrize("schema", [case[0] for case in CASES])
def test_texts_of_open_grammars_satisfy_an_independent_validator(schema: Any) -> None:
    try:
        judge = OutputValidator(_without_older_words(schema))
    except InvalidParameter:
        pytest.skip("the validator knows the current standard only")
    try:
        grammar = check(schema_to_grammar(schema, NEW, closed=False), NEW)
    except UnsupportedSchema as error:
        pytest.skip(f"{error.keyword} needs a closed object")
    sampler = Sampler(grammar, random.Random(7))
    for _ in range(share(10)):
        text = sampler.text(60)
        assert judge.fault(text) == "", text


def _without_older_words(schema: Any) -> Any:
    """The schema with the words of older drafts and OpenAPI in those of the standard."""
    older = json.dumps(schema)
    if any(word in older for word in ('"nullable"', '"dependencies"', '"id"', '"$id"')):
        pytest.skip("the validator knows the current standard only")
    return schema


@pytest.mark.parametrize(
    ("schema", "keyword", "pointer"),
    [
        ({"items": {"type": "array", "uniqueItems": True}}, "uniqueItems", "/items"),
        ({"unevaluatedProperties": {"type": "null"}}, "unevaluatedProperties", ""),
        ({"$dynamicRef": "#x"}, "$dynamicRef", ""),
        ({"$ref": "other.json"}, "$ref", ""),
        ({"not": {"uniqueItems": True}}, "not", ""),
        ({"not": {"multipleOf": 0.5}}, "not", ""),
        ({"patternProperties": {"(?=a)": {}}}, "patternProperties", ""),
        ({"type": "string", "minLength": 9_000, "pattern": "ab"}, "minLength", ""),
        ({"type": "array", "minItems": 60_000}, "minItems", ""),
        ({"contains": {"minimum": 1}, "minContains": 2_000}, "contains", ""),
        ({"pattern": "(?=a)"}, "pattern", ""),
        ({"pattern": "(a|b)*a(a|b){20}"}, "pattern", ""),
        ({"multipleOf": 0.01}, "multipleOf", ""),
        ({"multipleOf": 100_003}, "multipleOf", ""),
        ({"minimum": 1e200}, "minimum", ""),
        ({"maximum": 1e-200}, "maximum", ""),
        ({"type": "object", "minProperties": 2}, "minProperties", ""),
        ({"anyOf": [{"const": n} for n in range(501)]}, "anyOf", ""),
        (
            {"anyOf": [{"properties": {"a": {}}}, {"properties": {"a": {}, "b": {}}}]},
            "anyOf",
            "",
        ),
    ],
)
def test_inexpressible_keyword_is_named_or_dropped(schema: Any, keyword: str, pointer: str) -> None:
    with pytest.raises(UnsupportedSchema) as caught:
        schema_to_grammar(schema, OLD)
    assert (caught.value.keyword, caught.value.pointer) == (keyword, pointer)
    assert repr(keyword) in str(caught.value)
    if keyword != "$ref" and len(schema.get("anyOf", ())) < 500:
        check(schema_to_grammar(schema, OLD, strict=False), OLD)


@pytest.mark.parametrize(
    ("schema", "pointer", "what"),
    [
        (False, "", "no value satisfies it"),
        (5, "", "must be an object"),
        ({"type": "text"}, "", "'type'"),
        ({"type": []}, "", "'type'"),
        ({"properties": {"a": 5}}, "/properties/a", "must be an object"),
        ({"properties": []}, "", "'properties'"),
        ({"type": "object", "required": [1]}, "", "'required'"),
        ({"minLength": -1}, "", "'minLength'"),
        ({"maxLength": True}, "", "'maxLength'"),
        ({"minimum": "1"}, "", "'minimum'"),
        ({"minimum": float("nan")}, "", "'minimum'"),
        ({"multipleOf": 0}, "", "'multipleOf'"),
        ({"enum": []}, "", "'enum'"),
        ({"const": {1}}, "", "'const'"),
        ({"const": "\ud800"}, "", "'const'"),
        ({"pattern": "("}, "", "'pattern'"),
        ({"pattern": 1}, "", "'pattern'"),
        ({"format": 1}, "", "'format'"),
        ({"anyOf": []}, "", "'anyOf'"),
        ({"allOf": {}}, "", "'allOf'"),
        ({"$ref": 1}, "", "'$ref'"),
        ({"$ref": "#/nowhere"}, "", "cannot be resolved"),
        ({"$ref": "#"}, "", "endlessly"),
        ({"allOf": [{"$ref": "#"}]}, "", "endlessly"),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "", "endlessly"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "", "infinite value"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "", "no value satisfies it"),
        ({"type": "integer", "minimum": 1, "maximum": 0}, "", "no value satisfies it"),
        ({"minLength": 2, "maxLength": 1}, "", "no value satisfies it"),
        ({"items": {"minItems": 2, "maxItems": 1}, "minItems": 1}, "", "no value satisfies it"),
        ({"additionalProperties": False, "required": ["a"]}, "", "no value satisfies it"),
    ],
)
def test_invalid_schemas_are_refused(schema: Any, pointer: str, what: str) -> None:
    with pytest.raises(SchemaError) as caught:
        schema_to_grammar(schema, OLD)
    assert what in caught.value.what
    assert caught.value.pointer == pointer


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def test_schema_nesting_is_bounded() -> None:
    depth = MAX_DEPTH - 1
    assert accepts(nested(depth), '{"a":' * depth + "null" + "}" * depth)
    with pytest.raises(SchemaError, match="nested deeper"):
        schema_to_grammar(nested(MAX_DEPTH + 1), OLD)
    with pytest.raises(SchemaError):
        schema_to_grammar(nested(5_000), OLD)


def test_element_referenced_often_becomes_one_rule() -> None:
    """References are shared, so a schema that doubles at every level is still small."""
    defs: dict[str, Any] = {"d0": {"type": "null"}}
    for at in range(1, 20):
        inside = {"$ref": f"#/$defs/d{at - 1}"}
        defs[f"d{at}"] = {"properties": {"a": inside, "b": inside}}
    assert len(schema_to_grammar({"$defs": defs, "$ref": "#/$defs/d19"}, OLD)) < 5_000


def test_infinitely_recursive_branch_is_dropped() -> None:
    endless = {"properties": {"a": {"$ref": "#/$defs/e"}}, "required": ["a"]}
    schema = {"$defs": {"e": endless}, "items": {"$ref": "#/$defs/e"}, "type": "array"}
    grammar = schema_to_grammar(schema, OLD)
    assert matches(check(grammar, OLD), "[]")
    assert "{" not in grammar


def deep_list(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "schema",
    [
        {"const": deep_list(400)},
        {"enum": [deep_list(60)]},
        {"allOf": [{"anyOf": [{"title": "x"}]}] * 400},
        {"allOf": [*[{"anyOf": [{"title": "x"}, {"title": "y"}]}] * 30, False]},
        {"allOf": [{"anyOf": [{"title": "x"}, {"title": "y"}]}] * 30},
    ],
)
def test_slow_compilation_is_refused(schema: Any) -> None:
    with pytest.raises((SchemaError, UnsupportedSchema)):
        schema_to_grammar(schema, OLD)


def test_exclusive_branches_are_searched_once() -> None:
    names = [f"n{at}" for at in range(20)]
    defs: dict[str, Any] = {"d9": {"type": "object"}}
    for at in range(9):
        inside = {name: {"$ref": f"#/$defs/d{at + 1}"} for name in names}
        defs[f"d{at}"] = {"type": "object", "properties": inside, "required": names}
    schema = {"$defs": defs, "oneOf": [{"$ref": "#/$defs/d0"}, {"type": "object", "title": "x"}]}
    with pytest.raises(UnsupportedSchema) as caught:
        schema_to_grammar(schema, OLD)
    assert caught.value.keyword in ("oneOf", "anyOf")
