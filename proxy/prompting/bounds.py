"""Limits on what a chat template may do: checks that raise SecurityError and spend a budget of
steps.

A check comes before the operation if the size of the result can be predicted. An operation that at
most adds up values already checked is checked afterwards.
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
"""Loop iterations, calls and filters in one rendering; far more than a long history needs."""
FEW_STEPS = 50_000
"""The steps for a conversation of a few words; messages and tools add to them."""
MAX_SIZE = 16_000_000
"""Maximum characters of the output and of any string, and items of any list, that a template
builds."""
MAX_RANGE = 100_000
"""Largest number allowed for a ``range``, a padding width or an indent."""

LARGE = 65_536
COLLECTIONS: frozenset[object] = frozenset({str, Markup, list, tuple, dict, range})
_PLAIN: frozenset[object] = frozenset({str, Markup, int, float, bool, type(None)})
_NOTHING: dict[str, str] = {}
_VIEWS = (type(_NOTHING.keys()), type(_NOTHING.values()), type(_NOTHING.items()))
_HOLDING = (list, tuple, set, frozenset, *_VIEWS)
_WIDE = re.compile(r"\d{6,}")


class Budget:
    """Steps left for one rendering, or for some."""

    __slots__ = ("_lists", "_values", "left")

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = steps
        self._values: Any = None
        self._lists: frozenset[int] | None = None

    def protect(self, values: Any) -> None:
        """From now on, the template must not change lists in these values."""
        self._values = values
        self._lists = None

    def protects(self, changed: list[Any]) -> bool:
        """Whether this list is part of the values, rather than the template's own."""
        if self._lists is None:
            self._lists = _lists_in(self._values)
        return id(changed) in self._lists


def _lists_in(value: Any) -> frozenset[int]:
    """The ids of all lists within a value."""
    ids: set[int] = set()
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict | MappingProxyType):
            stack.extend(item.values())
        elif isinstance(item, list | tuple) and id(item) not in ids:
            ids.add(id(item))
            stack.extend(item)
    return frozenset(ids)


BUDGET: contextvars.ContextVar[Budget] = contextvars.ContextVar("template_budget")


def spend(steps: int) -> None:
    """Takes steps off the budget of the current rendering; raises SecurityError if it is
    exceeded."""
    budget = BUDGET.get(None)
    if budget is not None:
        budget.left -= steps
        if budget.left < 0:
            raise SecurityError("the template does too much work")


@pass_context
def charged(_: Context, value: Any, weight: int) -> Any:
    """Returns `value` and spends `weight` steps for the code beside it."""
    spend(weight)
    return value


def counted(values: Any, weight: int) -> Any:
    """The values of a ``for`` loop; each iteration spends `weight` steps."""
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
    """One side of a comparison: spends by its size, and rejects values that are too large.

    Comparing two values that each hold the same value twice, thirty levels deep, takes hours."""
    kind = value.__class__
    if kind is str or kind is Markup:
        if len(value) > 1024:
            spend(len(value) >> 10)
    elif kind not in _PLAIN:
        weighed(value)
    return value


def sized(value: Any) -> Any:
    """Spends by the length of the value; rejects lengths beyond MAX_SIZE."""
    if value.__class__ in COLLECTIONS:
        fits(len(value))
        spend(cost(value))
    return value


def fits(size: int) -> None:
    """Rejects a size beyond MAX_SIZE."""
    if size > MAX_SIZE:
        raise SecurityError("the template builds too large a value")


@pass_context
def grown(_: Context, value: Any, additions: int) -> Any:
    """A sum: each addition spends by the sum's length. Rejects lengths beyond MAX_SIZE."""
    # pass_context tells Jinja that this is no constant; otherwise it would walk a long sum once for
    # each of its terms to find out.
    if value.__class__ in COLLECTIONS and len(value) > LARGE:
        fits(len(value))
        spend(additions * (len(value) // LARGE + cost(value)))
    return value


def cost(collection: Any) -> int:
    """The steps that one pass over a string or collection costs."""
    return int(len(collection) >> (8 if isinstance(collection, str) else 4))


def weighed(value: Any) -> Any:
    """Rejects a nested value whose text would be too large, before the text is built.

    A list may contain the same long string a thousand times, or itself twice, sixty levels deep."""
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


def modest(args: Iterable[Any]) -> None:
    """Rejects numbers beyond MAX_RANGE."""
    # A huge width, indent or count makes a filter or str method allocate gigabytes; no real
    # template needs one.
    for arg in args:
        if isinstance(arg, int) and not -MAX_RANGE <= arg <= MAX_RANGE:
            raise SecurityError("the template uses too large a number")


def modest_format(template: Any) -> None:
    """Rejects format strings with a width that would allocate gigabytes."""
    if isinstance(template, str) and ("*" in template or _WIDE.search(template)):
        raise SecurityError("the template uses too large a format width")


def grow(method: str, text: Any, *args: Any) -> None:
    """Rejects a str method call whose result would be too large, before it is built."""
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


def bounded_range(*args: int) -> range:
    """``range`` for templates, limited to MAX_RANGE numbers."""
    numbers = range(*args)
    if len(numbers) > MAX_RANGE:
        raise SecurityError("the template uses too long a range")
    return numbers
