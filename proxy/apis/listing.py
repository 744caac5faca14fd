"""Cursor pagination of OpenAI's lists: `limit`, `order`, `after` and `before`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from ..errors import InvalidParameter
from .fields import decimal

T = TypeVar("T")


class Page(Struct, frozen=True):
    """The requested page; `after` and `before` are ids of items."""

    limit: int
    ascending: bool = False
    after: str = ""
    before: str = ""


def parse(query: Mapping[str, str], most: int = 100, default: int = 20) -> Page:
    """Parses the query string. Raises InvalidParameter."""
    limit = decimal(query.get("limit") or str(default), 1, most)
    if limit is None:
        raise InvalidParameter("limit", f"must be from 1 to {most}")
    order = query.get("order") or "desc"
    if order not in ("asc", "desc"):
        raise InvalidParameter("order", "must be asc or desc")
    return Page(limit, order == "asc", query.get("after") or "", query.get("before") or "")


def reply(
    page: Page, entries: Sequence[T], key: Callable[[T], str], shape: Callable[[T], dict[str, Any]]
) -> dict[str, Any]:
    """The list object. `entries` are all entries, oldest first; `key` returns an entry's id. Raises
    InvalidParameter if a cursor is not the id of an entry."""
    items = list(entries) if page.ascending else list(reversed(entries))
    ids = [key(item) for item in items]
    start, end = 0, len(items)
    for name, cursor in (("after", page.after), ("before", page.before)):
        if cursor and cursor not in ids:
            raise InvalidParameter(name, "is not one of the items")
    if page.after:
        start = ids.index(page.after) + 1
    if page.before:
        end = ids.index(page.before)
        start = max(start, end - page.limit)  # the page that ends before the cursor
    part = items[start:end][: page.limit]
    more = start > 0 if page.before and not page.after else start + len(part) < len(items)
    return {
        "object": "list",
        "data": [shape(item) for item in part],
        "first_id": key(part[0]) if part else None,
        "last_id": key(part[-1]) if part else None,
        "has_more": more,
    }
