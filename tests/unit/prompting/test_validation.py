"""The validator of documents: as right as jsonschema, with bounded work."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from proxy import compiling
from proxy.errors import InvalidParameter
from proxy.prompting.validation import OutputValidator

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}},
    "required": ["x"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (POINT, ['{"x":1}', ' {"x": 1.0}\n'], ['{"x":"1"}', "{}", '{"x":1,"y":2}', "[]", "{", ""]),
        ({"type": "number"}, ["1", "-2.5e3"], ["NaN", "1e999", "Infinity", "01", '"1"']),
        ({"pattern": "^a+$"}, ['"aa"', "5"], ['"ab"', '"aa\\n"']),
        ({"format": "date"}, ['"2024-02-29"'], ['"2023-02-29"', '"29.2.2024"']),
        ({"format": "time"}, ['"05:28:28Z"', '"23:59:59.5+02:00"'], ['"05:28:28"', '"25:00:00Z"']),
        ({"format": "date-time"}, ['"2024-02-29T05:28:28Z"'], ['"2024-02-29"']),
        ({"format": "of-my-own"}, ['"anything"'], []),
        (
            {"patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": False},
            ['{"n_a": 1}', "{}"],
            ['{"n_a": "x"}', '{"m": 1}'],
        ),
        (
            {"$ref": "#/$defs/tree", "$defs": {"tree": {"items": {"$ref": "#/$defs/tree"}}}},
            ["[[],[[]]]"],
            [],
        ),
        ({"contains": {"const": 5}, "type": "array"}, ["[1,5]"], ["[1]"]),
        # Tuples as older drafts write them.
        ({"items": [{"type": "integer"}]}, ["[1]", "[]", '[1,"x"]'], ['["x"]']),
        (
            {"items": [{"const": {"items": [1]}}], "additionalItems": {"type": "null"}},
            ['[{"items":[1]}]', '[{"items":[1]},null]'],
            ["[1]", '[{"items":[1]},5]'],
        ),
        (
            {"properties": {"items": {"items": [{"type": "null"}]}, "enum": {"type": "null"}}},
            ['{"items":[null],"enum":null}'],
            ['{"items":[5]}', '{"enum":5}'],
        ),
        (True, ["5", "{}"], ["five"]),
        (False, [], ["5"]),
    ],
)
def test_valid_and_invalid_instances(schema: Any, good: list[str], bad: list[str]) -> None:
    validator = OutputValidator(schema)
    assert [text for text in good if validator.fault(text)] == []
    assert [text for text in bad if not validator.fault(text)] == []


def test_validation_error_has_its_path() -> None:
    assert "$.x" in OutputValidator(POINT).fault('{"x": "one"}')


@pytest.mark.parametrize("schema", [{"type": "no"}, {"required": "x"}, 5, [], {"minimum": "1"}])
def test_invalid_schema_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidParameter):
        OutputValidator(schema)


def test_catastrophic_pattern_ends_quickly() -> None:
    text = json.dumps("a" * 4000 + "!")
    began = time.process_time()
    assert OutputValidator({"pattern": "^(a+)+$"}).fault(text)
    assert OutputValidator({"patternProperties": {"^(a+)+$": False}}).fault(f"{{{text}: 1}}") == ""
    assert time.process_time() - began < 5


def test_doubly_recursive_references_are_not_exponential() -> None:
    defs: dict[str, Any] = {
        f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)
    }
    defs["a40"] = {"type": "integer"}
    schema = json.dumps({"$defs": defs, "$ref": "#/$defs/a0"}).encode()
    assert "too much work" in compiling.do(compiling.Validate(schema, "1")).text


@pytest.mark.parametrize(
    "schema", [{"$ref": "#"}, {"$ref": "#/nowhere"}, {"$ref": "http://127.0.0.1:9/schema.json"}]
)
def test_self_and_remote_references_accept_nothing(schema: Any) -> None:
    """The tests' network guard would also fail if a reference were fetched."""
    assert OutputValidator(schema).fault("1")


def test_deep_documents_are_errors_without_crash() -> None:
    schema = {"$ref": "#/$defs/t", "$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}}
    assert isinstance(OutputValidator(schema).fault("[" * 900 + "]" * 900), str)
    assert OutputValidator(schema).fault("[" * 100_000)


def test_endless_reference_is_told_at_every_depth_of_the_stack() -> None:
    """Where the stack overflowed within `referencing`, it was a panic."""
    validator = OutputValidator({"$ref": "#"})

    def below(frames: int) -> str:
        return below(frames - 1) if frames else validator.fault("1")

    for frames in range(60):
        assert "endless" in below(frames)


def test_deep_documents_are_validated() -> None:
    schema = {
        "$ref": "#/$defs/t",
        "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}},
    }
    validator = OutputValidator(schema)
    assert validator.fault("[" * 90 + "]" * 90) == ""
    assert "array" in validator.fault("[" * 90 + "1" + "]" * 90)


def test_unchecked_patterns_are_reported() -> None:
    validator = OutputValidator({"properties": {"a": {"pattern": "(?=x)"}, "b": {"pattern": "x"}}})
    assert validator.unchecked == ("(?=x)",)
    assert validator.fault('{"a": "y"}') == ""


def test_pattern_properties_with_unevaluated_properties_are_refused() -> None:
    """jsonschema would search for evaluated names with `re`."""
    with pytest.raises(InvalidParameter, match="both"):
        OutputValidator({"patternProperties": {"^(a+)+$": {}}, "unevaluatedProperties": False})
