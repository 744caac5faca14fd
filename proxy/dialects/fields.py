"""Reading fields of a client's body: the right type, or Invalid that names the place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..core.invalid import Invalid

Body = Mapping[str, Any]
MAX_ITEMS = 16_384
"""Entries of any list of a body: messages, parts, calls, … Each becomes a value of its own, and
300 000 messages in 10 MB held up every other stream for two seconds."""

Table = Mapping[str, tuple[str, Callable[[Body, str], Any]]]
"""For fields of a body: the name of what is read from each, and how to read it."""


def read(body: Body, table: Table) -> dict[str, Any]:
    """What the fields say that are there, read in the table's order. Most of what a body may have
    is absent, and that costs nothing."""
    out = {}
    for name in filter(body.__contains__, table):
        said, reader = table[name]
        out[said] = reader(body, name)
    return out


def text(body: Body, name: str, default: str = "", at: str = "") -> str:
    """A string; null and absence give the default."""
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not str:
        raise Invalid(at + name, "must be a string")
    return value


def flag(body: Body, name: str, default: bool = False, at: str = "") -> bool:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not bool:
        raise Invalid(at + name, "must be true or false")
    return value


def integer(body: Body, name: str, low: int, high: int, at: str = "") -> int | None:
    """A whole number within bounds, None where absent. 1.0 is one."""
    value = body.get(name)
    if value is None:
        return None
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise Invalid(at + name, "must be an integer")
    if not low <= value <= high:
        raise Invalid(at + name, f"must be from {low} to {high}")
    return value


def mapping(body: Body, name: str, at: str = "") -> Body:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid(at + name, "must be an object")
    return value


def items(body: Body, name: str, at: str = "") -> list[Any]:
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Invalid(at + name, "must be a list")
    bounded(value, at + name)
    return value


def bounded(values: list[Any], at: str) -> None:
    """Raises Invalid for a list that is too long."""
    if len(values) > MAX_ITEMS:
        raise Invalid(at, f"has {len(values)} entries, {MAX_ITEMS} may be")


def entry(value: Any, at: str) -> Body:
    if not isinstance(value, dict):
        raise Invalid(at, "must be an object")
    return value


def unheeded(body: Body, names: Mapping[str, tuple[Any, ...]]) -> tuple[str, ...]:
    """Warnings for the fields of a body that would change an answer, and that nothing here heeds;
    each with the values with which it changes nothing. null and what is empty never do."""
    if body.keys().isdisjoint(names):
        return ()
    return tuple(
        [
            f"{name} is left out"
            for name in filter(body.__contains__, names)
            if body[name] not in (*IDLE, *names[name])
        ]
    )


IDLE: tuple[Any, ...] = (None, False, "", [], {})
MAX_STOPS = 16
MAX_STOP_LENGTH = 1000


def stops(body: Body, name: str = "stop") -> tuple[str, ...]:
    """A string, or a list of up to 16; an empty one is refused, since it would end every answer."""
    value = body.get(name)
    if value is None:
        return ()
    if type(value) is str:
        value = [value]
    if not isinstance(value, list) or not all(type(s) is str for s in value):
        raise Invalid(name, "must be a string or a list of strings")
    if len(value) > MAX_STOPS:
        raise Invalid(name, f"may hold {MAX_STOPS} strings at most")
    if not all(0 < len(s) <= MAX_STOP_LENGTH for s in value):
        raise Invalid(name, f"must hold strings of 1 to {MAX_STOP_LENGTH} characters")
    return tuple(value)
