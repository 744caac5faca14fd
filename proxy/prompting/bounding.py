"""Rewrites the syntax tree of a template, so that its loops, sums, slices and comparisons spend.

The sandbox has no hooks for these. The filters that do it belong to the environment of `sandbox`.
"""

from __future__ import annotations

from typing import TypeGuard, cast

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

_NODES = 32
"""Nodes of the syntax tree that cost one step."""


class Bounding(NodeTransformer):
    """Wraps the iterable of every ``for`` in a counter, every ``~``, sum and slice in a size check,
    and every compared value in a check of its size."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        weight = _weight(node)
        self.generic_visit(node)
        if node.recursive:
            # loop(...) calls start further levels, so iterations are counted inside the body.
            node.body.insert(0, _charge(node, weight))
            weight = 1
        node.iter = _filtered(node.iter, "counted by the sandbox", weight)
        return node

    def visit_Macro(self, node: nodes.Macro | nodes.CallBlock | nodes.Block) -> nodes.Node:
        weight = _weight(node)
        self.generic_visit(node)
        node.body.insert(0, _charge(node, weight))
        return node

    visit_CallBlock = visit_Block = visit_Macro

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """A comparison with a constant of the template takes no longer than the constant is."""
        self.generic_visit(node)
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        looked_at = [False] * len(sides)
        for at, operand in enumerate(node.ops):
            left, right = sides[at], sides[at + 1]
            if operand.op in ("in", "notin"):
                if not _is_constant(right):
                    looked_at[at + 1] = True
                    looked_at[at] = looked_at[at] or not _is_constant(left)
            elif not (_is_small(left) or _is_small(right)):
                looked_at[at] = looked_at[at + 1] = True
        sides = [
            _filtered(side, "compared in the sandbox") if looked else side
            for side, looked in zip(sides, looked_at, strict=True)
        ]
        node.expr = sides[0]
        for operand, side in zip(node.ops, sides[1:], strict=True):
            operand.expr = side
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        slices = isinstance(node.arg, nodes.Slice)
        return _filtered(node, "sized by the sandbox") if slices else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        for pair in node.items:
            if not isinstance(pair.key, nodes.Const):
                pair.key = _filtered(pair.key, "weighed by the sandbox")  # it is hashed
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            part if _is_text(part) else _filtered(part, "written by the sandbox")
            for part in node.nodes
        ]
        return _filtered(node, "sized by the sandbox")

    def visit_Add(self, node: nodes.Add) -> nodes.Expr:
        """Checks a whole sum from the left: at most two values are added before their sum is
        checked. Constant texts in between are no longer than the template."""
        terms = _terms(node)
        if len(terms) == 2 and any(map(_is_number, terms)):
            self.generic_visit(node)
            return node  # the result can only be a number
        total: nodes.Expr = self.visit(terms[0])
        values, additions = int(not isinstance(terms[0], nodes.Const)), 0
        for term in terms[1:]:
            if not isinstance(term, nodes.Const):
                if values == 2:
                    total = _filtered(total, "grown by the sandbox", additions)
                    values, additions = 1, 0
                values += 1
            total = nodes.Add(total, self.visit(term), lineno=node.lineno)
            additions += 1
        return _filtered(total, "grown by the sandbox", additions)


def _weight(node: nodes.Node) -> int:
    """The steps for one pass over the body; loops inside are counted on their own."""
    return 1 + sum(1 for _ in node.find_all(nodes.Node)) // _NODES


def _charge(node: nodes.Node, weight: int) -> nodes.ExprStmt:
    nothing = nodes.Const(None, lineno=node.lineno)
    return nodes.ExprStmt(_filtered(nothing, "charged by the sandbox", weight), lineno=node.lineno)


def _is_constant(node: nodes.Node) -> bool:
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(isinstance(item, nodes.Const) for item in node.items)
    return isinstance(node, nodes.Const)


def _is_small(node: nodes.Node) -> bool:
    """A constant or an expression that is always a number or a boolean: cheap to compare with."""
    if isinstance(node, nodes.Filter):
        return node.name in ("length", "count")
    truth = (nodes.Compare, nodes.Test, nodes.Not)
    return isinstance(node, truth) or _is_constant(node)


def _terms(sum: nodes.Add) -> list[nodes.Expr]:
    """The terms of a sum in order, with adjacent constant texts joined."""
    terms: list[nodes.Expr] = []
    left: nodes.Expr = sum
    while isinstance(left, nodes.Add):
        terms.append(left.right)
        left = left.left
    terms.append(left)
    joined: list[nodes.Expr] = []
    for term in reversed(terms):
        before = joined[-1] if joined else None
        if _is_text(term) and _is_text(before):
            joined[-1] = nodes.Const(before.value + term.value, lineno=term.lineno)
        else:
            joined.append(term)
    return joined


def _is_text(node: nodes.Node | None) -> TypeGuard[nodes.Const]:
    return isinstance(node, nodes.Const) and isinstance(node.value, str)


def _is_number(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, int | float)


def _filtered(node: nodes.Node, name: str, *args: int) -> nodes.Filter:
    constants: list[nodes.Expr] = [nodes.Const(arg, lineno=node.lineno) for arg in args]
    return nodes.Filter(cast(nodes.Expr, node), name, constants, [], None, None, lineno=node.lineno)
