"""All ways to satisfy schemas that hold together.

A value must satisfy a set of schemas at once: the schema itself, what it refers to, the members of
its allOf, and one branch of each choice. `Expander.ways` turns a set of nodes into alternative sets
in which only each node's own plain keywords remain to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from .document import MAX_DEPTH, Document, Gaps, Node, Nodes, UnsupportedSchema
from .json_types import ALL_TYPES, types_named
from .negation import Atom, failures, opposite
from .work_budget import spend

MAX_ALTERNATIVES = 500  # alternatives of one value: the product of its choices
MAX_TOGETHER = 200  # schemas that one value must satisfy at once
MAX_BRANCHES = 20_000  # branches tried for one value, including contradictory ones

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
