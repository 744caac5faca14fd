"""LiteLLM's routes for users."""

from __future__ import annotations

import time
from typing import Any

from flask import request
from msgspec.structs import replace

from ....accounts.records import Member, User
from ....accounts.service import Accounts
from ....errors import NotFound
from ....web.observability import Record
from ....web.services import Services
from ....web.spine import json_route
from .. import groups, keys, values
from .common import administered, blueprint, json_body, opened
from .keys import NEW

MOST_LISTED = 1000  # keys of a user or team that its description has


@json_route(blueprint, "POST", "/user/new", body="NewUserRequest")
def new_user(services: Services, record: Record) -> Any:
    """Make a user, and a key of it; for administrators.

    The key is made unless `auto_create_key` is false."""
    accounts = administered(services, record)
    asked = groups.parse_new_user(json_body(services))
    for team in asked.teams:
        accounts.teams.store.read(team)  # raises NotFound before anything is made
    if asked.key is not None and (alias := asked.key.sets.get("alias")):
        accounts.keys.check_alias(alias)
    user = accounts.users.make(asked.user.edit(User(id=asked.user.id)), record.key)
    if asked.teams:
        members = [Member(team, user.id) for team in asked.teams]
        accounts.teams.store.join(members, record.key)
    shown = groups.user_object(user, accounts.users.store.members(user.id))
    if asked.key is None:
        return shown
    key = replace(asked.key.edit(NEW, time.time()), user_id=user.id)
    return {**keys.made(*accounts.keys.make(key, record.key)), **shown}


@json_route(blueprint, "GET", "/user/info", group="")
def user_info(services: Services, record: Record) -> Any:
    """A user with its keys and teams; without `user_id`, the caller's."""
    accounts, user = _asked(services, record)
    memberships = accounts.users.store.members(user.id)
    teams = [accounts.teams.store.read(one.team_id) for one in memberships]
    _, owned = accounts.keys.listed({"user_id": user.id}, 0, MOST_LISTED)
    return groups.user_info(user, memberships, teams, owned)


@json_route(blueprint, "GET", "/v2/user/info", group="")
def user_alone(services: Services, record: Record) -> Any:
    """A user; without `user_id`, the caller's."""
    accounts, user = _asked(services, record)
    return groups.user_object(user, accounts.users.store.members(user.id))


@json_route(blueprint, "GET", "/user/list")
def list_users(services: Services, record: Record) -> Any:
    """The users; for administrators."""
    accounts = administered(services, record)
    number, size = values.page(request.args, "page_size", 25, groups.MOST_LISTED)
    email = values.name(request.args, "user_email")
    wanted = {"email": email} if email else {}
    search = values.name(request.args, "search") or ""
    store = accounts.users.store
    count, users = store.listed(wanted, (number - 1) * size, size, search=search)
    shown = [groups.user_object(user, store.members(user.id)) for user in users]
    return groups.page("users", number, size, count, shown)


@json_route(blueprint, "POST", "/user/update", body="UpdateUserRequest")
def update_user(services: Services, record: Record) -> Any:
    """Change a user; for administrators."""
    accounts = administered(services, record)
    asked = groups.parse_user_update(json_body(services))
    finish = asked.finish_running
    user = accounts.users.change(asked.id, asked.edit, record.key, finish_running=finish)
    return {
        "user_id": user.id,
        "data": groups.user_object(user, accounts.users.store.members(user.id)),
    }


@json_route(blueprint, "POST", "/user/delete", body="DeleteUsersRequest")
def delete_users(services: Services, record: Record) -> Any:
    """Delete users and their keys; for administrators.

    All of the named users and their keys, or none if one of them is missing."""
    accounts = administered(services, record)
    names, finish = groups.parse_delete(json_body(services), "user_ids")
    return accounts.users.delete(names, record.key, finish_running=finish)


def _asked(services: Services, record: Record) -> tuple[Accounts, User]:
    """Raises NotFound and Forbidden."""
    name = request.args.get("user_id", "")
    if name and name != record.user:
        accounts = administered(services, record)
    else:
        accounts, name = opened(services), record.user
    if not name:
        raise NotFound("the API key has no user: name one by user_id", param="user_id")
    return accounts, accounts.users.store.read(name)
