"""A JSON schema document: nodes, references and errors.

References stay inside the document: JSON pointers, `$anchor`, or an `id` that is only a fragment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NoReturn

from msgspec import Struct

from .work_budget import spend

# Nesting of schemas, references included: the compiler recurses, and models go no deeper.
MAX_DEPTH = 48
# Beyond this depth equal parts of a schema are not found: that search recurses as well.
MAX_SHARED_DEPTH = 2 * MAX_DEPTH

ANNOTATIONS = frozenset(
    "title description default examples example $comment deprecated readOnly writeOnly".split()
)
"""Keywords that never decide whether a value is valid."""

_NAMED = frozenset(
    "properties patternProperties $defs definitions dependentSchemas dependencies".split()
)


class SchemaError(ValueError):
    """The schema is invalid, or no value satisfies it. `pointer` is the JSON pointer (RFC 6901)."""

    def __init__(self, pointer: str, what: str) -> None:
        super().__init__(f"invalid schema at {pointer or 'its root'}: {what}")
        self.pointer = pointer
        self.what = what


class UnsupportedSchema(ValueError):
    """The schema is valid, but its `keyword` cannot be expressed as a grammar."""

    def __init__(self, keyword: str, pointer: str, why: str = "") -> None:
        where = f"{pointer}/{keyword}"
        super().__init__(f"{keyword!r} at {where} is not supported{': ' if why else ''}{why}")
        self.keyword = keyword
        self.pointer = pointer
        self.why = why


class Node(Struct, frozen=True):
    """A schema and its location. Nodes are equal if their locations are."""

    pointer: str
    schema: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.pointer == other.pointer

    def __hash__(self) -> int:
        return hash(self.pointer)

    def fail(self, what: str) -> NoReturn:
        raise SchemaError(self.pointer, what)

    def child(self, *steps: str | int) -> Node:
        """The schema inside this one, by keyword and name or position."""
        schema = self.schema
        pointer = self.pointer
        for step in steps:
            schema = schema[step]
            pointer += "/" + str(step).replace("~", "~0").replace("/", "~1")
            if isinstance(schema, Node):  # in a schema of our own making
                pointer, schema = schema.pointer, schema.schema
        return Node(pointer, schema)

    def members(self, keyword: str) -> list[Node]:
        """The schemas in the list at `keyword`. Raises SchemaError if it is not a non-empty
        list."""
        schemas = self.schema[keyword]
        if not isinstance(schemas, list | tuple) or not schemas:
            self.fail(f"{keyword!r} must be a list of schemas")
        return [self.child(keyword, at) for at in range(len(schemas))]

    def named(self, keyword: str) -> dict[str, Node]:
        schemas = self.schema.get(keyword, {})
        if not isinstance(schemas, Mapping) or not all(isinstance(name, str) for name in schemas):
            self.fail(f"{keyword!r} must be an object of schemas")
        return {name: self.child(keyword, name) for name in schemas}

    def count(self, keyword: str) -> int | None:
        """The non-negative integer at `keyword`; None if absent."""
        count = self.schema.get(keyword)
        if isinstance(count, float) and count.is_integer():
            count = int(count)
        if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
            return count
        if keyword in self.schema:
            self.fail(f"{keyword!r} must be an integer of at least 0")
        return None


Nodes = tuple[Node, ...]


class Shapes:
    """Numbers for the schemas of a document: equal ones share a number, wherever they stand and
    however they are annotated. Large documents repeat themselves: two of three schemas equal an
    earlier one. The order of keywords and members counts, since members are generated in it."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self.anything = self._number((Mapping,))  # the shape of `{}`
        # By identity, which a schema keeps as long as it is held here.
        self._known: dict[int, tuple[Mapping[str, Any], int]] = {}

    def of(self, schema: Any, depth: int = 0) -> int:
        if isinstance(schema, Node):  # in a schema of our own making
            schema = schema.schema
        if depth > MAX_SHARED_DEPTH:
            return self._number(object())
        if isinstance(schema, list | tuple):
            return self._number((list, *(self.of(part, depth + 1) for part in schema)))
        if not isinstance(schema, Mapping):
            return self._of_data(schema, depth)
        entry = self._known.get(id(schema))
        if entry is None:
            entry = self._known[id(schema)] = schema, self._of_keywords(schema, depth + 1)
        return entry[1]

    def _of_keywords(self, schema: Mapping[str, Any], depth: int) -> int:
        spend(1 + len(schema))
        parts: list[object] = [Mapping]
        for word, value in schema.items():
            if word in _NAMED and isinstance(value, Mapping):
                parts += [word, *((name, self.of(part, depth)) for name, part in value.items())]
            elif word not in ANNOTATIONS:
                of = self._of_data if word in ("enum", "const") else self.of
                parts += [word, of(value, depth)]
        return self._number(tuple(parts))

    def _of_data(self, value: Any, depth: int) -> int:
        spend(1)
        content: object = type(value), value
        if depth > MAX_SHARED_DEPTH:
            content = object()
        elif isinstance(value, Mapping):
            parts = ((name, self._of_data(part, depth + 1)) for name, part in value.items())
            content = (dict, *parts)
        elif isinstance(value, list | tuple):
            content = (tuple, *(self._of_data(part, depth + 1) for part in value))
        try:
            return self._number(content)
        except TypeError:  # no JSON value; it is refused where it is read
            return self._number(object())

    def _number(self, content: object) -> int:
        return self._numbers.setdefault(content, len(self._numbers))


