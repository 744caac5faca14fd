"""Keys, users and teams as the store holds them, and the identity that a request has by its key.

Times are seconds since 1970. A key's id owns the data stored with it, and is never given again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from .limits import NO_LIMITS, Limited
from .rights import OnOverflow, Priority, Rights, priority_of

KEY_ID = re.compile(r"key_[0-9a-f]{24}")


class StoredKey(Struct, frozen=True, kw_only=True):
    """`digest` is that of the secret, `shown` the end of it. `former_digest` is that of the secret
    before the last rotation, valid until `former_until`. `expires` None: never."""

    id: str
    digest: str
    shown: str
    alias: str | None = None
    user_id: str | None = None
    team_id: str | None = None
    created: float = 0.0
    created_by: str = ""
    changed: float = 0.0
    expires: float | None = None
    blocked: bool = False
    former_digest: str | None = None
    former_until: float = 0.0
    rights: Rights = Rights()
    metadata: Mapping[str, Any] = {}


class Account(Struct, frozen=True, kw_only=True):
    """Users and teams. Their rights bound those of all their keys."""

    id: str
    alias: str | None = None
    created: float = 0.0
    changed: float = 0.0
    blocked: bool = False
    rights: Rights = Rights()
    metadata: Mapping[str, Any] = {}


class User(Account, frozen=True, kw_only=True):
    email: str | None = None


class Team(Account, frozen=True, kw_only=True):
    pass


class Entry(Struct, frozen=True, kw_only=True):
    """A change of a key, user or team, by whom and when. `details` has nothing secret."""

    number: int
    at: float
    actor: str
    action: str
    kind: str
    subject: str
    details: Mapping[str, Any]


B = TypeVar("B", StoredKey, User, Team)


class Bound(NamedTuple):
    """What a user or team adds to the identity of its keys."""

    blocked: bool
    rights: Rights


NO_BOUND = Bound(False, Rights())


class Identity(Struct, frozen=True, kw_only=True):
    """The caller of a request, by its key. `key` owns the stored data. Keys of one `group` share
    cached prompts. `rights` are those of key, user and team, and `limits` their limits. `until` is
    when this secret ends; `refused` says why it is not accepted now, "" if it is. A request by a
    `trusted` key may name its `person`, who is then its user."""

    key: str
    alias: str = ""
    user: str = ""
    team: str = ""
    group: str = ""
    priority: Priority = "normal"
    admin: bool = False
    rights: tuple[Rights, ...] = ()
    limits: tuple[Limited, ...] = ()
    on_overflow: OnOverflow = ""
    until: float = math.inf
    refused: str = ""
    trusted: bool = False
    person: str = ""

    @property
    def shown(self) -> str:
        return self.alias or self.key


def blocking(blocked: bool) -> Callable[[B], B]:
    return lambda account: replace(account, blocked=blocked)


def identity_of(
    key: StoredKey, digest: str, user: Bound = NO_BOUND, team: Bound = NO_BOUND
) -> Identity:
    """The identity of a request that sent the secret with this digest, the key's or its former."""
    until = math.inf if key.expires is None else key.expires
    if digest != key.digest:
        until = min(until, key.former_until)
    levels = {
        f"key {key.id}": key.rights,
        f"team {key.team_id}": team.rights,
        f"user {key.user_id}": user.rights,
    }
    limits = tuple(
        Limited(subject, held.limits)
        for subject, held in levels.items()
        if held.limits != NO_LIMITS
    )
    permits = (replace(held, limits=NO_LIMITS) for held in levels.values())
    rights = tuple(held for held in permits if held != Rights())
    blocked = {"this API key": key.blocked, "the team": team.blocked, "the user": user.blocked}
    refused = next((what for what, is_so in blocked.items() if is_so), "")
    return Identity(
        key=key.id,
        alias=key.alias or "",
        user=key.user_id or "",
        team=key.team_id or "",
        # No group of the settings has a space in its name.
        group=next((held.group for held in rights if held.group), f"key {key.id}"),
        priority=priority_of(rights),
        admin=key.rights.admin,
        rights=rights,
        limits=limits,
        on_overflow=next((held.on_overflow for held in rights if held.on_overflow), ""),
        until=until,
        refused=f"{refused} is blocked: ask an administrator" if refused else "",
        trusted=any(held.trusted_for_users for held in rights),
    )


MOST_PEOPLE = 1000  # users that the requests of a key may make


def of_person(key: Identity, user_id: str, user: Bound = NO_BOUND) -> Identity:
    """The identity of a request by this trusted key for this user. Each person has the limits of
    the key for itself, unless the user has limits of its own."""
    subjects = {f"key {key.key}", subject := f"user {user_id}"}
    limits = user.rights.limits
    if limits == NO_LIMITS:
        defaults = (level.limits for level in key.limits if level.subject == f"key {key.key}")
        limits = next(defaults, NO_LIMITS)
    levels = tuple(level for level in key.limits if level.subject not in subjects)
    own = replace(user.rights, limits=NO_LIMITS)
    rights = key.rights if own == Rights() else (*key.rights, own)
    return replace(
        key,
        user=user_id,
        person=user_id,
        # A group that was not set has a space in its name.
        group=own.group if own.group and " " in key.group else key.group,
        priority=priority_of((Rights(priority=key.priority), own)),
        rights=rights,
        limits=levels if limits == NO_LIMITS else (Limited(subject, limits), *levels),
        on_overflow=key.on_overflow or own.on_overflow,
        refused="the user is blocked: ask an administrator" if user.blocked else key.refused,
    )
