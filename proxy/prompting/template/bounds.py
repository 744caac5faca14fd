"""Limits on what a chat template may do: checks that raise SecurityError and spend a budget of
steps. They come before the operation, unless it at most adds up values already checked.
"""

from __future__ import annotations

import contextvars
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from types import MappingProxyType
from typing import Any, cast

from jinja2 import nodes, pass_context, sandbox
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer
from markupsafe import Markup
from msgspec import Struct

MAX_STEPS = 1_000_000  # loop iterations, calls and filters in one rendering
FEW_STEPS = 50_000  # of a conversation of a few words; messages and tools add to them
MAX_SIZE = 16_000_000  # characters of the output and of any string, and items of any list
MAX_RANGE = sandbox.MAX_RANGE  # numbers of a ``range``, a padding width or an indent

LARGE = 65_536
COLLECTIONS: frozenset[object] = frozenset({str, Markup, list, tuple, dict, range})
_PLAIN: frozenset[object] = frozenset({str, Markup, int, float, bool, type(None)})
_NOTHING: dict[str, str] = {}
_VIEWS = (type(_NOTHING.keys()), type(_NOTHING.values()), type(_NOTHING.items()))
_HOLDING = (list, tuple, set, frozenset, *_VIEWS)
_WIDE = re.compile(r"\d{6,}")


class Budget(Struct, eq=False):
    """Steps left for one rendering, or for some, of these `values`, whose lists a template must not
    change. A `reserve` counts more steps for them, which most renderings never need."""

    left: int = MAX_STEPS
    reserve: Callable[[Any], int] | None = None
    values: Any = None
    _walked: Any = None
    _lists: Set[int] = frozenset()

    def protects(self, changed: list[Any]) -> bool:
        """Whether this list is part of the values, rather than the template's own."""
        if self._walked is not self.values:
            self._walked, lists = self.values, set[int]()
            stack = [self.values]
            while stack:
                item = stack.pop()
                if isinstance(item, dict | MappingProxyType):
                    stack.extend(item.values())
                elif isinstance(item, list | tuple) and id(item) not in lists:
                    lists.add(id(item))
                    stack.extend(item)
            self._lists = lists
        return id(changed) in self._lists


BUDGET: contextvars.ContextVar[Budget] = contextvars.ContextVar("template_budget")


def spend(steps: int) -> None:
    budget = BUDGET.get(None)
    if budget is not None:
        budget.left -= steps
        if budget.left < 0:
            reserve, budget.reserve = budget.reserve, None
            budget.left += 0 if reserve is None else reserve(budget.values)
            if budget.left < 0:
                raise SecurityError("the template does too much work")


@pass_context
def charged(_: Context, value: Any, weight: int) -> Any:
    """`value`; spends for the code beside it."""
    spend(weight)
    return value


def counted(values: Any, weight: int) -> Any:
    if values.__class__ in COLLECTIONS:
        # Spent in advance, so that loop.length stays cheap; a loop with a break pays too much.
        spend(weight * len(values))
        return values
    return _counting(values, weight)


def _counting(values: Iterable[Any], weight: int) -> Iterator[Any]:
    for value in values:
        spend(weight)
        yield value


def compared(value: Any) -> Any:
    """One side of a comparison: spends by its size, and rejects values that are too large. To
    compare values that hold the same value twice, thirty levels deep, takes hours."""
    kind = value.__class__
    if kind is str or kind is Markup:
        if len(value) > 1024:
            spend(len(value) >> 10)
    elif kind not in _PLAIN:
        weighed(value)
    return value


def sized(value: Any) -> Any:
    """Spends by the length of the value."""
    if value.__class__ in COLLECTIONS:
        fits(len(value))
        spend(cost(value))
    return value


def fits(size: int) -> None:
    if size > MAX_SIZE:
        raise SecurityError("the template builds too large a value")


