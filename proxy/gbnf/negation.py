"""Turns `not` into schemas without it.

A value fails a schema if it fails one of its keywords (De Morgan), and failing a keyword is again a
schema: not `minimum: 3` is a number below 3, not `required: [a]` is an object without a, not
`properties: {a: S}` is an object whose a fails S. So a negation moves inwards until it disappears
or meets an atom that an automaton can complement: a pattern, listed scalars, a divisor, a type.

Atoms are written with the keys of `Atom`, which no JSON text has. Keywords that have no such form
are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from itertools import combinations
from typing import Any

from .document import Node, Nodes, UnsupportedSchema
from .json_types import ALL_TYPES, PATTERNS, TYPES, as_schema


class Atom(Enum):
    """Keywords of our own, for what remains of a negation."""

    KINDS = "kinds"
    """A frozen set of kinds, which tells integers and fractions apart."""
    NO_VALUES = "no values"
    """Listed scalars that the value must not equal."""
    NO_PATTERN = "no pattern"
    """A pattern that the string must not match."""
    NO_FORMAT = "no format"
    """A format that the string must not have."""
    NO_MULTIPLE = "no multiple"
    """An integer that must not divide the number."""
    SOME = "some"
    """Patterns and names (or None: any), and a schema: the object has a member that is not one of
    them and satisfies the schema."""
    SOME_MATCHING = "some matching"
    """A pattern and a schema: the object has a member whose name matches and that satisfies it."""
    SOME_NAME = "some name"
    """A schema that the name of some member satisfies."""

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
    found: list[Nodes] = []
    for keyword in node.schema:
        if keyword in _UNSUPPORTED and node.schema[keyword] is not _UNSUPPORTED[keyword]:
            raise UnsupportedSchema("not", node.pointer, f"{keyword!r} cannot be negated")
        if keyword in _WAYS:
            found += _WAYS[keyword](node)
    return found


_UNSUPPORTED: Mapping[str, object] = {
    "uniqueItems": False,
    "unevaluatedProperties": True,
    "unevaluatedItems": True,
    "$dynamicRef": None,
    "$recursiveRef": None,
}
"""Keywords that cannot be negated, with the value that nothing fails."""


def _atom(node: Node, step: object, schema: dict[Any, Any]) -> Nodes:
    return (Node(f"{node.pointer}!{step}", schema),)


def _type(node: Node) -> Iterator[Nodes]:
    named = node.schema["type"]
    names = named if isinstance(named, list | tuple) else [named]
    if not all(isinstance(name, str) and name in TYPES for name in names):
        node.fail(f"'type' {named!r} is not a JSON type")
    kinds = ALL_TYPES.difference(*(TYPES[name] for name in names))
    yield _atom(node, "type", {Atom.KINDS: kinds})


def _values(node: Node, keyword: str) -> Iterator[Nodes]:
    values = node.schema[keyword] if keyword == "enum" else [node.schema[keyword]]
    if not isinstance(values, list | tuple):
        node.fail("'enum' must be a list of values")
    whole = [value for value in values if isinstance(value, Mapping | list | tuple)]
    scalars = [value for value in values if not isinstance(value, Mapping | list | tuple)]
    parts = [Node(f"{node.pointer}!{keyword}", {Atom.NO_VALUES: scalars})]
    for at, value in enumerate(whole):
        parts.append(opposite(Node(f"{node.pointer}!{keyword}/{at}", as_schema(value))))
    yield tuple(parts)


def _below(low: str, high: str, kind: str) -> Callable[[Node], Iterator[Nodes]]:
    def ways(node: Node) -> Iterator[Nodes]:
        least = node.count(low) if low in node.schema else None
        if least:
            yield _atom(node, low, {"type": kind, high: least - 1})

    return ways


def _above(high: str, low: str, kind: str) -> Callable[[Node], Iterator[Nodes]]:
    def ways(node: Node) -> Iterator[Nodes]:
        most = node.count(high)
        if most is not None:
            yield _atom(node, high, {"type": kind, low: most + 1})

    return ways


def _minimum(node: Node) -> Iterator[Nodes]:
    strict = node.schema.get("exclusiveMinimum") is True
    word = "maximum" if strict else "exclusiveMaximum"
    yield _atom(node, "minimum", {"type": "number", word: node.schema["minimum"]})


def _maximum(node: Node) -> Iterator[Nodes]:
    strict = node.schema.get("exclusiveMaximum") is True
    word = "minimum" if strict else "exclusiveMinimum"
    yield _atom(node, "maximum", {"type": "number", word: node.schema["maximum"]})


def _beyond(word: str, other: str) -> Callable[[Node], Iterator[Nodes]]:
    def ways(node: Node) -> Iterator[Nodes]:
        if not isinstance(node.schema[word], bool):
            yield _atom(node, word, {"type": "number", other: node.schema[word]})

    return ways


def _pattern(node: Node) -> Iterator[Nodes]:
    yield _atom(node, "pattern", {"type": "string", Atom.NO_PATTERN: node.schema["pattern"]})


def _multiple(node: Node) -> Iterator[Nodes]:
    step = node.schema["multipleOf"]
    if isinstance(step, float) and not step.is_integer():
        raise UnsupportedSchema("not", node.pointer, "'multipleOf' must be an integer")
    yield _atom(node, "multipleOf", {"type": "number", Atom.NO_MULTIPLE: step})


def _format(node: Node) -> Iterator[Nodes]:
    if node.schema["format"] in PATTERNS:  # an annotation does not fail
        yield _atom(node, "format", {"type": "string", Atom.NO_FORMAT: node.schema["format"]})


def _required(node: Node) -> Iterator[Nodes]:
    names = node.schema["required"]
    if isinstance(names, bool):
        return
    if not isinstance(names, list | tuple):
        node.fail("'required' must be a list of names")
    for name in names:
        yield _atom(node, f"required/{name}", {"type": "object", "properties": {name: False}})


def _properties(node: Node) -> Iterator[Nodes]:
    for name, inside in node.named("properties").items():
        if inside.schema is not True and inside.schema != {}:
            schema = {"type": "object", "required": [name], "properties": {name: opposite(inside)}}
            yield _atom(node, f"properties/{name}", schema)


def _additional(node: Node) -> Iterator[Nodes]:
    inside = node.child("additionalProperties")
    if inside.schema is True or inside.schema == {}:
        return
    others = (tuple(node.named("properties")), tuple(node.named("patternProperties")))
    some = {"type": "object", Atom.SOME: others, "schema": opposite(inside)}
    yield _atom(node, "additionalProperties", some)


def _patterns(node: Node) -> Iterator[Nodes]:
    for pattern, inside in node.named("patternProperties").items():
        if inside.schema is not True and inside.schema != {}:
            some = {"type": "object", Atom.SOME_MATCHING: pattern, "schema": opposite(inside)}
            yield _atom(node, f"patternProperties/{pattern}", some)


def _names(node: Node) -> Iterator[Nodes]:
    some = {"type": "object", Atom.SOME_NAME: opposite(node.child("propertyNames"))}
    yield _atom(node, "propertyNames", some)


def _places(keyword: str) -> Callable[[Node], Iterator[Nodes]]:
    def ways(node: Node) -> Iterator[Nodes]:
        if keyword == "items" and not isinstance(node.schema["items"], list | tuple):
            before = node.schema.get("prefixItems")
            inside = node.child("items")
            if before and inside.schema is False:
                yield _atom(node, "items", {"type": "array", "minItems": len(before) + 1})
                return
            if before:
                raise UnsupportedSchema("not", node.pointer, "'items' cannot be negated")
            if inside.schema is not True and inside.schema != {}:
                yield _atom(node, "items", {"type": "array", "contains": opposite(inside)})
            return
        for at, inside in enumerate(node.members(keyword) if node.schema[keyword] else []):
            places = [*[True] * at, opposite(inside)]
            schema = {"type": "array", "prefixItems": places, "minItems": at + 1}
            yield _atom(node, f"{keyword}/{at}", schema)

    return ways


def _additional_items(node: Node) -> Iterator[Nodes]:
    inside = node.child("additionalItems")
    items = node.schema.get("items")
    if not isinstance(items, list | tuple) or inside.schema is True or inside.schema == {}:
        return
    if inside.schema is not False:
        raise UnsupportedSchema("not", node.pointer, "'additionalItems' cannot be negated")
    yield _atom(node, "additionalItems", {"type": "array", "minItems": len(items) + 1})


def _contains(node: Node) -> Iterator[Nodes]:
    if "minContains" in node.schema or "maxContains" in node.schema:
        raise UnsupportedSchema("not", node.pointer, "'minContains' cannot be negated")
    none = {"type": "array", "items": opposite(node.child("contains"))}
    yield _atom(node, "contains", none)


def _all_of(node: Node) -> Iterator[Nodes]:
    for part in node.members("allOf"):
        yield (opposite(part),)


def _any_of(node: Node) -> Iterator[Nodes]:
    yield tuple(map(opposite, node.members("anyOf")))


def _one_of(node: Node) -> Iterator[Nodes]:
    branches = node.members("oneOf")
    yield tuple(map(opposite, branches))
    yield from combinations(branches, 2)


def _not(node: Node) -> Iterator[Nodes]:
    yield (node.child("not"),)


def _if(node: Node) -> Iterator[Nodes]:
    if "then" in node.schema:
        yield node.child("if"), opposite(node.child("then"))
    if "else" in node.schema:
        yield opposite(node.child("if")), opposite(node.child("else"))


def _dependent(keyword: str) -> Callable[[Node], Iterator[Nodes]]:
    def ways(node: Node) -> Iterator[Nodes]:
        for name, needed in node.schema[keyword].items():
            has = Node(f"{node.pointer}!{keyword}/{name}", {"type": "object", "required": [name]})
            if isinstance(needed, list | tuple):
                for other in needed:
                    lacks = {"type": "object", "required": [name], "properties": {other: False}}
                    yield _atom(node, f"{keyword}/{name}/{other}", lacks)
            else:
                yield has, opposite(node.child(keyword, name))

    return ways


_WAYS: Mapping[str, Callable[[Node], Iterator[Nodes]]] = {
    "type": _type,
    "enum": lambda node: _values(node, "enum"),
    "const": lambda node: _values(node, "const"),
    "minLength": _below("minLength", "maxLength", "string"),
    "maxLength": _above("maxLength", "minLength", "string"),
    "pattern": _pattern,
    "format": _format,
    "minimum": _minimum,
    "maximum": _maximum,
    "exclusiveMinimum": _beyond("exclusiveMinimum", "maximum"),
    "exclusiveMaximum": _beyond("exclusiveMaximum", "minimum"),
    "multipleOf": _multiple,
    "minProperties": _below("minProperties", "maxProperties", "object"),
    "maxProperties": _above("maxProperties", "minProperties", "object"),
    "required": _required,
    "properties": _properties,
    "additionalProperties": _additional,
    "patternProperties": _patterns,
    "propertyNames": _names,
    "minItems": _below("minItems", "maxItems", "array"),
    "maxItems": _above("maxItems", "minItems", "array"),
    "items": _places("items"),
    "prefixItems": _places("prefixItems"),
    "additionalItems": _additional_items,
    "contains": _contains,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
    "dependencies": _dependent("dependencies"),
    "dependentRequired": _dependent("dependentRequired"),
    "dependentSchemas": _dependent("dependentSchemas"),
    "$ref": lambda node: iter(()),
}
