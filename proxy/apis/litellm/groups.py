"""Bodies and answers of LiteLLM's routes for users and teams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ...accounts.records import Account, Member, StoredKey, Team, User
from ...accounts.rights import Rights
from ...errors import InvalidParameter
from .. import fields
from ..fields import Body
from . import keys, rights, values

A = TypeVar("A", User, Team)
MOST_LISTED = 100  # users, or teams, on a page
MAX_MEMBERS = 500  # that one request adds
ROLES = ("internal_user", "internal_user_viewer")
_COMMON = frozenset({"metadata", "blocked"}) | rights.FIELDS
_USER = _COMMON | {"user_id", "user_email", "user_alias", "user_role"}
_TEAM = _COMMON | {"team_id", "team_alias"}


class GroupFields(Struct, frozen=True):
    """What a request sets: `sets` has fields of User or Team, `rights` changes the rights.
    `finish_running`: requests under way go on."""

    id: str
    sets: Mapping[str, Any]
    rights: Callable[[Rights], Rights]
    finish_running: bool = False

    def edit(self, known: A) -> A:
        """The user or team with these fields."""
        return replace(known, **self.sets, rights=self.rights(known.rights))


class NewUser(Struct, frozen=True):
    """`key` is what to make a key with, None to make none; `teams` are those that the user
    joins."""

    user: GroupFields
    teams: Sequence[str]
    key: keys.KeyFields | None


def parse_new_user(body: Body) -> NewUser:
    """The body of /user/new. Raises InvalidParameter."""
    more = {"teams", "auto_create_key", "key_alias", "duration"}
    values.refuse_others(body, _USER | more)
    own = {name: body.get(name) for name in ("key_alias", "duration")}
    key = keys.parse_new(own) if fields.flag(body, "auto_create_key", True) else None
    return NewUser(_user(body), values.names(body, "teams", MAX_MEMBERS), key)


def parse_user_update(body: Body) -> GroupFields:
    """The body of /user/update. Raises InvalidParameter."""
    values.refuse_others(body, _USER | {values.FINISH})
    values.required_name(body, "user_id")
    return replace(_user(body), finish_running=values.finish_running(body))


def parse_new_team(body: Body) -> tuple[GroupFields, Sequence[tuple[str, str]]]:
    """The body of /team/new, and its members with their roles. Raises InvalidParameter."""
    values.refuse_others(body, _TEAM | {"members_with_roles"})
    return _team(body), _members(body.get("members_with_roles") or [], "members_with_roles")


def parse_team_update(body: Body) -> GroupFields:
    """The body of /team/update. Raises InvalidParameter."""
    values.refuse_others(body, _TEAM | {values.FINISH})
    values.required_name(body, "team_id")
    return replace(_team(body), finish_running=values.finish_running(body))


def parse_team(body: Body) -> tuple[str, bool]:
    """The body of /team/block and /team/unblock: the team, and whether the requests under way of
    its keys go on. Raises InvalidParameter."""
    return values.required_name(body, "team_id"), values.finish_running(body)


def parse_members(body: Body) -> Sequence[Member]:
    """The body of /team/member_add. Raises InvalidParameter."""
    values.refuse_others(body, {"team_id", "member"})
    team = values.required_name(body, "team_id")
    member = body.get("member")
    found = _members(member if isinstance(member, list) else [member], "member")
    if not found:
        raise InvalidParameter("member", "must name a user")
    return [Member(team, user, role) for user, role in found]


def parse_leaving(body: Body) -> tuple[str, str]:
    """The body of /team/member_delete: team and user. Raises InvalidParameter."""
    return values.required_name(body, "team_id"), values.required_name(body, "user_id")


def parse_delete(body: Body, field: str) -> tuple[Sequence[str], bool]:
    """`user_ids` or `team_ids`, and whether the requests under way of their keys go on. Raises
    InvalidParameter."""
    names = values.names(body, field)
    if not names:
        raise InvalidParameter(field, "is missing")
    return names, values.finish_running(body)


def _user(body: Body) -> GroupFields:
    sets = _common(body)
    for theirs, ours in (("user_email", "email"), ("user_alias", "alias")):
        if body.get(theirs) is not None:
            sets[ours] = values.name(body, theirs)
    role = fields.text(body, "user_role")
    if role and role not in ROLES:
        raise InvalidParameter(
            "user_role", f"must be {' or '.join(ROLES)}; keys with `admin` administer"
        )
    changes = partial(rights.parse, body)
    if role and body.get("read_only") is None:
        changes = partial(rights.parse, {**body, "read_only": role == "internal_user_viewer"})
    changes(Rights())  # wrong values are found before anything is read
    return GroupFields(values.name(body, "user_id") or "", sets, changes)


def _team(body: Body) -> GroupFields:
    sets = _common(body)
    if body.get("team_alias") is not None:
        sets["alias"] = values.name(body, "team_alias")
    changes = partial(rights.parse, body)
    changes(Rights())
    return GroupFields(values.name(body, "team_id") or "", sets, changes)


def _common(body: Body) -> dict[str, Any]:
    sets: dict[str, Any] = {}
    if body.get("metadata") is not None:
        sets["metadata"] = values.metadata(body)
    if body.get("blocked") is not None:
        sets["blocked"] = fields.flag(body, "blocked")
    return sets


def _members(given: Any, field: str) -> Sequence[tuple[str, str]]:
    if not isinstance(given, list) or len(given) > MAX_MEMBERS:
        raise InvalidParameter(field, f"must have at most {MAX_MEMBERS} members")
    found = []
    for one in given:
        entry = fields.entry(one, field)
        values.refuse_others(entry, {"user_id", "role"})
        role = fields.text(entry, "role") or "user"
        if role not in ("admin", "user"):
            raise InvalidParameter(f"{field}.role", "must be admin or user")
        found.append((values.required_name(entry, "user_id"), role))
    return found


def user_object(user: User, teams: Sequence[Member]) -> dict[str, Any]:
    return {
        "user_id": user.id,
        "user_email": user.email,
        "user_alias": user.alias,
        "user_role": ROLES[user.rights.read_only],
        "teams": [one.team_id for one in teams],
        **_shown(user),
    }


def team_object(team: Team, members: Sequence[Member]) -> dict[str, Any]:
    return {
        "team_id": team.id,
        "team_alias": team.alias,
        "members_with_roles": [{"user_id": one.user_id, "role": one.role} for one in members],
        **_shown(team),
    }


def _shown(account: Account) -> dict[str, Any]:
    return {
        "blocked": account.blocked,
        **rights.shown(account.rights),
        "metadata": account.metadata,
        "created_at": values.shown_time(account.created),
        "updated_at": values.shown_time(account.changed),
    }


def user_info(
    user: User, teams: Sequence[Member], known: Sequence[Team], owned: Sequence[StoredKey]
) -> dict[str, Any]:
    """The answer of /user/info, with the user's teams and keys."""
    return {
        "user_id": user.id,
        "user_info": user_object(user, teams),
        "keys": [keys.key_object(key) for key in owned],
        "teams": [{"team_id": team.id, "team_alias": team.alias} for team in known],
    }


def team_info(team: Team, members: Sequence[Member], owned: Sequence[StoredKey]) -> dict[str, Any]:
    """The answer of /team/info, with the team's keys."""
    return {
        "team_id": team.id,
        "team_info": team_object(team, members),
        "keys": [keys.key_object(key) for key in owned],
        "team_memberships": [],
    }


def page(
    name: str, number: int, size: int, count: int, shown: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A page of the list `name`: these of `count`."""
    return {
        name: shown,
        "total": count,
        "page": number,
        "page_size": size,
        "total_pages": -(-count // size),
    }
