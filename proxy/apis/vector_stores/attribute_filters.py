"""Attribute filters of vector store searches: comparisons, joined by `and` and `or`.

A file without the attribute equals nothing, and is neither greater nor less. The format is defined
in OpenAI's API reference. Pure.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import InvalidParameter
from ..fields import entry, items, text

Attributes = Mapping[str, str | float | bool]
Filter = Callable[[Attributes], bool]

DEEPEST = 8
MOST = 64  # comparisons in one and/or
_ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def parse(value: Any, at: str = "filters", depth: int = 1) -> Filter | None:
    """Parses a filter; None if `value` is null. Raises InvalidParameter with the path of the bad
    part."""
    if value is None:
        return None
    if depth > DEEPEST:
        raise InvalidParameter(at, "is nested too deeply")
    body = entry(value, at)
    kind = text(body, "type", at=f"{at}.")
    if kind in ("and", "or"):
        parts = items(body, "filters", at=f"{at}.")
        if not 0 < len(parts) <= MOST:
            raise InvalidParameter(f"{at}.filters", f"must contain 1 to {MOST} filters")
        filters = []
        for i, part in enumerate(parts):
            parsed = parse(part, f"{at}.filters[{i}]", depth + 1)
            if parsed is None:
                raise InvalidParameter(f"{at}.filters[{i}]", "must be an object")
            filters.append(parsed)
        join = all if kind == "and" else any
        return lambda attributes: join(matches(attributes) for matches in filters)
    return _comparison(kind, text(body, "key", at=f"{at}."), body.get("value"), at)


def _comparison(kind: str, key: str, value: Any, at: str) -> Filter:
    if not key:
        raise InvalidParameter(f"{at}.key", "is missing")
    if kind in ("in", "nin"):
        if not isinstance(value, list) or not all(_plain(one) for one in value):
            raise InvalidParameter(f"{at}.value", "must be a list of strings, numbers or booleans")
        wanted, among = list(value), kind == "in"
        return lambda has: any(_same(has.get(key), one) for one in wanted) is among
    if not _plain(value):
        raise InvalidParameter(f"{at}.value", "must be a string, a number or a boolean")
    if kind in ("eq", "ne"):
        equal = kind == "eq"
        return lambda has: _same(has.get(key), value) is equal
    if kind not in _ORDERED:
        raise InvalidParameter(
            f"{at}.type", "must be one of eq, ne, gt, gte, lt, lte, in, nin, and, or"
        )
    compare = _ORDERED[kind]

    def ordered(has: Attributes) -> bool:
        actual = has.get(key)
        return actual is not None and _kind(actual) is _kind(value) and compare(actual, value)

    return ordered


def _plain(value: Any) -> bool:
    return type(value) in (str, int, float, bool)


def _kind(value: Any) -> type:
    """The type to compare by: 1 and 1.0 have the same type, 1 and true do not."""
    return float if type(value) is int else type(value)


def _same(actual: Any, value: Any) -> bool:
    return _kind(actual) is _kind(value) and bool(actual == value)
