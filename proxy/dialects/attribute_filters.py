"""Filters of a search in OpenAI's vector stores: comparisons of attributes, joined by and/or.

Read once into plain values, and asked of each file's attributes. A file without the attribute is
not equal to anything, and neither more nor less. The source is OpenAI's API reference. Pure.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from ..core.invalid import Invalid
from .fields import entry, items, text

Attributes = Mapping[str, str | float | bool]
Filter = Callable[[Attributes], bool]

DEEPEST = 8
MOST = 64  # comparisons joined by one and/or
_ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def parse(value: Any, at: str = "filters", depth: int = 1) -> Filter | None:
    """None where nothing is filtered. Raises Invalid naming the place."""
    if value is None:
        return None
    if depth > DEEPEST:
        raise Invalid(at, "is nested too deeply")
    body = entry(value, at)
    kind = text(body, "type", at=f"{at}.")
    if kind in ("and", "or"):
        parts = items(body, "filters", at=f"{at}.")
        if not 0 < len(parts) <= MOST:
            raise Invalid(f"{at}.filters", f"must hold 1 to {MOST} filters")
        found = []
        for i, part in enumerate(parts):
            one = parse(part, f"{at}.filters[{i}]", depth + 1)
            if one is None:
                raise Invalid(f"{at}.filters[{i}]", "must be an object")
            found.append(one)
        join = all if kind == "and" else any
        return lambda attributes: join(one(attributes) for one in found)
    return _comparison(kind, text(body, "key", at=f"{at}."), body.get("value"), at)


def _comparison(kind: str, key: str, value: Any, at: str) -> Filter:
    if not key:
        raise Invalid(f"{at}.key", "is missing")
    if kind in ("in", "nin"):
        if not isinstance(value, list) or not all(_plain(one) for one in value):
            raise Invalid(f"{at}.value", "must be a list of strings, numbers or booleans")
        wanted, among = list(value), kind == "in"
        return lambda has: any(_same(has.get(key), one) for one in wanted) is among
    if not _plain(value):
        raise Invalid(f"{at}.value", "must be a string, a number or a boolean")
    if kind in ("eq", "ne"):
        equal = kind == "eq"
        return lambda has: _same(has.get(key), value) is equal
    if kind not in _ORDERED:
        raise Invalid(f"{at}.type", "must be one of eq, ne, gt, gte, lt, lte, in, nin, and, or")
    compare = _ORDERED[kind]

    def ordered(has: Attributes) -> bool:
        mine = has.get(key)
        return mine is not None and _kind(mine) is _kind(value) and compare(mine, value)

    return ordered


def _plain(value: Any) -> bool:
    return type(value) in (str, int, float, bool)


def _kind(value: Any) -> type:
    """1 and 1.0 are of a kind, 1 and true are not."""
    return float if type(value) is int else type(value)


def _same(mine: Any, value: Any) -> bool:
    return _kind(mine) is _kind(value) and bool(mine == value)
