"""A JSON schema document: its nodes, its references, and what is wrong with them.

Strategy: a value must satisfy a set of schemas at once: the schema itself, what it refers to, the
members of its allOf, one branch of each anyOf and oneOf. `Document.expand` turns a set of nodes
into the alternatives of such sets, in which only each node's own plain keywords are left to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from .effort import spend

MAX_DEPTH = 48
"""Schemas inside schemas, references followed: the compiler recurses, and no model fills more."""

MAX_ALTERNATIVES = 500
"""Of one value, the branches of all its anyOf and oneOf multiplied."""


MAX_TOGETHER = 200
"""Schemas that one value must satisfy at once."""

MAX_BRANCHES = 20_000
"""Branches looked at for one value, those that come to nothing too."""


class SchemaError(ValueError):
    """The schema is no valid schema, or nothing can satisfy it. `pointer` says where (RFC 6901)."""

    def __init__(self, pointer: str, what: str) -> None:
        super().__init__(f"invalid schema at {pointer or 'its root'}: {what}")
        self.pointer = pointer
        self.what = what


class UnsupportedSchema(ValueError):
    """A valid schema that no grammar of ours expresses; `keyword` is what it fails on."""

    def __init__(self, keyword: str, pointer: str, why: str = "") -> None:
        where = f"{pointer}/{keyword}"
        super().__init__(f"{keyword!r} at {where} is not supported{': ' if why else ''}{why}")
        self.keyword = keyword
        self.pointer = pointer
        self.why = why


@dataclass(frozen=True)
class Node:
    """A schema and where it stands; equal when they stand at the same place."""

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
        found = self.schema
        pointer = self.pointer
        for step in steps:
            found = found[step]
            pointer += "/" + str(step).replace("~", "~0").replace("/", "~1")
        return Node(pointer, found)

    def members(self, keyword: str) -> list[Node]:
        """The schemas in the list that `keyword` holds; SchemaError when it is no list of some."""
        found = self.schema[keyword]
        if not isinstance(found, list | tuple) or not found:
            self.fail(f"{keyword!r} must be a list of schemas")
        return [self.child(keyword, at) for at in range(len(found))]

    def named(self, keyword: str) -> dict[str, Node]:
        """The schemas by name that `keyword` holds, in order."""
        found = self.schema.get(keyword, {})
        if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
            self.fail(f"{keyword!r} must be an object of schemas")
        return {name: self.child(keyword, name) for name in found}

    def count(self, keyword: str) -> int | None:
        """The number, at least 0, that `keyword` holds; None when it is absent."""
        found = self.schema.get(keyword)
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
            return found
        if keyword in self.schema:
            self.fail(f"{keyword!r} must be an integer of at least 0")
        return None


Nodes = tuple[Node, ...]


@dataclass(frozen=True)
class _Pending:
    """A node still to be read, and the places it was come to from."""

    node: Node
    ancestors: frozenset[str]


class Document:
    """One schema document. `name` goes before its pointers when several are used together."""

    def __init__(self, schema: Any, name: str = "") -> None:
        self.root = Node(name, schema)
        self._branches = 0

    def resolve(self, node: Node) -> Node:
        """The node that the `$ref` of `node` means. References stay inside the document."""
        ref = node.schema["$ref"]
        if not isinstance(ref, str):
            node.fail("'$ref' must be a string")
        if ref != "#" and not ref.startswith("#/"):
            raise UnsupportedSchema("$ref", node.pointer, "it leaves the document")
        found = self.root
        spend(len(ref) >> 4)
        for part in ref.split("/")[1:]:
            spend(3)
            step = re.sub("%([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), part)
            step = step.replace("~1", "/").replace("~0", "~")
            inside = found.schema
            if isinstance(inside, list) and step.isdigit() and int(step) < len(inside):
                found = found.child(int(step))
            elif isinstance(inside, Mapping) and step in inside:
                found = found.child(step)
            else:
                node.fail(f"'$ref' {ref!r} leads nowhere")
        return found

    def settled(self, node: Node) -> Node:
        """What a node that is nothing but a reference refers to; any other node is itself."""
        seen = {node.pointer}
        while isinstance(node.schema, Mapping) and node.schema.keys() == {"$ref"}:
            node = self.resolve(node)
            if node.pointer in seen:
                node.fail("it refers to itself without end")
            seen.add(node.pointer)
        return node

    def expand(self, nodes: Nodes) -> list[Nodes]:
        """All ways to satisfy the nodes together, each as nodes to be read for plain keywords.

        The branches of a oneOf are ways like those of an anyOf; that they exclude each other is
        checked where they are made into a grammar.
        """
        found: list[Nodes] = []
        self._branches = 0
        for way in self._ways([_Pending(node, frozenset()) for node in nodes], ()):
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
            one, *pending = pending
            node = one.node
            if node.pointer in one.ancestors:
                node.fail("it refers to itself without end")
            if len(one.ancestors) > MAX_DEPTH:
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
                raise UnsupportedSchema("allOf", node.pointer, "too many schemas for one value")
            inside = one.ancestors | {node.pointer}
            more: list[Node] = []
            if "$ref" in node.schema:
                more.append(self.resolve(node))
            if "allOf" in node.schema:
                more += node.members("allOf")
            if node.schema.get("nullable") is True and None in node.schema.get("enum", (None,)):
                # OpenAPI 3.0: this schema or null. Whatever else is asked for must allow it too.
                null = Node(f"{node.pointer}/nullable", {"type": "null"})
                yield from self._ways(pending, (*plain[:-1], null))
            choices = [node.members(word) for word in ("anyOf", "oneOf") if word in node.schema]
            spend(len(more))
            pending = [*(_Pending(found, inside) for found in more), *pending]
            if choices:
                first, *others = choices
                for branch in first:
                    if not others:
                        yield from self._ways([_Pending(branch, inside), *pending], plain)
                    for other in others[0] if others else ():
                        both = [_Pending(branch, inside), _Pending(other, inside)]
                        yield from self._ways([*both, *pending], plain)
                return
        yield plain
