"""Bodies and answers of LiteLLM's routes for keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ...accounts.records import Entry, StoredKey
from ...accounts.rights import Rights
from ...errors import InvalidParameter
from .. import fields
from ..fields import Body, decimal
from . import rights, values

MOST_LISTED = 100  # keys on a page
_NAMES = {"key_alias": "alias", "user_id": "user_id", "team_id": "team_id"}
_FIELDS = frozenset({"duration", "metadata", "blocked", *_NAMES}) | rights.OF_KEY
_FILTERS = {**_NAMES, "key_hash": "digest"}


class KeyFields(Struct, frozen=True):
    """What a request sets: `sets` has fields of StoredKey, `lasts` is in seconds, inf for ever and
    None to leave it; `rights` changes the rights that a key has. `finish_running`: requests under
    way go on."""

    sets: Mapping[str, Any]
    lasts: float | None
    rights: Callable[[Rights], Rights]
    finish_running: bool = False

    def edit(self, key: StoredKey, now: float) -> StoredKey:
        """The key with these fields, from `now` on."""
        changes = {**self.sets, "rights": self.rights(key.rights)}
        if self.lasts is not None:
            changes["expires"] = None if self.lasts == math.inf else now + self.lasts
        return replace(key, **changes)


class KeyPage(Struct, frozen=True):
    """A page of a list; `wanted` has values of StoredKey's fields, `search` is a part of a name.
    `whole`: objects instead of digests."""

    wanted: Mapping[str, str]
    search: str
    number: int
    size: int
    whole: bool


def parse_new(body: Body) -> KeyFields:
    """The body of /key/generate. Raises InvalidParameter."""
    values.refuse_others(body, _FIELDS)
    return _fields(body)


def parse_update(body: Body) -> tuple[str, KeyFields]:
    """The key, and its changes. Raises InvalidParameter."""
    values.refuse_others(body, _FIELDS | {"key", values.FINISH})
    asked = replace(_fields(body), finish_running=values.finish_running(body))
    return values.required_name(body, "key"), asked


def parse_regenerate(body: Body, key: str | None = None) -> tuple[str, KeyFields, float]:
    """The key, unless it is in the path, its changes, and for how many seconds its present secret
    stays valid. Raises InvalidParameter."""
    values.refuse_others(body, _FIELDS | {"key", "grace_period"})
    name = key or values.required_name(body, "key")
    grace = values.duration(body, "grace_period") or 0.0
    if grace == math.inf:
        raise InvalidParameter("grace_period", "must end")
    return name, _fields(body), grace


def parse_key(body: Body) -> tuple[str, bool]:
    """The body of /key/block and /key/unblock: the key, and whether its requests under way go on.
    Raises InvalidParameter."""
    return values.required_name(body, "key"), values.finish_running(body)


def parse_delete(body: Body) -> tuple[Sequence[str], Sequence[str], bool]:
    """Keys and aliases, and whether their requests under way go on. Raises InvalidParameter."""
    keys, aliases = values.names(body, "keys"), values.names(body, "key_aliases")
    if not keys and not aliases:
        raise InvalidParameter("keys", "or key_aliases must name a key")
    return keys, aliases, values.finish_running(body)


def parse_list(query: Mapping[str, str]) -> KeyPage:
    """Raises InvalidParameter."""
    wanted = {ours: values.name(query, theirs) for theirs, ours in _FILTERS.items()}
    number, size = values.page(query, "size", 10, MOST_LISTED)
    whole = query.get("return_full_object", "").lower() == "true"
    given = {name: one for name, one in wanted.items() if one}
    return KeyPage(given, values.name(query, "search") or "", number, size, whole)


def _fields(body: Body) -> KeyFields:
    sets: dict[str, Any] = {}
    for theirs, ours in _NAMES.items():
        if body.get(theirs) is not None:  # "" removes it
            sets[ours] = values.name(body, theirs)
    if body.get("metadata") is not None:
        sets["metadata"] = values.metadata(body)
    if body.get("blocked") is not None:
        sets["blocked"] = fields.flag(body, "blocked")
    rights.parse_of_key(body, Rights())  # wrong values are found before anything is read
    return KeyFields(sets, values.duration(body), partial(rights.parse_of_key, body))


def made(secret: str, key: StoredKey) -> dict[str, Any]:
    """The answer of /key/generate, the only one with the secret."""
    return {"key": secret, "token_id": key.digest, **key_object(key)}


def key_object(key: StoredKey) -> dict[str, Any]:
    """A key as lists show it. `key_id` is ours: the name under which its data and requests are
    recorded."""
    return {
        "token": key.digest,
        "key_id": key.id,
        "key_name": key.shown,
        "key_alias": key.alias,
        "user_id": key.user_id,
        "team_id": key.team_id,
        "expires": values.shown_time(key.expires),
        "blocked": key.blocked,
        **rights.shown(key.rights),
        "admin": key.rights.admin,
        "metadata": key.metadata,
        "created_at": values.shown_time(key.created),
        "created_by": key.created_by,
        "updated_at": values.shown_time(key.changed),
    }


def listed(page: KeyPage, count: int, keys: Sequence[StoredKey]) -> dict[str, Any]:
    return {
        "keys": [key_object(key) if page.whole else key.digest for key in keys],
        "total_count": count,
        "current_page": page.number,
        "total_pages": -(-count // page.size),
    }


# The list of changes of accounts, which is our own.
CHANGES_LISTED = 1000


class AuditPage(Struct, frozen=True):
    """A page of changes, the newest first; `before` is the number of the last one before it."""

    subject: str
    before: int | None
    limit: int


def parse_changes(query: Mapping[str, str]) -> AuditPage:
    """Raises InvalidParameter."""
    limit = decimal(query.get("limit") or "100", 1, CHANGES_LISTED)
    if limit is None:
        raise InvalidParameter("limit", f"must be a number from 1 to {CHANGES_LISTED}")
    before = query.get("before")
    number = decimal(before, 1, 999_999_999) if before else None
    if before and number is None:
        raise InvalidParameter("before", "must be the number of a change")
    return AuditPage(values.name(query, "subject") or "", number, limit)


def changes_list(entries: Sequence[Entry]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {
                "object": "audit.entry",
                "number": one.number,
                "at": values.shown_time(one.at),
                "actor": one.actor,
                "action": one.action,
                "kind": one.kind,
                "subject": one.subject,
                "details": one.details,
            }
            for one in entries
        ],
    }
