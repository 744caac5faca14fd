"""All ways to satisfy schemas that hold together.

A value must satisfy a set of schemas at once: the schema itself, what it refers to, the members of
its allOf, and one branch of each choice. `Expander.ways` turns a set of nodes into alternative sets
in which only each node's own plain keywords remain to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from itertools import combinations
from typing import Any, NoReturn

from .document import MAX_DEPTH, Document, Gaps, Node, Nodes, UnsupportedSchema
from .json_types import ALL_TYPES, PATTERNS, as_schema, types_named
from .work_budget import spend

MAX_ALTERNATIVES = 500  # alternatives of one value: the product of its choices
MAX_TOGETHER = 200  # schemas that one value must satisfy at once
MAX_BRANCHES = 20_000  # branches tried for one value, including contradictory ones


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


# Whether two branches of a node may both match a value of these kinds.
Overlaps = Callable[[Node, Node, Node, frozenset[str]], bool]
# Alternatives still to be chosen from, and the pointers of the nodes that led to them.
_Pending = tuple[list[Nodes], frozenset[str]]


class Expander:
    """Expands the choices of one document. With `overlaps` None it expands more than is allowed:
    the branches of a oneOf are those of an anyOf."""

    def __init__(self, document: Document, gaps: Gaps, overlaps: Overlaps | None) -> None:
        self.document = document
        self.gaps = gaps
        self.overlaps = overlaps
        self._branches = 0

    def ways(self, nodes: Nodes) -> list[Nodes]:
        """All ways to satisfy the nodes together. Raises UnsupportedSchema, SchemaError."""
        alternatives: list[Nodes] = []
        self._branches = 0
        begin: list[_Pending] = [([(node,)], frozenset()) for node in nodes]
        for way in self._ways(begin, (), ALL_TYPES):
            spend(1 + len(alternatives) + len(way))
            if way not in alternatives:
                alternatives.append(way)
            if len(alternatives) > MAX_ALTERNATIVES:
                raise UnsupportedSchema(
                    "anyOf", nodes[0].pointer, f"more than {MAX_ALTERNATIVES} alternatives"
                )
        return alternatives

    def _ways(
        self, pending: list[_Pending], plain: Nodes, kinds: frozenset[str]
    ) -> Iterator[Nodes]:
        while pending:
            (choice, ancestors), *pending = pending
            if len(choice) != 1 or len(choice[0]) != 1:
                for nodes in choice:
                    each: list[_Pending] = [([(node,)], ancestors) for node in nodes]
                    yield from self._ways([*each, *pending], plain, kinds)
                return
            node = choice[0][0]
            if node.pointer in ancestors:
                node.fail("it refers to itself endlessly")
            if len(ancestors) > MAX_DEPTH:
                node.fail(f"references and alternatives nested deeper than {MAX_DEPTH}")
            if node.schema is True or node in plain:
                continue
            if node.schema is False:
                return
            if not isinstance(node.schema, Mapping):
                node.fail("a schema must be an object, true or false")
            spend(6 + len(pending) + (len(plain) >> 2))
            self._branches += 1
            if len(plain) > MAX_TOGETHER or self._branches > MAX_BRANCHES:
                raise UnsupportedSchema(
                    "allOf", node.pointer, "too many schemas apply to one value"
                )
            before = plain, kinds
            plain = (*plain, node)
            # A wrong type is found where it is read.
            kinds &= types_named(node.schema.get("type")) or ALL_TYPES
            kinds &= node.schema.get(Atom.KINDS, ALL_TYPES)
            inside = ancestors | {node.pointer}
            if node.schema.get("nullable") is True and None in node.schema.get("enum", (None,)):
                # OpenAPI 3.0: this schema or null. All other schemas must allow null too.
                null = Node(f"{node.pointer}/nullable", {"type": "null"})
                yield from self._ways([([(null,)], ancestors), *pending], *before)
            if not kinds:
                return
            more = [(choice, inside) for choice in self._choices(node, kinds)]
            spend(len(more))
            pending = [*more, *pending]
        yield plain

    def _choices(self, node: Node, kinds: frozenset[str]) -> Iterator[list[Nodes]]:
        schema = node.schema
        if "$ref" in schema:
            yield [(self.document.resolve(node),)]
        if "allOf" in schema:
            for part in node.members("allOf"):
                yield [(part,)]
        if "anyOf" in schema:
            yield [(branch,) for branch in node.members("anyOf")]
        if "oneOf" in schema:
            yield self._one_of(node, kinds)
        for keyword, choices in _CHOICES.items():
            if keyword in schema:
                try:
                    alternatives = list(choices(self, node, keyword))
                except UnsupportedSchema as error:
                    self.gaps.report(keyword, node, error.why)
                else:
                    yield from alternatives

    def _one_of(self, node: Node, kinds: frozenset[str]) -> list[Nodes]:
        """Each branch, without the others that it may overlap with."""
        branches = node.members("oneOf")
        alone: list[list[Node]] = [[branch] for branch in branches]
        if self.overlaps is None:
            return [tuple(nodes) for nodes in alone]
        for at, branch in enumerate(branches):
            for other in range(at):
                spend(2)
                if self.overlaps(branch, branches[other], node, kinds):
                    alone[at].append(opposite(branches[other]))
                    alone[other].append(opposite(branch))
        return [tuple(nodes) for nodes in alone]

    def _not(self, node: Node, keyword: str) -> Iterator[list[Nodes]]:
        inside = self.document.settled(node.child("not"))
        alternatives = failures(inside)
        if isinstance(inside.schema, Mapping) and "$ref" in inside.schema:
            alternatives.append((opposite(self.document.resolve(inside)),))
        yield alternatives

    def _if(self, node: Node, keyword: str) -> Iterator[list[Nodes]]:
        words = [word for word in ("then", "else") if word in node.schema]
        if words:
            condition = node.child("if")
            then = [node.child("then")] if "then" in words else []
            otherwise = [node.child("else")] if "else" in words else []
            yield [(condition, *then), (opposite(condition), *otherwise)]

    def _dependent(self, node: Node, keyword: str) -> Iterator[list[Nodes]]:
        if not isinstance(node.schema[keyword], Mapping):
            node.fail(f"{keyword!r} must be an object")
        for name, needed in node.schema[keyword].items():
            at = f"{node.pointer}!{keyword}/{name}"
            lacks = Node(f"{at}/lacks", {"properties": {name: False}})
            if isinstance(needed, str):  # draft 3
                needed = [needed]
            if isinstance(needed, list | tuple):
                yield [(lacks,), (Node(f"{at}/has", {"required": [name, *needed]}),)]
            else:
                has = Node(f"{at}/has", {"required": [name]})
                yield [(lacks,), (has, node.child(keyword, name))]


def without_choices(node: Node) -> Node:
    """A node of a way without what is expanded in that way, and without listed values."""
    keywords = {word: value for word, value in node.schema.items() if word not in _EXPANDED}
    return Node(f"{node.pointer}!", keywords)


_CHOICES: Mapping[str, Callable[[Expander, Node, str], Iterator[list[Nodes]]]] = {
    "not": Expander._not,
    "if": Expander._if,
    "dependencies": Expander._dependent,
    "dependentRequired": Expander._dependent,
    "dependentSchemas": Expander._dependent,
}
_EXPANDED = {*_CHOICES, *"then else $ref allOf anyOf oneOf nullable enum const".split()}


# Turns `not` into schemas without it.
#
# A value fails a schema if it fails one of its keywords, and failing a keyword is again a schema:
# not `minimum: 3` is a number below 3. So a negation moves inwards until it disappears or meets an
# atom that an automaton can complement. Keywords that have no such form are refused by name.


def failures(node: Node) -> list[Nodes]:
    """The ways to fail a schema, each as schemas that hold together; references are not followed.
    Raises UnsupportedSchema."""
    if isinstance(node.schema, bool):
        return [] if node.schema else [()]
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
        return (Node(f"{node.pointer}!{keyword}{step}", {"type": kind, **rest}),)

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
