"""Rights and limits of a key in a key file: words FIELD=VALUE, with the fields of /key/generate.

Lists have commas between their entries, objects are JSON without spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ...accounts.rights import Rights
from ...errors import InvalidParameter
from . import rights

_LISTS = frozenset(
    {
        "models",
        "allowed_routes",
        "allowed_tools",
        "allowed_knowledge_bases",
        "allowed_ips",
        "barred_tiers",
    }
)
_TEXTS = frozenset({"on_limit", "budget_duration"})
_OWN = frozenset({"group", "priority", "on_overflow"})  # which the file itself knows
FIELDS = rights.FIELDS - _OWN - {"object_permission"}


def parse(options: Mapping[str, str]) -> Rights:
    """The rights of these options. Raises InvalidParameter, with the option as its `param`."""
    for name in options:
        if name not in FIELDS:
            known = ", ".join(sorted(FIELDS | _OWN))
            raise InvalidParameter(name[:60], f"is not an option of a key: use {known}")
    body = {name: _value(name, text) for name, text in options.items()}
    return rights.parse(body, Rights())


def _value(name: str, text: str) -> Any:
    if name in _TEXTS:
        return text
    if name in _LISTS:
        entries = [one for one in text.split(",") if one]
        if not entries:  # which would mean no bound
            raise InvalidParameter(name, "is empty: name at least one entry, or leave it out")
        return entries
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        kind = "true or false" if name == "read_only" else "a number, or JSON without spaces"
        raise InvalidParameter(name, f"must be {kind}") from None