class Document:
    """One schema document. `name` precedes its pointers if several documents are combined."""

    def __init__(self, schema: Any, name: str = "") -> None:
        self.root = Node(name, schema)
        self.shapes = Shapes()

    @cached_property
    def objects(self) -> int:
        """The number of schemas with properties; at most a few too many."""
        count, todo = 0, [self.root.schema]
        for part in todo:
            if isinstance(part, Mapping):
                count += "properties" in part
                todo += part.values()
            elif isinstance(part, list):
                todo += part
        spend(len(todo) >> 2)
        return count

    @cached_property
    def anchors(self) -> dict[str, Node]:
        """The places that have names, by the fragments that name them."""
        anchors: dict[str, Node] = {}
        todo = [self.root]
        while todo:
            node = todo.pop()
            spend(2)
            schema = node.schema
            if isinstance(schema, list):
                todo += [node.child(at) for at in range(len(schema))]
            elif isinstance(schema, Mapping):
                todo += [node.child(key) for key in schema if key not in ("enum", "const")]
                if isinstance(schema.get("$anchor"), str):
                    anchors["#" + schema["$anchor"]] = node
                for word in ("$id", "id"):
                    if isinstance(schema.get(word), str) and schema[word].startswith("#"):
                        anchors[schema[word]] = node
        return anchors

    def resolve(self, node: Node) -> Node:
        """The node that the `$ref` of `node` refers to. References must stay inside the
        document."""
        ref = node.schema["$ref"]
        if not isinstance(ref, str):
            node.fail("'$ref' must be a string")
        root = self.root.schema
        own = root.get("$id", root.get("id")) if isinstance(root, Mapping) else None
        if ref in ("", own):
            return self.root
        if ref != "#" and not ref.startswith("#/"):
            if ref not in self.anchors:
                raise UnsupportedSchema("$ref", node.pointer, "it points outside the document")
            return self.anchors[ref]
        target = self.root
        spend(len(ref) >> 4)
        for part in ref.split("/")[1:]:
            spend(3)
            step = re.sub("%([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), part)
            step = step.replace("~1", "/").replace("~0", "~")
            inside = target.schema
            if isinstance(inside, list) and step.isdigit() and int(step) < len(inside):
                target = target.child(int(step))
            elif isinstance(inside, Mapping) and step in inside:
                target = target.child(step)
            else:
                node.fail(f"'$ref' {ref!r} cannot be resolved")
        return target

    def settled(self, node: Node) -> Node:
        """Follows references while a node consists only of one, annotations aside; returns any
        other node unchanged."""
        seen = {node.pointer}
        while isinstance(node.schema, Mapping) and "$ref" in node.schema:
            if node.schema.keys() - ANNOTATIONS != {"$ref"}:
                break
            node = self.resolve(node)
            if node.pointer in seen:
                node.fail("it refers to itself endlessly")
            seen.add(node.pointer)
        return node


class Gaps:
    """Collects the keywords that a grammar cannot express. If `strict`, the first is an error."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.keywords: tuple[str, ...] = ()

    def report(self, keyword: str, node: Node, why: str = "") -> None:
        """Raises UnsupportedSchema if `strict`."""
        if self.strict:
            raise UnsupportedSchema(keyword, node.pointer, why)
        if keyword not in self.keywords:
            self.keywords += (keyword,)
