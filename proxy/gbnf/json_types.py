"""The types of JSON values, and equality as JSON schema defines it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES: dict[str, frozenset[str]] = {
    "null": frozenset({"null"}),
    "boolean": frozenset({"boolean"}),
    "integer": frozenset({"integer"}),
    "number": frozenset({"integer", "fraction"}),
    "string": frozenset({"string"}),
    "array": frozenset({"array"}),
    "object": frozenset({"object"}),
}
ALL_TYPES = frozenset().union(*TYPES.values())


def type_of(value: Any) -> str:
    """The type of a JSON value; a float with an integral value is an integer, as in JSON Schema."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    if isinstance(value, float):
        return "fraction"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Mapping) else "array"


def known_by(value: Any) -> object:
    """A key that is equal for equal JSON values only: 1 and 1.0 are equal, 1 and true are not."""
    kind = type_of(value)
    if kind == "array":
        return kind, tuple(map(known_by, value))
    if kind == "object":
        return kind, frozenset((name, known_by(inside)) for name, inside in value.items())
    return kind, value


def as_schema(value: Any) -> dict[str, Any]:
    """A schema that only this object or array satisfies, without const at its top."""
    if isinstance(value, Mapping):
        return {
            "type": "object",
            "properties": {name: {"const": inside} for name, inside in value.items()},
            "required": list(value),
            "additionalProperties": False,
        }
    return {
        "type": "array",
        "prefixItems": [{"const": inside} for inside in value],
        "items": False,
        "minItems": len(value),
    }


def depth_of(value: Any) -> int:
    """The nesting depth of lists and objects."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, Mapping | list | tuple)]:
        depth += 1
        level = [x for one in level for x in (one.values() if isinstance(one, Mapping) else one)]
    return depth
