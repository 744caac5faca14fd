"""Turns `not` into schemas without it.

A value fails a schema if it fails one of its keywords, and failing a keyword is again a schema: not
`minimum: 3` is a number below 3. So a negation moves inwards until it disappears or meets an atom
that an automaton can complement. Keywords that have no such form are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from itertools import combinations
from typing import Any, NoReturn

from .document import Node, Nodes, UnsupportedSchema
from .json_types import ALL_TYPES, PATTERNS, as_schema, types_named


class Atom(Enum):
    """Keywords of our own, for what remains of a negation."""

    KINDS = "kinds"  # a frozen set of kinds, which tells integers and fractions apart
    NO_VALUES = "no values"  # listed scalars that the value must not equal
    NO_PATTERN = "no pattern"  # that the string must not match
    NO_FORMAT = "no format"  # that the string must not have
    NO_MULTIPLE = "no multiple"  # an integer that must not divide the number
    # The object has a member that satisfies the schema beside it: one that is none of these names
    # and patterns, or whose name matches this pattern, or whose name satisfies this schema.
    SOME = "some"
    SOME_MATCHING = "some matching"
    SOME_NAME = "some name"

    # Every schema is searched for these keys, and an enumeration's own hash is slow.
    __hash__ = object.__hash__


def opposite(node: Node) -> Node:
    """The schema that a value satisfies if it fails this one."""
    if node.schema is True or node.schema is False:
        return Node(f"!{node.pointer}", not node.schema)
    if isinstance(node.schema, Mapping) and node.schema.keys() == {"not"}:
        return node.child("not")
    return Node(f"!{node.pointer}", {"not": node})


def failures(node: Node) -> list[Nodes]:
    """The ways to fail a schema, each as schemas that hold together; references are not followed.

    Raises UnsupportedSchema."""
    if node.schema is True:
        return []
    if node.schema is False:
        return [()]
    if not isinstance(node.schema, Mapping):
        node.fail("a schema must be an object, true or false")
    alternatives: list[Nodes] = []
    for keyword, value in node.schema.items():
        if keyword in _UNSUPPORTED and value is not _UNSUPPORTED[keyword]:
            _refuse(node, keyword)
        alternatives += _failures_of(keyword, value, node)
    return alternatives


_UNSUPPORTED: Mapping[str, object] = {
    "uniqueItems": False,
    "unevaluatedProperties": True,
    "unevaluatedItems": True,
    "$dynamicRef": None,
    "$recursiveRef": None,
}
"""Keywords that cannot be negated, with the value that nothing fails."""

_COUNTS = {
    "minLength": ("string", "maxLength", -1),
    "maxLength": ("string", "minLength", 1),
    "minProperties": ("object", "maxProperties", -1),
    "maxProperties": ("object", "minProperties", 1),
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
}
"""The type of each, and the keyword that holds for the other numbers, from the next one on."""


def _refuse(node: Node, keyword: str, why: str = "cannot be negated") -> NoReturn:
    raise UnsupportedSchema("not", node.pointer, f"{keyword!r} {why}")


def _is_anything(node: Node) -> bool:
    return node.schema is True or node.schema == {}


def _failures_of(keyword: str, value: Any, node: Node) -> Iterator[Nodes]:
    """The ways to fail one keyword of a schema; none for a keyword that nothing fails."""

    def only(kind: str, rest: dict[Any, Any], step: str = "") -> Nodes:
        pointer = f"{node.pointer}!{keyword}{step}"
        return (Node(pointer, {"type": kind, **rest}),)

    schema = node.schema
    match keyword:
        # Any value
        case "type":
            types = types_named(value)
            if types is None:
                node.fail(f"'type' {value!r} is not a JSON type")
            yield (Node(f"{node.pointer}!type", {Atom.KINDS: ALL_TYPES - types}),)
        case "enum" | "const":
            yield _unlisted(node, keyword, value if keyword == "enum" else [value])
        case "allOf":
            for part in node.members(keyword):
                yield (opposite(part),)
        case "anyOf":
            yield tuple(map(opposite, node.members(keyword)))
        case "oneOf":
            branches = node.members(keyword)
            yield tuple(map(opposite, branches))
            yield from combinations(branches, 2)
        case "not":
            yield (node.child(keyword),)
        case "if":
            if "then" in schema:
                yield node.child("if"), opposite(node.child("then"))
            if "else" in schema:
                yield opposite(node.child("if")), opposite(node.child("else"))
        case _ if keyword in _COUNTS:
            kind, other, step = _COUNTS[keyword]
            count = node.count(keyword)
            if count is not None and count + step >= 0:
                yield only(kind, {other: count + step})
        # Strings
        case "pattern":
            yield only("string", {Atom.NO_PATTERN: value})
        case "format" if value in PATTERNS:  # an annotation does not fail
            yield only("string", {Atom.NO_FORMAT: value})
        # Numbers; a boolean exclusiveMinimum is draft 4's
        case "minimum":
            strict = schema.get("exclusiveMinimum") is True
            yield only("number", {"maximum" if strict else "exclusiveMaximum": value})
        case "maximum":
            strict = schema.get("exclusiveMaximum") is True
            yield only("number", {"minimum" if strict else "exclusiveMinimum": value})
        case "exclusiveMinimum" if not isinstance(value, bool):
            yield only("number", {"maximum": value})
        case "exclusiveMaximum" if not isinstance(value, bool):
            yield only("number", {"minimum": value})
        case "multipleOf":
            if isinstance(value, float) and not value.is_integer():
                _refuse(node, keyword, "must be an integer")
            yield only("number", {Atom.NO_MULTIPLE: value})
        # Objects
        case "required" if not isinstance(value, bool):
            if not isinstance(value, list | tuple):
                node.fail("'required' must be a list of names")
            for name in value:
                yield only("object", {"properties": {name: False}}, f"/{name}")
        case "properties":
            for name, inside in node.named(keyword).items():
                if not _is_anything(inside):
                    differing = {"required": [name], "properties": {name: opposite(inside)}}
                    yield only("object", differing, f"/{name}")
        case "patternProperties":
            for pattern, inside in node.named(keyword).items():
                if not _is_anything(inside):
                    matching = {Atom.SOME_MATCHING: pattern, "schema": opposite(inside)}
                    yield only("object", matching, f"/{pattern}")
        case "additionalProperties":
            inside = node.child(keyword)
            if not _is_anything(inside):
                named = tuple(node.named("properties")), tuple(node.named("patternProperties"))
                yield only("object", {Atom.SOME: named, "schema": opposite(inside)})
        case "propertyNames":
            yield only("object", {Atom.SOME_NAME: opposite(node.child(keyword))})
        case "dependencies" | "dependentRequired" | "dependentSchemas":
            for name, needed in value.items():
                if isinstance(needed, list | tuple):
                    for other in needed:
                        lacks = {"required": [name], "properties": {other: False}}
                        yield only("object", lacks, f"/{name}/{other}")
                else:
                    has = only("object", {"required": [name]}, f"/{name}")
                    yield *has, opposite(node.child(keyword, name))
        # Arrays
        case "items" if not isinstance(value, list | tuple):
            before, inside = schema.get("prefixItems"), node.child(keyword)
            if before and inside.schema is False:
                yield only("array", {"minItems": len(before) + 1})
            elif before:
                _refuse(node, keyword)
            elif not _is_anything(inside):
                yield only("array", {"contains": opposite(inside)})
        case "prefixItems" | "items":
            for at, inside in enumerate(node.members(keyword) if value else []):
                places = [*[True] * at, opposite(inside)]
                yield only("array", {"prefixItems": places, "minItems": at + 1}, f"/{at}")
        case "additionalItems" if isinstance(schema.get("items"), list | tuple):
            inside = node.child(keyword)
            if inside.schema is False:
                yield only("array", {"minItems": len(schema["items"]) + 1})
            elif not _is_anything(inside):
                _refuse(node, keyword)
        case "contains":
            if "minContains" in schema or "maxContains" in schema:
                _refuse(node, "minContains")
            yield only("array", {"items": opposite(node.child(keyword))})


def _unlisted(node: Node, keyword: str, values: Any) -> Nodes:
    """The values that equal none of these."""
    if not isinstance(values, list | tuple):
        node.fail("'enum' must be a list of values")
    whole = [value for value in values if isinstance(value, Mapping | list | tuple)]
    scalars = [value for value in values if not isinstance(value, Mapping | list | tuple)]
    parts = [Node(f"{node.pointer}!{keyword}", {Atom.NO_VALUES: scalars})]
    for at, value in enumerate(whole):
        parts.append(opposite(Node(f"{node.pointer}!{keyword}/{at}", as_schema(value))))
    return tuple(parts)