def added(*parts: Any) -> Any:
    """A sum, which spends by its length."""
    size = 0
    for part in parts:  # three times as fast as sum(map(len, parts))
        if part.__class__ is not str:
            break
        size += len(part)
    else:
        if size <= LARGE:
            return "".join(parts)
    total, *others = parts
    for part in others:
        total = total + part
        if total.__class__ in COLLECTIONS and len(total) > LARGE:
            fits(len(total))
            spend(len(total) // LARGE + cost(total))
    return total


def cost(collection: Any) -> int:
    """The steps that one pass over a string or collection costs."""
    return int(len(collection) >> (8 if isinstance(collection, str) else 4))


def weighed(value: Any) -> Any:
    """Rejects a nested value whose text would be too large, before the text is built: a list may
    hold the same value twice, sixty levels deep."""
    if value.__class__ in _PLAIN:
        return value
    weight = items = 0
    stack = [value]
    while stack:
        item = stack.pop()
        weight += 16
        items += 1
        if not items & 1023:
            spend(512)  # now: the budget may run out before the value ends
        if isinstance(item, str):
            weight += len(item)
        elif isinstance(item, dict | MappingProxyType):
            stack.extend(item)
            stack.extend(item.values())
        elif isinstance(item, _HOLDING):
            stack.extend(item)
        elif isinstance(item, Namespace):
            stack.append(item._Namespace__attrs)  # its text consists of theirs
        fits(weight)
    spend((weight >> 8) + ((items & 1023) >> 1))
    return value


def written(value: Any) -> Any:
    """A value as it is written: none is nothing, as in llama-server."""
    return value if value.__class__ is str else "" if value is None else weighed(value)


# Of the nodes that `Bounding` puts into a template.
FILTERS: Mapping[str, Callable[..., Any]] = {
    f"{function.__name__} by the sandbox": function
    for function in (added, charged, compared, counted, sized, weighed, written)
}


def modest(args: Iterable[Any]) -> None:
    """Rejects a width, indent or count that makes a filter or method allocate gigabytes."""
    if any(isinstance(arg, int) and abs(arg) > MAX_RANGE for arg in args):
        raise SecurityError("the template uses too large a number")


def modest_format(template: Any) -> None:
    """Rejects format strings with a width that would allocate gigabytes."""
    if isinstance(template, str) and ("*" in template or _WIDE.search(template)):
        raise SecurityError("the template uses too large a format width")


def grow(method: str, text: Any, *args: Any) -> None:
    """Rejects a call of a text's method whose result would be too large."""
    size = 0
    if method == "replace" and len(args) >= 2:
        old, new = args[:2]
        if isinstance(text, str) and isinstance(old, str) and isinstance(new, str):
            size = text.count(old) * len(new)
    elif method == "join" and args and args[0].__class__ in COLLECTIONS:
        size = len(text) * len(args[0]) if isinstance(text, str) else 0
    elif method == "expandtabs":
        size = text.count("\t") * (args[0] if args and isinstance(args[0], int) else 8)
    fits(size)


# Rewrites the syntax tree of a template, so that its loops, slices and comparisons spend: the
# sandbox has no hooks for these.

_CHAIN = 8  # values
_NODES = 32  # of the syntax tree, that cost one step


class Bounding(NodeTransformer):
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
        """A comparison with a constant takes no longer than the constant is, but what something is
        looked up in may be long."""
        self.generic_visit(node)
        alone = sum(not _is_small(side) for side in (node.expr, *(o.expr for o in node.ops))) < 2
        if not (alone or _is_small(node.expr)):
            node.expr = _filtered(node.expr, "compared by the sandbox")
        for operand in node.ops:
            if not (_is_small(operand.expr) or (alone and operand.op not in ("in", "notin"))):
                operand.expr = _filtered(operand.expr, "compared by the sandbox")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        slices = isinstance(node.arg, nodes.Slice)
        return _filtered(node, "sized by the sandbox") if slices else node

    def visit_Add(self, node: nodes.Add) -> nodes.Node:
        """A chain of sums becomes one call; of few values, since all are in memory together."""
        self.generic_visit(node)
        left, name = node.left, "added by the sandbox"
        chains = isinstance(left, nodes.Filter) and left.name == name and len(left.args) < _CHAIN
        total = cast(nodes.Filter, left) if chains else _filtered(left, name)
        total.args.append(node.right)
        return total

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        for pair in node.items:
            if not isinstance(pair.key, nodes.Const):
                pair.key = _filtered(pair.key, "weighed by the sandbox")  # it is hashed
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            part
            if isinstance(part, nodes.Const) and part.value is not None
            else _filtered(part, "written by the sandbox")
            for part in node.nodes
        ]
        return _filtered(node, "sized by the sandbox")


def _weight(node: nodes.Node) -> int:
    return 1 + sum(1 for _ in node.find_all(nodes.Node)) // _NODES


def _charge(node: nodes.Node, weight: int) -> nodes.ExprStmt:
    nothing = nodes.Const(None, lineno=node.lineno)
    return nodes.ExprStmt(_filtered(nothing, "charged by the sandbox", weight), lineno=node.lineno)


def _is_small(node: nodes.Node) -> bool:
    """Whether it is a constant, a number or a boolean."""
    if isinstance(node, nodes.Filter):
        return node.name in ("length", "count")
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(isinstance(item, nodes.Const) for item in node.items)
    return isinstance(node, (nodes.Compare, nodes.Test, nodes.Not, nodes.Const))


def _filtered(node: nodes.Node, name: str, *args: int) -> nodes.Filter:
    constants: list[nodes.Expr] = [nodes.Const(arg, lineno=node.lineno) for arg in args]
    return nodes.Filter(cast(nodes.Expr, node), name, constants, [], None, None, lineno=node.lineno)
