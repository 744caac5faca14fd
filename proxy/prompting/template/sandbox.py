"""The Jinja environment for chat templates, with bounded work.

A chat template is untrusted code: the author of a model file writes it. Jinja's sandbox blocks
access to Python, but not endless loops or excessive memory. So every loop iteration, call, filter
and binary operation spends from a budget; iterations and macros spend by their amount of code.
Operations that build large values from small ones and comparisons are limited by size.

The sandbox has no hooks for loops and ``~``: these are rewritten in the syntax tree, and so are
sums, of which prompts consist. The budget is
a context variable, because Jinja passes no state of ours to filters and operators.
"""

from __future__ import annotations

import codecs
import functools
import json
from collections.abc import Callable, Generator
from typing import Any, cast

from jinja2 import ChainableUndefined, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from . import TemplateRefusal, bounds

# Jinja's lexer decodes strings with it. The first use of a codec imports it, and threads that wait
# for each other's import under gevent, where import locks are gevent's, never wake up.
codecs.lookup("unicode-escape")


class _Nothing(ChainableUndefined):
    """An undefined value. As in llama-server, a sum with a text is that text."""

    __slots__ = ()

    def __add__(self, other: Any) -> Any:
        return other if isinstance(other, str) else super().__add__(other)

    def __radd__(self, other: Any) -> Any:
        return other if isinstance(other, str) else super().__radd__(other)


_DICT_NAMES = frozenset(dir(dict))
_AT_ONCE = frozenset({"length", "count", "first", "last", "default", "d", "attr", "items"})
_ITEM_BY_ITEM = frozenset(
    "batch dictsort groupby list map max min reject rejectattr reverse select selectattr slice "
    "sort sum unique".split()
)
"""These filters do not convert their collection to text."""
_COMPARING = frozenset("dictsort groupby max min sort unique".split())
_COMPARISONS = frozenset(
    "== != < <= > >= eq equalto ne lt lessthan le gt greaterthan ge in".split()
)
"""Tests (``x is eq y``, also as an argument of ``select``) that compare values."""
_CHANGING = frozenset({"append", "extend", "insert", "pop"})  # lists of the template's own
_LOOKING = frozenset({"changed", "count", "index"})  # methods that compare values
# Nodes of a template's syntax tree; real ones have 4 000 at most. Python compiles the code in one
# call, which blocks everything else.
MAX_NODES = 10_000
_WIDENING = frozenset({"batch", "center", "indent", "slice", "tojson", "truncate", "wordwrap"})
_CALL = 8  # steps: a macro costs about ten times as much as a loop iteration


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON, as in Hugging Face's templates; Jinja's own filter escapes for HTML."""
    if isinstance(value, Generator):  # of a filter like map
        value = bounds.weighed(list(bounds.counted(value, 1)))
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _pyliteral(value: Any) -> str:
    """A JSON value as Python source, for families that write tool calls in Python (ChatGLM3)."""
    if not isinstance(value, str | int | float | bool | list | dict | None):
        raise TypeError("pyliteral accepts plain JSON values only")
    return repr(value)


def _format(template: str, *args: Any, **kwargs: Any) -> str:
    bounds.modest_format(template)
    return str(template) % (kwargs or args)


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a filter: spends by its input and output and rejects excessive arguments."""
    # Jinja passes the context or environment, if requested, before the filtered value.
    skip = 1 if getattr(function, "jinja_pass_arg", None) is not None else 0

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        value = args[skip] if len(args) > skip else None
        bounds.spend(1)
        if name not in _AT_ONCE:
            if value.__class__ in bounds.COLLECTIONS:
                bounds.spend(bounds.cost(value))
                if name in _COMPARING:
                    bounds.weighed(value)
            if name not in _ITEM_BY_ITEM:
                bounds.weighed(value)
        if len(args) > skip + 1 or kwargs:
            for each in (*args[skip + 1 :], *kwargs.values()):
                bounds.weighed(each)
            if name in _WIDENING:
                bounds.modest((*args[skip + 1 :], *kwargs.values()))
            elif name == "replace":
                bounds.grow(name, value, *args[skip + 1 :], *kwargs.values())
            elif name == "join":
                separator, *_ = (*args[skip + 1 :], *kwargs.values())
                bounds.grow(name, separator, value)
        return bounds.sized(function(*args, **kwargs))

    return guarded


