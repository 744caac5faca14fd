"""The Jinja environment that chat templates are rendered in, with bounded work.

A chat template is code from a stranger: the author of a model file writes it and a backend hands
it over in ``/props``. Jinja's own sandbox keeps it away from Python; it does not keep it from
working for ever or filling the memory. So every loop turn, call, filter and binary operation is
charged to a budget, and operations that build something large out of something small (``*``,
``**``, ``+``, ``~``, ``%``, padding, formatting) are refused beyond a size.

Strategy: loops and ``~`` cannot be intercepted by the sandbox's hooks, so they are rewritten in
the syntax tree before compiling, and so is ``+``, which every prompt is made of: a hook at each
would cost more than all the adding. All else goes through the hooks that the sandbox has. The
budget lives in a context variable, because Jinja hands no state of ours to a filter or an operator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeGuard, cast

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from . import filters
from .bounds import (
    COLLECTIONS,
    MAX_SIZE,
    bounded_range,
    cost,
    counted,
    grow,
    grown,
    modest,
    modest_format,
    sized,
    spend,
    weighed,
)

_DICT_NAMES = frozenset(dir(dict))
_AT_ONCE = frozenset({"length", "count", "first", "last", "default", "d", "attr", "items"})
_ITEM_BY_ITEM = frozenset(
    "batch dictsort groupby list map max min reject rejectattr reverse select selectattr slice "
    "sort sum unique".split()
)
"""Filters that make no text of the collection they are given."""
_WIDENING = frozenset({"batch", "center", "indent", "slice", "tojson", "truncate", "wordwrap"})
_CALL = 8
"""A call's price in steps: a macro costs some ten times what a turn of a loop does."""


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter: charge it by what it is given and makes, refuse immodest arguments."""
    # The value that is filtered comes after what Jinja passes by itself (context, environment).
    skip = 1 if getattr(function, "jinja_pass_arg", None) is not None else 0

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        value = args[skip] if len(args) > skip else None
        spend(1)
        if name not in _AT_ONCE:
            if value.__class__ in COLLECTIONS:
                spend(cost(value))
            if name not in _ITEM_BY_ITEM:
                for each in (*args[skip:], *kwargs.values()):
                    weighed(each)
        if len(args) > skip + 1 or kwargs:
            if name in _WIDENING:
                modest((*args[skip + 1 :], *kwargs.values()))
            elif name in ("replace", "join"):
                grow(name, *_as_method(name, value, *args[skip + 1 :], *kwargs.values()))
        return sized(function(*args, **kwargs))

    return guarded


def _as_method(name: str, value: Any, *args: Any) -> tuple[Any, ...]:
    return (args[0], value) if name == "join" else (value, *args)


class _Generation(Extension):
    """``{% generation %}…{% endgeneration %}`` marks text for training: here only its body."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own way to declare them

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Bounding(NodeTransformer):
    """Put a counter around what every ``for`` iterates, a size check around every ``~`` and every
    sum."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        # A recursive loop gets its further levels from loop(...) calls, which are counted as calls.
        node.iter = _filtered(node.iter, "counted by the sandbox")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            part if isinstance(part, nodes.Const) else _filtered(part, "weighed by the sandbox")
            for part in node.nodes
        ]
        return _filtered(node, "sized by the sandbox")

    def visit_Add(self, node: nodes.Add) -> nodes.Expr:
        """Of a whole sum, from its left: no more than two values come together before a look at
        what they make. Between them stand the template's own texts, no longer than the template."""
        terms = _terms(node)
        if len(terms) == 2 and any(map(_is_number, terms)):
            self.generic_visit(node)
            return node  # nothing but a number can come of it
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


def _terms(sum: nodes.Add) -> list[nodes.Expr]:
    """What is added up, in order; constant texts that stand side by side as one."""
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
    told: list[nodes.Expr] = [nodes.Const(arg, lineno=node.lineno) for arg in args]
    return nodes.Filter(cast(nodes.Expr, node), name, told, [], None, None, lineno=node.lineno)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Hugging Face's rendering environment for chat templates, bounded."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            cache_size=0,
            finalize=weighed,
        )
        self.filters["tojson"] = filters.tojson
        self.filters["pyliteral"] = filters.pyliteral
        self.filters["format"] = filters.format
        for name, function in list(self.filters.items()):
            self.filters[name] = _guarded(name, function)
        self.filters["counted by the sandbox"] = counted
        self.filters["grown by the sandbox"] = grown
        self.filters["sized by the sandbox"] = sized
        self.filters["weighed by the sandbox"] = weighed
        self.globals["range"] = bounded_range
        self.globals["raise_exception"] = _raise_exception
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Bounding().visit(super()._parse(source, name, filename))
        return tree

    def getattr(self, obj: Any, attribute: str) -> Any:
        # What the sandbox would find out by a dozen tests is known of the three kinds of object
        # that templates look into all the time.
        kind = obj.__class__
        if kind is dict:
            if attribute not in _DICT_NAMES:
                try:
                    return obj[attribute]
                except KeyError:
                    return self.undefined(obj=obj, name=attribute)
        elif (kind is Namespace or kind is LoopContext) and attribute[:1] != "_":
            try:
                return getattr(obj, attribute)
            except AttributeError:
                return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if obj.__class__ is dict and argument not in _DICT_NAMES:
            try:
                return obj[argument]
            except KeyError:
                return self.undefined(obj=obj, name=argument)
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(other, int):
                    if len(one) * other > MAX_SIZE:
                        raise SecurityError("the template builds too large a value")
                elif isinstance(one, int) and one.bit_length() > 1024:
                    raise SecurityError("the template asks for too large a number")
            return left * right
        if operator == "**":
            if not (isinstance(right, int | float) and abs(right) <= 64):
                raise SecurityError("the template asks for too large a number")
            if isinstance(left, int) and left.bit_length() > 64:
                raise SecurityError("the template asks for too large a number")
            return left**right
        modest_format(left)
        return left % weighed(right)

    def call(
        self,
        __context: Context,  # the sandbox's own signature
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        spend(_CALL)
        # str.format comes wrapped by the sandbox, all other methods as they are.
        method = getattr(__obj, "__wrapped__", __obj)
        bound = getattr(method, "__self__", None)
        if isinstance(bound, str):
            spend(len(bound) >> 8)
            modest(args)
            for arg in (*args, *kwargs.values()):
                weighed(arg)
            if method.__name__ in ("format", "format_map"):
                modest_format(bound)
                modest(kwargs.values())
            else:
                grow(method.__name__, bound, *args)
        return sized(super().call(__context, __obj, *args, **kwargs))


class Refusal(Exception):
    """What ``raise_exception`` raises: the template refuses these messages."""


def _raise_exception(message: object = "") -> None:
    raise Refusal(str(weighed(message)))
