"""Keys, users and teams in LiteLLM's fields: their bodies, changes and answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from msgspec.structs import replace

from ...accounts.records import Account, StoredKey, Team, User
from ...accounts.rights import Rights
from ...errors import InvalidParameter
from .. import fields
from ..fields import Body
from ..schema_fields import Field, Fields, Schema, flag, mapping, strings, text
from ..schema_fields import body as described
from . import rights, values

A = TypeVar("A", StoredKey, User, Team)
Edit = Callable[[A], A]
ROLES = ("internal_user", "internal_user_viewer")


def _name(key: str, description: str, example: str) -> Field:
    return Field(text(description, example), key, values.name)


_METADATA = mapping("Anything, up to 16 KiB of JSON; returned as it is.", {"floor": 2})
_COMMON = {
    "metadata": Field(_METADATA, "metadata", values.metadata),
    "blocked": Field(flag("Refuse all keys until it is unblocked."), "blocked", fields.flag),
}
KEY = {
    "key_alias": _name("alias", "A name for people, which no other key has.", "alice-laptop"),
    "user_id": _name("user_id", "The user of the key; made if it is not known yet.", "carol"),
    "team_id": _name("team_id", "The team of the key.", "research"),
    **_COMMON,
}
USER = {
    "user_email": _name("email", "An address that no other user has.", "carol@example.org"),
    "user_alias": _name("alias", "A name for people.", "Carol"),
    **_COMMON,
}
TEAM = {
    "team_alias": _name("alias", "A name for people, which no other team has.", "Research"),
    **_COMMON,
}
_DURATION = text("When the key expires: a number and s, m, h, d, w or mo.", "30d")
_KEY: Fields = {
    **KEY,
    **rights.FIELDS,
    "duration": _DURATION,
    "admin": flag("Let the key do what the keys of `--admins` may."),
}
_USER: Fields = {
    **USER,
    **rights.FIELDS,
    "user_id": text("The user's id.", "carol"),
    "user_role": text("A viewer's keys are read only.", "internal_user", enum=list(ROLES)),
}
_TEAM_ID = text("The team's id.", "research")
_TEAM: Fields = {**TEAM, **rights.FIELDS, "team_id": _TEAM_ID}
_NAME = text("The key, its `token` or its `key_id`.", "key_0123456789abcdef01234567")
_GRACE = text("How long the present secret stays valid, such as 24h.", "24h")
BODIES: dict[str, Schema] = {
    "GenerateKeyRequest": described(**_KEY),
    "InviteRequest": described(
        invitation_duration=text("How long the invitation is valid; a week by default.", "7d"),
        **_KEY,
    ),
    "UpdateKeyRequest": described("key", key=_NAME, **_KEY),
    "RegenerateKeyRequest": described(key=_NAME, grace_period=_GRACE, **_KEY),
    "BlockKeyRequest": described("key", key=_NAME),
    "DeleteKeysRequest": described(
        keys=strings("Keys, or their `token` or `key_id`.", "key_0123456789abcdef01234567"),
        key_aliases=strings("Aliases of keys.", "alice-laptop"),
    ),
    "NewUserRequest": described(
        **_USER,
        auto_create_key=flag("Make a key of the user, too.", True),
        key_alias=KEY["key_alias"],
        duration=_DURATION,
    ),
    "UpdateUserRequest": described("user_id", **_USER),
    "DeleteUsersRequest": described("user_ids", user_ids=strings("Ids of users.", "carol")),
    "NewTeamRequest": described(**_TEAM),
    "UpdateTeamRequest": described("team_id", **_TEAM),
    "TeamRequest": described("team_id", team_id=_TEAM_ID),
    "DeleteTeamsRequest": described("team_ids", team_ids=strings("Ids of teams.", "research")),
}


def check(name: str, body: Body) -> None:
    """Raises InvalidParameter if the body has a field that its schema has not, or lacks one."""
    schema = BODIES[name]
    values.refuse_others(body, schema["properties"])
    for field in schema.get("required", ()):
        if body.get(field) in (None, "", []):
            raise InvalidParameter(field, "is missing")


def edit_key(body: Body, now: float) -> Edit[StoredKey]:
    sets = values.changes(body, KEY)
    if (seconds := values.duration(body)) is not None:
        sets["expires"] = None if seconds == math.inf else now + seconds
    return _edit(sets, lambda before: rights.parse_of_key(body, before))


def edit_user(body: Body) -> Edit[User]:
    role = fields.text(body, "user_role")
    if role and role not in ROLES:
        raise InvalidParameter(
            "user_role", f"must be {' or '.join(ROLES)}; keys with `admin` administer"
        )
    preset = {"read_only": role == ROLES[True]} if role else {}
    sets = values.changes(body, USER)
    return _edit(sets, lambda before: rights.parse(body, replace(before, **preset)))


def edit_team(body: Body) -> Edit[Team]:
    return _edit(values.changes(body, TEAM), lambda before: rights.parse(body, before))


def _edit(sets: Mapping[str, Any], parse_rights: Callable[[Rights], Rights]) -> Edit[A]:
    parse_rights(Rights())  # wrong values are found before anything is read
    return lambda account: replace(account, **sets, rights=parse_rights(account.rights))


def made(secret: str, key: StoredKey) -> dict[str, Any]:
    """The answer of /key/generate, the only one with the secret."""
    return {"key": secret, "token_id": key.digest, **key_object(key)}


def key_object(key: StoredKey) -> dict[str, Any]:
    """A key as lists show it. `key_id` is ours: the name of its data and requests."""
    return {
        "token": key.digest,
        "key_id": key.id,
        "key_name": key.shown,
        **shown(key, KEY),
        "expires": values.shown_time(key.expires),
        "admin": key.rights.admin,
        "created_by": key.created_by,
    }


def user_object(user: User) -> dict[str, Any]:
    role = ROLES[user.rights.read_only]
    return {"user_id": user.id, "user_role": role, **shown(user, USER)}


def team_object(team: Team) -> dict[str, Any]:
    return {"team_id": team.id, **shown(team, TEAM)}


def shown(account: StoredKey | Account, columns: Mapping[str, Field]) -> dict[str, Any]:
    return {
        **{field: getattr(account, column.key) for field, column in columns.items()},
        **rights.shown(account.rights),
        "created_at": values.shown_time(account.created),
        "updated_at": values.shown_time(account.changed),
    }