def _comparing(test: Callable[..., Any]) -> Callable[..., Any]:

    @functools.wraps(test)
    def guarded(*args: Any) -> Any:
        for arg in args:
            bounds.compared(arg)
        return test(*args)

    return guarded


class _Generation(Extension):
    """``{% generation %}…{% endgeneration %}`` marks text for training."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own way to declare them

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Hugging Face's rendering environment for chat templates, with bounded work."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            cache_size=0,
            finalize=bounds.written,
            undefined=_Nothing,
        )
        self.filters["tojson"] = _tojson
        self.filters["pyliteral"] = _pyliteral
        self.filters["format"] = _format
        self.filters["safe"] = lambda value: value  # a sum with Jinja's safe text is escaped
        for name, function in list(self.filters.items()):
            self.filters[name] = _guarded(name, function)
        for name in _COMPARISONS:
            self.tests[name] = _comparing(cast(Callable[..., Any], self.tests[name]))
        self.filters |= bounds.FILTERS
        self.globals["raise_exception"] = _raise_exception
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        if sum(1 for _ in tree.find_all(nodes.Node)) > MAX_NODES:
            raise SecurityError(f"the template has more than {MAX_NODES} parts")
        bounded: nodes.Template = bounds.Bounding().visit(tree)
        return bounded

    def getattr(self, obj: Any, attribute: str) -> Any:
        # Without the sandbox's dozen checks for the types that templates access all the time.
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

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        # The messages and tools belong to the request, and may be rendered again.
        if obj.__class__ is list and attr in _CHANGING:
            budget = bounds.BUDGET.get(None)
            return budget is not None and not budget.protects(obj)
        return super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        # Not one that can be asked further.
        message = f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe."
        return Undefined(message, name=attribute, obj=obj, exc=SecurityError)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if argument.__class__ is tuple:
            bounds.weighed(argument)  # it is hashed
        elif obj.__class__ is dict:
            try:
                return obj[argument]
            except KeyError:
                if argument not in _DICT_NAMES:
                    return self.undefined(obj=obj, name=argument)
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for value, factor in ((left, right), (right, left)):
                if isinstance(value, str | list | tuple) and isinstance(factor, int):
                    bounds.fits(len(value) * factor)
                elif isinstance(value, int) and value.bit_length() > 1024:
                    raise SecurityError("the template uses too large a number")
            return left * right
        if operator == "**":
            is_large = isinstance(left, int) and left.bit_length() > 64
            if is_large or not (isinstance(right, int | float) and abs(right) <= 64):
                raise SecurityError("the template uses too large a number")
            return left**right
        bounds.modest_format(left)
        return left % bounds.weighed(right)

    def call(
        self,
        __context: Context,  # the sandbox's signature
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        bounds.spend(_CALL)
        # The sandbox wraps str.format; all other methods arrive unwrapped.
        method = getattr(__obj, "__wrapped__", __obj)
        bound = getattr(method, "__self__", None)
        if isinstance(bound, str):
            bounds.spend(len(bound) >> 8)
            bounds.modest(args)
            for arg in (*args, *kwargs.values()):
                bounds.weighed(arg)
            if method.__name__ in ("format", "format_map"):
                bounds.modest_format(bound)
                bounds.modest(kwargs.values())
            else:
                bounds.grow(method.__name__, bound, *args)
        elif bound is not None and getattr(method, "__name__", "") in _LOOKING:
            for each in (bound, *args):
                bounds.weighed(each)
        elif args and (isinstance(bound, dict) or isinstance(__obj, type)):
            bounds.weighed(args[0])  # it or its items are hashed
        return bounds.sized(super().call(__context, __obj, *args, **kwargs))


def _raise_exception(message: object = "") -> None:
    raise TemplateRefusal(str(bounds.weighed(message)))
