"""OpenAI's lists with cursors: `limit`, `order`, `after` and `before`, the ids of items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from ..core.invalid import Invalid

T = TypeVar("T")


class Page(Struct, frozen=True):
    """What part of a list is asked for."""

    limit: int
    ascending: bool = False
    after: str = ""
    before: str = ""


def parse(query: Mapping[str, str], most: int = 100, default: int = 20) -> Page:
    """Of the query string. Raises Invalid."""
    limit = query.get("limit") or str(default)
    if not limit.isascii() or not limit.isdigit() or not 0 < int(limit[:9]) <= most:
        raise Invalid("limit", f"must be from 1 to {most}")
    order = query.get("order") or "desc"
    if order not in ("asc", "desc"):
        raise Invalid("order", "must be asc or desc")
    return Page(int(limit), order == "asc", query.get("after") or "", query.get("before") or "")


def reply(
    page: Page, found: Sequence[T], key: Callable[[T], str], shape: Callable[[T], dict[str, Any]]
) -> dict[str, Any]:
    """The list object. `found` is all there is, oldest first; `key` an item's id. Raises Invalid
    for a cursor that is none of the items."""
    items = list(found) if page.ascending else list(reversed(found))
    ids = [key(one) for one in items]
    start, end = 0, len(items)
    for name, cursor in (("after", page.after), ("before", page.before)):
        if cursor and cursor not in ids:
            raise Invalid(name, "is none of the items")
    if page.after:
        start = ids.index(page.after) + 1
    if page.before:
        end = ids.index(page.before)
        start = max(start, end - page.limit)  # the page that ends there
    part = items[start:end][: page.limit]
    more = start > 0 if page.before and not page.after else start + len(part) < len(items)
    return {
        "object": "list",
        "data": [shape(one) for one in part],
        "first_id": key(part[0]) if part else None,
        "last_id": key(part[-1]) if part else None,
        "has_more": more,
    }
