"""Bounds on what a chat template may do: checks that raise SecurityError, charged to a budget.

Every check comes before the thing it forbids where the size of a result can be told beforehand;
an operation that at most adds up what passed a check already is checked afterwards.
"""

from __future__ import annotations

import contextvars
import re
from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import Any

from jinja2 import pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.utils import Namespace
from markupsafe import Markup

MAX_STEPS = 1_000_000
"""Loop turns, calls and filters of one rendering; far more than a long history needs."""
FEW_STEPS = 50_000
"""Of these for a conversation of a few words; messages and tools add to them."""
MAX_SIZE = 16_000_000
"""Characters of the output and of any string, items of any list, that a template may build."""
MAX_RANGE = 100_000
"""Largest number a ``range``, a padding width or an indent may be asked for."""

LARGE = 65_536
COLLECTIONS: frozenset[object] = frozenset({str, Markup, list, tuple, dict, range})
_PLAIN: frozenset[object] = frozenset({str, Markup, int, float, bool, type(None)})
_NOTHING: dict[str, str] = {}
_VIEWS = (type(_NOTHING.keys()), type(_NOTHING.values()), type(_NOTHING.items()))
_HOLDING = (list, tuple, set, frozenset, *_VIEWS)
_WIDE = re.compile(r"\d{6,}")


class Budget:
    """Steps left for one rendering."""

    __slots__ = ("left",)

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = steps


BUDGET: contextvars.ContextVar[Budget] = contextvars.ContextVar("template_budget")


def spend(steps: int) -> None:
    """Take steps off the budget of the rendering that is under way; raises SecurityError when none
    are left."""
    budget = BUDGET.get(None)
    if budget is not None:
        budget.left -= steps
        if budget.left < 0:
            raise SecurityError("the template does too much work")


@pass_context
def charged(_: Context, value: Any, weight: int) -> Any:
    """The value; the steps of what stands beside it are spent."""
    spend(weight)
    return value


def counted(values: Any, weight: int) -> Any:
    """What a ``for`` goes through, each turn charged by the `weight` of what it does."""
    if values.__class__ in COLLECTIONS:
        # At once, and the thing itself: loop.length stays cheap. A break is charged too much.
        spend(weight * len(values))
        return values
    return _counting(values, weight)


def _counting(values: Iterable[Any], weight: int) -> Iterator[Any]:
    for value in values:
        spend(weight)
        yield value


def compared(value: Any) -> Any:
    """One side of a comparison, charged by what may be looked at; refused where it is too large.

    Two things that hold the same thing twice, thirty levels deep, take hours to compare."""
    kind = value.__class__
    if kind is str or kind is Markup:
        if len(value) > 1024:
            spend(len(value) >> 10)
    elif kind not in _PLAIN:
        weighed(value)
    return value


def sized(value: Any) -> Any:
    """The value, charged by its length; refused beyond MAX_SIZE."""
    if value.__class__ in COLLECTIONS:
        _fits(len(value))
        spend(cost(value))
    return value


def _fits(size: int) -> None:
    if size > MAX_SIZE:
        raise SecurityError("the template builds too large a value")


@pass_context
def grown(_: Context, value: Any, additions: int) -> Any:
    """A sum, each of its additions charged by its length; refused beyond MAX_SIZE."""
    # Of what takes the context Jinja knows at once that it is no constant; else it would go through
    # a long sum for each of its terms to find that out.
    if value.__class__ in COLLECTIONS and len(value) > LARGE:
        _fits(len(value))
        spend(additions * (len(value) // LARGE + cost(value)))
    return value


def cost(collection: Any) -> int:
    """Steps that going through a text or a collection once is worth."""
    return int(len(collection) >> (8 if isinstance(collection, str) else 4))


def weighed(value: Any) -> Any:
    """Refuse a nested value whose text would be too large, before the text is made.

    A list may hold the same long text a thousand times, or itself twice sixty levels deep.
    """
    if value.__class__ in _PLAIN:
        return value
    weight = items = 0
    stack = [value]
    while stack:
        item = stack.pop()
        weight += 16
        items += 1
        if not items & 1023:
            spend(512)  # now: the budget may end before the thing does
        if isinstance(item, str):
            weight += len(item)
        elif isinstance(item, dict | MappingProxyType):
            stack.extend(item)
            stack.extend(item.values())
        elif isinstance(item, _HOLDING):
            stack.extend(item)
        elif isinstance(item, Namespace):
            stack.append(item._Namespace__attrs)  # its text is theirs
        _fits(weight)
    spend((weight >> 8) + ((items & 1023) >> 1))
    return value


def modest(args: Iterable[Any]) -> None:
    """Refuse numbers beyond MAX_RANGE."""
    # A width, indent or count far beyond any text is how a filter or str method is made to
    # allocate gigabytes; no template has a use for one.
    for arg in args:
        if isinstance(arg, int) and not -MAX_RANGE <= arg <= MAX_RANGE:
            raise SecurityError("the template asks for too large a number")


def modest_format(template: Any) -> None:
    """Refuse a format string with a width that makes gigabytes."""
    if isinstance(template, str) and ("*" in template or _WIDE.search(template)):
        raise SecurityError("the template formats with too large a width")


def grow(method: str, text: Any, *args: Any) -> None:
    """Refuse a str method whose arguments make its result too large, before it is built."""
    size = 0
    if method == "replace" and len(args) >= 2:
        old, new = args[:2]
        if isinstance(text, str) and isinstance(old, str) and isinstance(new, str):
            size = text.count(old) * len(new)
    elif method == "join" and args and args[0].__class__ in COLLECTIONS:
        size = len(text) * len(args[0]) if isinstance(text, str) else 0
    elif method == "expandtabs":
        size = text.count("\t") * (args[0] if args and isinstance(args[0], int) else 8)
    _fits(size)


def bounded_range(*args: int) -> range:
    """``range`` as templates have it, no longer than MAX_RANGE."""
    numbers = range(*args)
    if len(numbers) > MAX_RANGE:
        raise SecurityError("the template asks for too long a range")
    return numbers
