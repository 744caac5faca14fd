"""A JSON schema document: nodes, references and errors.

A value must satisfy a set of schemas at once: the schema itself, what it refers to, the members of
its allOf, and one branch of each anyOf and oneOf. `Document.expand` turns a set of nodes into
alternative sets in which only each node's own plain keywords remain to be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from .effort import spend

MAX_DEPTH = 48
"""Maximum nesting of schemas, references included: the compiler recurses, and models go no
deeper."""

MAX_ALTERNATIVES = 500
"""Maximum alternatives of one value: the product of the branches of its anyOf and oneOf."""


MAX_TOGETHER = 200
"""Maximum schemas that one value must satisfy at once."""

MAX_BRANCHES = 20_000
"""Maximum branches tried for one value, including contradictory ones."""


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


@dataclass(frozen=True)
class Node:
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
        return Node(pointer, schema)

    def members(self, keyword: str) -> list[Node]:
        """The schemas in the list at `keyword`. Raises SchemaError if it is not a non-empty
        list."""
        schemas = self.schema[keyword]
        if not isinstance(schemas, list | tuple) or not schemas:
            self.fail(f"{keyword!r} must be a list of schemas")
        return [self.child(keyword, at) for at in range(len(schemas))]

    def named(self, keyword: str) -> dict[str, Node]:
        """The schemas by name at `keyword`, in order."""
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

# A node still to be read, and the pointers of the nodes that led to it.
_Pending = tuple[Node, frozenset[str]]


class Document:
    """One schema document. `name` precedes its pointers if several documents are combined."""

    def __init__(self, schema: Any, name: str = "") -> None:
        self.root = Node(name, schema)
        self._branches = 0

    def resolve(self, node: Node) -> Node:
        """The node that the `$ref` of `node` refers to. References must stay inside the
        document."""
        ref = node.schema["$ref"]
        if not isinstance(ref, str):
            node.fail("'$ref' must be a string")
        if ref != "#" and not ref.startswith("#/"):
            raise UnsupportedSchema("$ref", node.pointer, "it points outside the document")
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
        """Follows references while a node consists only of one; returns any other node
        unchanged."""
        seen = {node.pointer}
        while isinstance(node.schema, Mapping) and node.schema.keys() == {"$ref"}:
            node = self.resolve(node)
            if node.pointer in seen:
                node.fail("it refers to itself endlessly")
            seen.add(node.pointer)
        return node

    def expand(self, nodes: Nodes) -> list[Nodes]:
        """All ways to satisfy the nodes together, each as nodes whose plain keywords remain to be
        read.

        The branches of a oneOf are treated like those of an anyOf; the compiler checks that they
        exclude each other."""
        found: list[Nodes] = []
        self._branches = 0
        for way in self._ways([(node, frozenset()) for node in nodes], ()):
            spend(1 + len(found) + len(way))
            if way not in found:
                found.append(way)
            if len(found) > MAX_ALTERNATIVES:
                raise UnsupportedSchema(
                    "anyOf", nodes[0].pointer, f"more than {MAX_ALTERNATIVES} alternatives"
                )
        return found

    def _ways(self, pending: list[_Pending], plain: Nodes) -> Iterator[Nodes]:
        while pending:
            (node, ancestors), *pending = pending
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
            plain = (*plain, node)
            self._branches += 1
            if len(plain) > MAX_TOGETHER or self._branches > MAX_BRANCHES:
                raise UnsupportedSchema(
                    "allOf", node.pointer, "too many schemas apply to one value"
                )
            inside = ancestors | {node.pointer}
            more: list[Node] = []
            if "$ref" in node.schema:
                more.append(self.resolve(node))
            if "allOf" in node.schema:
                more += node.members("allOf")
            if node.schema.get("nullable") is True and None in node.schema.get("enum", (None,)):
                # OpenAPI 3.0: this schema or null. All other schemas must allow null too.
                null = Node(f"{node.pointer}/nullable", {"type": "null"})
                yield from self._ways(pending, (*plain[:-1], null))
            choices = [node.members(word) for word in ("anyOf", "oneOf") if word in node.schema]
            spend(len(more))
            pending = [*((found, inside) for found in more), *pending]
            if choices:
                first, *others = choices
                for branch in first:
                    if not others:
                        yield from self._ways([(branch, inside), *pending], plain)
                    for other in others[0] if others else ():
                        both = [(branch, inside), (other, inside)]
                        yield from self._ways([*both, *pending], plain)
                return
        yield plain
