"""Values that the bodies and queries of this API have in common."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from ...errors import InvalidParameter
from .. import fields
from ..fields import Body
from ..schema_fields import Fields, table

MAX_NAME = 255  # characters of an id or alias
MAX_KEYS = 1000  # that one request deletes
MAX_METADATA = 16 << 10  # bytes
LONGEST = 100 * 365 * 86_400  # seconds
NEVER = "-1"  # LiteLLM's duration of a key that does not expire any more
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 2_592_000}
_DURATION = re.compile(r"([0-9]{1,9})(s|mo|m|h|d|w)")
_NAME = re.compile(r"[^\x00-\x1f\x7f]+")


def refuse_others(body: Body, names: Collection[str]) -> None:
    """Raises InvalidParameter for a field of the body that is neither known nor empty."""
    for field, value in body.items():
        if field in names or value is None or value is False or value in ("", [], {}):
            continue
        if field == "spend" and value == 0:
            continue
        raise InvalidParameter(field[:100], "is not supported by this gateway: remove it")


def changes(body: Body, columns: Fields) -> dict[str, Any]:
    """The values of the columns that a body sets. Null and absent fields set nothing."""
    return {
        key: read(body, field)
        for field, (key, read) in table(columns).items()
        if body.get(field) is not None
    }


def name(body: Mapping[str, Any], field: str) -> str | None:
    """An id or alias; None if it is empty."""
    value = fields.text(body, field).strip()
    if not value:
        return None
    if len(value) > MAX_NAME:
        raise InvalidParameter(field, f"may have at most {MAX_NAME} characters")
    if not _NAME.fullmatch(value):
        raise InvalidParameter(field, "may not contain control characters")
    return value


def required_name(body: Mapping[str, Any], field: str) -> str:
    value = name(body, field)
    if value is None:
        raise InvalidParameter(field, "is missing")
    return value


def filters(query: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The values that a list is limited to, by our names of these fields."""
    conditions = {ours: name(query, theirs) for theirs, ours in names.items()}
    return {ours: value for ours, value in conditions.items() if value}


def names(body: Body, field: str, most: int = MAX_KEYS) -> tuple[str, ...]:
    """A list of ids, aliases or keys, each once."""
    values = fields.strings(body, field, most=most)
    if not all(0 < len(value) <= MAX_NAME for value in values):
        raise InvalidParameter(field, f"must be a list of texts of 1 to {MAX_NAME} characters")
    return values


def duration(body: Body, field: str = "duration") -> float | None:
    """Seconds, of a text such as 30m, 24h, 7d or 1mo; inf for -1, None if it is empty."""
    value = fields.text(body, field)
    if not value:
        return None
    if value == NEVER:
        return math.inf
    match = _DURATION.fullmatch(value)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= LONGEST:
        raise InvalidParameter(field, "must be a number and s, m, h, d, w or mo, such as 30d")
    return seconds


def metadata(body: Body, field: str) -> Mapping[str, Any]:
    value = fields.mapping(body, field)
    if len(msgspec.json.encode(value)) > MAX_METADATA:
        raise InvalidParameter(field, f"may have at most {MAX_METADATA} bytes of JSON")
    return value


def shown_time(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
