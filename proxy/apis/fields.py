"""Reads fields of a request body with the right type, or raises InvalidParameter with their
path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from ..errors import InvalidParameter

Body = Mapping[str, Any]
MAX_ITEMS = 16_384
"""Maximum length of any list in a body (messages, parts, calls): parsing 300 000 messages in 10 MB
blocked every other stream for two seconds."""
MAX_MODEL = 1024  # characters in the name of a model

Table = Mapping[str, tuple[str, Callable[[Body, str], Any]]]
"""Maps a field of the body to the name of the parsed value and the function that parses it."""


def read(body: Body, table: Table) -> dict[str, Any]:
    """The parsed values of the fields that are present, in the table's order."""
    values = {}
    for name in filter(body.__contains__, table):
        key, reader = table[name]
        values[key] = reader(body, name)
    return values


def text(body: Body, name: str, default: str = "", at: str = "") -> str:
    """A string; `default` if null or absent."""
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not str:
        raise InvalidParameter(at + name, "must be a string")
    return value


def required(body: Body, name: str, at: str = "") -> str:
    """A string that may be empty, but not absent."""
    if body.get(name) is None:
        raise InvalidParameter(at + name, "is missing")
    return text(body, name, at=at)


def filled(body: Body, name: str, at: str = "") -> str:
    """A string that is neither absent nor empty."""
    value = text(body, name, at=at)
    if not value:
        raise InvalidParameter(at + name, "is missing")
    return value


def model_name(body: Body, name: str = "model") -> str:
    """The name of a model: at most MAX_MODEL characters, since it is repeated in answers, the log
    and metrics."""
    value = text(body, name)
    if len(value) > MAX_MODEL:
        raise InvalidParameter(
            name, f"has {len(value)} characters; at most {MAX_MODEL} are allowed"
        )
    return value


def flag(body: Body, name: str, default: bool = False, at: str = "") -> bool:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not bool:
        raise InvalidParameter(at + name, "must be true or false")
    return value


def integer(body: Body, name: str, low: int, high: int, at: str = "") -> int | None:
    """An integer within bounds (1.0 counts as one); None if null or absent."""
    value = body.get(name)
    if value is None:
        return None
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise InvalidParameter(at + name, "must be an integer")
    if not low <= value <= high:
        raise InvalidParameter(at + name, f"must be between {low} and {high}")
    return value


def decimal(value: str, low: int, high: int) -> int | None:
    """The number of a query or form, of at most nine digits; None if it is none within bounds."""
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        return None
    return int(value) if low <= int(value) <= high else None


def mapping(body: Body, name: str, at: str = "") -> Body:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidParameter(at + name, "must be an object")
    return value


def items(body: Body, name: str, at: str = "") -> list[Any]:
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidParameter(at + name, "must be a list")
    bounded(value, at + name)
    return value


def bounded(values: list[Any], at: str) -> None:
    """Raises InvalidParameter if the list is too long."""
    if len(values) > MAX_ITEMS:
        raise InvalidParameter(at, f"has {len(values)} entries; at most {MAX_ITEMS} are allowed")


def entry(value: Any, at: str) -> Body:
    if not isinstance(value, dict):
        raise InvalidParameter(at, "must be an object")
    return value


MAX_STOPS = 16
MAX_STOP_LENGTH = 1000


def stops(body: Body, name: str = "stop") -> tuple[str, ...]:
    """A stop string or a list of up to 16. Empty strings are rejected: they would end every
    answer."""
    value = body.get(name)
    if value is None:
        return ()
    if type(value) is str:
        value = [value]
    if not isinstance(value, list) or not all(type(s) is str for s in value):
        raise InvalidParameter(name, "must be a string or a list of strings")
    if len(value) > MAX_STOPS:
        raise InvalidParameter(name, f"may contain at most {MAX_STOPS} strings")
    if not all(0 < len(s) <= MAX_STOP_LENGTH for s in value):
        raise InvalidParameter(name, f"must contain strings of 1 to {MAX_STOP_LENGTH} characters")
    return tuple(value)


# -- pages of OpenAI's lists: `limit`, `order`, `after` and `before` ------------------------------

T = TypeVar("T")


class Page(Struct, frozen=True):
    """The requested page; `after` and `before` are ids of items."""

    limit: int
    ascending: bool = False
    after: str = ""
    before: str = ""


def page_of(query: Mapping[str, str], most: int = 100, default: int = 20) -> Page:
    """Parses the query string. Raises InvalidParameter."""
    limit = decimal(query.get("limit") or str(default), 1, most)
    if limit is None:
        raise InvalidParameter("limit", f"must be from 1 to {most}")
    order = query.get("order") or "desc"
    if order not in ("asc", "desc"):
        raise InvalidParameter("order", "must be asc or desc")
    return Page(limit, order == "asc", query.get("after") or "", query.get("before") or "")


def page_reply(
    page: Page,
    entries: Sequence[T],
    key: Callable[[T], str],
    shape: Callable[[T], dict[str, Any]],
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
