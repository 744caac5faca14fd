"""Reads fields of a request body with the right type, or raises InvalidParameter with their
path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, TypeVar

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
    """A string that is neither absent nor blank."""
    value = text(body, name, at=at)
    if not value.strip():
        raise InvalidParameter(at + name, "is missing")
    return value


def model_name(body: Body, name: str = "model") -> str:
    """The name of a model; it is repeated in answers, the log and metrics."""
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
    if len(values) > MAX_ITEMS:
        raise InvalidParameter(at, f"has {len(values)} entries; at most {MAX_ITEMS} are allowed")


def entry(value: Any, at: str) -> Body:
    if not isinstance(value, dict):
        raise InvalidParameter(at, "must be an object")
    return value


def objects(body: Body, name: str, at: str = "") -> Iterator[tuple[Body, str]]:
    """The objects of a list, each with the beginning of the paths of its fields."""
    return entries(items(body, name, at), at + name)


def entries(values: list[Any], at: str) -> Iterator[tuple[Body, str]]:
    """The same of the list at this path."""
    bounded(values, at)
    for i, value in enumerate(values):
        yield entry(value, f"{at}[{i}]"), f"{at}[{i}]."


def choice(body: Body, name: str, values: Iterable[str], default: str = "", at: str = "") -> str:
    """One of these strings; `default` if null or absent, which need not be one of them."""
    value = body.get(name)
    if value is None and default:
        return default
    if type(value) is not str or value not in values:
        raise InvalidParameter(at + name, f"must be one of {', '.join(values)}")
    return value


def strings(body: Body, name: str, at: str = "", most: int = MAX_ITEMS) -> tuple[str, ...]:
    """A list of strings, each once."""
    values = items(body, name, at)
    if len(values) > most:
        raise InvalidParameter(at + name, f"may have at most {most} entries")
    for i, value in enumerate(values):
        if type(value) is not str:
            raise InvalidParameter(f"{at}{name}[{i}]", "must be a string")
    return tuple(dict.fromkeys(values))


def count_of(query: Mapping[str, str], name: str, default: int, most: int, least: int = 1) -> int:
    number = decimal(query.get(name) or str(default), least, most)
    if number is None:
        raise InvalidParameter(name, f"must be a number from {least} to {most}")
    return number


MAX_STOPS = 16
MAX_STOP_LENGTH = 1000


def stops(body: Body, name: str = "stop") -> tuple[str, ...]:
    """A stop string or a list of them. An empty one would end every answer."""
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


def header_safe(kind: str) -> str:
    """A string from the client, made safe for a header."""
    return re.sub(r"[^\w.-]", "?", kind[:40], flags=re.ASCII)


# -- pages of OpenAI's lists: `limit`, `order`, `after` and `before`

T = TypeVar("T")


def page_of(
    query: Mapping[str, str],
    entries: Sequence[T],
    key: Callable[[T], str],
    shape: Callable[[T], dict[str, Any]],
    most: int = 100,
    default: int = 20,
) -> dict[str, Any]:
    """The list that a query asks for, of `entries`, oldest first. Raises InvalidParameter."""
    limit = count_of(query, "limit", default, most)
    ascending = choice({"order": query.get("order") or "desc"}, "order", ("asc", "desc")) == "asc"
    items = list(entries) if ascending else list(reversed(entries))
    ids = [key(item) for item in items]
    after, before = query.get("after") or "", query.get("before") or ""
    for name, cursor in (("after", after), ("before", before)):
        if cursor and cursor not in ids:
            raise InvalidParameter(name, "is not one of the items")
    start, end = ids.index(after) + 1 if after else 0, len(items)
    if before:
        end = ids.index(before)
        start = max(start, end - limit)  # the page that ends before the cursor
    part = items[start:end][:limit]
    more = start > 0 if before and not after else start + len(part) < len(items)
    return {
        "object": "list",
        "data": [shape(item) for item in part],
        "first_id": key(part[0]) if part else None,
        "last_id": key(part[-1]) if part else None,
        "has_more": more,
    }


# -- fields that an API does not know
# Each that may change the answer is reported, so nobody takes an answer for one that obeys it. Not
# reported are a few well-known fields that change nothing here, and values that switch one off.

# They say who asks, what it costs, where it is cached and how it is logged, or only hint.
HARMLESS = frozenset(
    "anthropic_beta anthropic_version betas cache_control cache_prompt cache_salt chat_id"
    " client_metadata extra_headers guided_decoding_backend id_slot keep_alive metadata"
    " prediction priority prompt_cache_key prompt_cache_options prompt_cache_retention request_id"
    " safety_identifier service_tier session_id slot_id speculative.n_max speculative.n_min"
    " speculative.p_min stream stream_options t_max_prompt_ms timeout usage user".split()
)
OFF: tuple[Any, ...] = (None, False, "", [], {})
# Values that change nothing, for fields whose empty values do.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "include_reasoning": (None, True),
    "parallel_tool_calls": (None, True),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "truncation": (None, "disabled"),
    "verbosity": (None, "", "medium"),
}


def ignored_fields(body: Body, names: Set[str], at: str = "") -> tuple[str, ...]:
    """A warning for each field of the object at the path `at` that is not among `names`."""
    if body.keys() <= names:
        return ()
    unknown = body.keys() - names - HARMLESS
    return tuple(
        f"{at}{header_safe(name)} is ignored"
        for name, value in body.items()
        if name in unknown and value not in NEUTRAL.get(name, OFF)
    )
