"""LiteLLM's routes for keys, users and teams, and the list of changes, our own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from flask import request
from msgspec.structs import asdict, replace

from ...accounts.limiting.budgets import NO_PRICE
from ...accounts.records import StoredKey, Team, User, blocking
from ...errors import InvalidParameter, NotFound
from ...store.accounts import Accounts
from ...web import permissions
from ...web.auth import IDENTITY
from ...web.observability import Record
from ...web.routes import Api
from ...web.services import Services, current_services
from ...web.spine import json_route, sent_json
from .. import fields
from . import objects, values
from .objects import team_object, user_object

blueprint = Api("accounts", __name__, group="admin", tag="LiteLLM", schemas=objects.BODIES)

Body = dict[str, Any]
AdminView = Callable[..., Any]
# What administrators may do, by method and path. The page of accounts offers the same.
ADMIN_VIEWS: list[tuple[str, str, AdminView]] = []
NEW = StoredKey(id="", digest="", shown="")
KEYS_LISTED = 1000  # keys of a user or team that its description has
MOST_LISTED = 100  # keys, users or teams on a page
TEAMS_LISTED = 10_000  # in a list, which LiteLLM does not divide into pages
CHANGES_LISTED = 1000
INVITED = 7 * 86400.0  # seconds for which an invitation is valid


def opened(services: Services) -> Accounts:
    """Raises NotFound if the gateway keeps no keys."""
    if services.accounts is None:
        raise NotFound(
            "this gateway keeps no API keys in its store: start it with API keys, --admins, and the"
            " extra `knowledge`"
        )
    return services.accounts


def administered(services: Services, record: Record) -> Accounts:
    """The accounts, for an administrator. Raises Forbidden and NotFound."""
    permissions.check_admin(services, record.key)
    return opened(services)


def admin_route(
    *paths: str, body: str = "", tag: str = "LiteLLM"
) -> Callable[[AdminView], AdminView]:
    """A route for administrators. Its view gets the accounts; that of a POST, the name of the
    caller's key and the body, too, whose fields are those of its schema."""

    method = "POST" if body else "GET"

    def register(view: AdminView) -> AdminView:
        @json_route(blueprint, method, *paths, body=body, tag=tag)
        @wraps(view)
        def for_administrators(services: Services, record: Record, **parts: str) -> Any:
            accounts = administered(services, record)
            if not body:
                return view(accounts)
            sent = sent_json()
            objects.check(body, sent)
            shown = view(accounts, record.key, sent, **parts)
            accounts.follow()
            if not services.settings.price and _limits_money(sent):
                record.warnings += (NO_PRICE,)
            return shown

        ADMIN_VIEWS.extend((method, path, for_administrators) for path in paths if "<" not in path)
        return for_administrators

    return register


def _limits_money(body: Body) -> bool:
    """Whether a body that was checked sets a budget of money."""
    budgets = [body, *(body.get("budget_limits") or ())]
    limits = [budget for budget in budgets if budget.get("unit", "money") == "money"]
    return any((budget.get("max_budget") or 0) > 0 for budget in limits)


def _change(store: Any, field: str, edit: Any, actor: str, body: Body, action: str) -> Any:
    """Change what the field of the body names."""
    return store.change(values.required_name(body, field), edit, actor, action)


def _block(store: Any, field: str, actor: str, body: Body) -> Any:
    """Block or unblock it, as the path says."""
    action = request.path.rpartition("/")[2]
    return _change(store, field, blocking(action == "block"), actor, body, action)


# -- keys


@admin_route("/key/generate", body="GenerateKeyRequest")
def generate_key(accounts: Accounts, actor: str, body: Body) -> Any:
    """Make an API key; for administrators."""
    return objects.made(*accounts.keys.make(objects.edit_key(body, time.time())(NEW), actor))


@admin_route("/key/invite", body="InviteRequest", tag="slotproxy")
def invite(accounts: Accounts, actor: str, body: Body) -> Any:
    """Make a key for a new person, who gets it with the `invitation` at the page /invitation, once;
    for administrators."""
    now = time.time()
    seconds = values.duration(body, "invitation_duration") or INVITED
    if seconds == math.inf:
        raise InvalidParameter("invitation_duration", "must end")
    token, key = accounts.keys.invite(objects.edit_key(body, now)(NEW), now + seconds, actor)
    return {
        "invitation": token,
        "until": values.shown_time(now + seconds),
        **objects.key_object(key),
    }


@json_route(blueprint, "GET", "/key/info", group="")
def key_info(services: Services, record: Record) -> Any:
    """One API key; without `key`, the caller's own."""
    name = request.args.get("key", "")
    accounts = administered(services, record) if name else opened(services)
    name = name or record.key
    if services.keys.is_configured(name):
        raise NotFound(
            "this API key is one of the settings: only keys of /key/generate have more to read",
            param="key",
        )
    return {"key": name, "info": objects.key_object(accounts.keys.read(name))}


@admin_route("/key/list")
def list_keys(accounts: Accounts) -> Any:
    """The API keys in the store; for administrators."""
    names = {"key_alias": "alias", "user_id": "user_id", "team_id": "team_id", "key_hash": "digest"}
    keys, count, number, size = _page(accounts.keys.listed, "size", 10, names)
    whole = request.args.get("return_full_object", "").lower() == "true"
    return {
        "keys": [objects.key_object(key) if whole else key.digest for key in keys],
        "total_count": count,
        "current_page": number,
        "total_pages": -(-count // size),
    }


@admin_route("/key/update", body="UpdateKeyRequest")
def update_key(accounts: Accounts, actor: str, body: Body) -> Any:
    """Change an API key; for administrators."""
    key = _change(accounts.keys, "key", objects.edit_key(body, time.time()), actor, body, "update")
    return {"key": body["key"], **objects.key_object(key)}


@admin_route("/key/regenerate", "/key/<name>/regenerate", body="RegenerateKeyRequest")
def regenerate_key(accounts: Accounts, actor: str, body: Body, name: str = "") -> Any:
    """A new secret for an API key; for administrators."""
    name = name or values.required_name(body, "key")
    edit, grace = objects.edit_key(body, time.time()), values.duration(body, "grace_period") or 0.0
    if grace == math.inf:
        raise InvalidParameter("grace_period", "must end")
    secret, made = accounts.keys.regenerate(name, edit, grace, actor)
    # A session has only the key's id, so it would outlast the secret that began it.
    if (sessions := current_services().sessions) is not None:
        sessions.end_all(made.id)
    return objects.made(secret, made)


@admin_route("/key/block", "/key/unblock", body="BlockKeyRequest")
def block_key(accounts: Accounts, actor: str, body: Body) -> Any:
    """Block or unblock an API key; for administrators."""
    return objects.key_object(_block(accounts.keys, "key", actor, body))


@admin_route("/key/delete", body="DeleteKeysRequest")
def delete_keys(accounts: Accounts, actor: str, body: Body) -> Any:
    """Delete API keys; for administrators."""
    keys, aliases = values.names(body, "keys"), values.names(body, "key_aliases")
    if not keys and not aliases:
        raise InvalidParameter("keys", "or key_aliases must name a key")
    return {"deleted_keys": accounts.keys.delete(keys, aliases, actor)}


# -- users


@admin_route("/user/new", body="NewUserRequest")
def new_user(accounts: Accounts, actor: str, body: Body) -> Any:
    """Make a user, and a key of it; for administrators."""
    user = objects.edit_user(body)(User(id=values.name(body, "user_id") or ""))
    key_fields = {name: body.get(name) for name in ("key_alias", "duration")}
    key = objects.edit_key(key_fields, time.time())(NEW)
    makes_key = fields.flag(body, "auto_create_key", True)
    if makes_key and key.alias:
        accounts.keys.check_alias(key.alias)  # before anything is made
    user = accounts.users.make(user, actor)
    shown = user_object(user)
    if not makes_key:
        return shown
    return {**objects.made(*accounts.keys.make(replace(key, user_id=user.id), actor)), **shown}


@json_route(blueprint, "GET", "/user/info", group="")
def user_info(services: Services, record: Record) -> Any:
    """A user with its keys; without `user_id`, the caller's."""
    name = request.args.get("user_id", "")
    identity = request.environ.get(IDENTITY)  # a trusted key may name anybody
    own = "" if identity is not None and identity.person else record.user
    if name and name != own:
        accounts = administered(services, record)
    else:
        accounts, name = opened(services), own
    if not name:
        raise NotFound("the API key has no user: name one by user_id", param="user_id")
    user = accounts.users.read(name)
    keys = _keys_of(accounts, user_id=user.id)
    return {"user_id": user.id, "user_info": user_object(user), "keys": keys}


@admin_route("/user/list")
def list_users(accounts: Accounts) -> Any:
    """The users; for administrators."""
    return _groups_page("users", accounts.users, 25, {"user_email": "email"}, user_object)


@admin_route("/user/update", body="UpdateUserRequest")
def update_user(accounts: Accounts, actor: str, body: Body) -> Any:
    """Change a user; for administrators."""
    user = _change(accounts.users, "user_id", objects.edit_user(body), actor, body, "update")
    return {"user_id": user.id, "data": user_object(user)}


@admin_route("/user/delete", body="DeleteUsersRequest")
def delete_users(accounts: Accounts, actor: str, body: Body) -> Any:
    """Delete users and their keys; for administrators."""
    return accounts.users.delete(values.names(body, "user_ids"), actor)


def _keys_of(accounts: Accounts, **owner: str) -> list[dict[str, Any]]:
    _, keys = accounts.keys.listed(owner, 0, KEYS_LISTED)
    return [objects.key_object(key) for key in keys]


def _page(
    listed: Callable[..., tuple[int, Sequence[Any]]],
    size_field: str,
    default: int,
    names: Mapping[str, str],
) -> tuple[Sequence[Any], int, int, int]:
    """The entries of the page that the query names, how many there are on all pages, the number of
    the page, and its size. `names` are the fields of the query that limit the entries."""
    number = fields.count_of(request.args, "page", 1, 1_000_000)
    size = fields.count_of(request.args, size_field, default, MOST_LISTED)
    search = values.name(request.args, "search") or ""
    filters = values.filters(request.args, names)
    count, entries = listed(filters, (number - 1) * size, size, search=search)
    return entries, count, number, size


def _groups_page(
    title: str,
    groups: Any,
    default: int,
    names: Mapping[str, str],
    shape: Callable[[Any], dict[str, Any]],
) -> dict[str, Any]:
    entries, count, number, size = _page(groups.listed, "page_size", default, names)
    return {
        title: [shape(group) for group in entries],
        "total": count,
        "page": number,
        "page_size": size,
        "total_pages": -(-count // size),
    }


# -- teams


@admin_route("/team/new", body="NewTeamRequest")
def new_team(accounts: Accounts, actor: str, body: Body) -> Any:
    """Make a team; for administrators."""
    new = objects.edit_team(body)(Team(id=values.name(body, "team_id") or ""))
    return team_object(accounts.teams.make(new, actor))


@json_route(blueprint, "GET", "/team/info", group="")
def team_info(services: Services, record: Record) -> Any:
    """A team with its keys; for others, the caller's without them."""
    name = values.name(request.args, "team_id") or record.team
    own = name and name == record.team
    accounts = opened(services) if own else administered(services, record)
    team = accounts.teams.read(name)
    return {
        "team_id": team.id,
        "team_info": team_object(team),
        "keys": [] if own else _keys_of(accounts, team_id=team.id),
    }


@admin_route("/team/list")
def list_teams(accounts: Accounts) -> Any:
    """The teams; for administrators."""
    _, teams = accounts.teams.listed({}, 0, TEAMS_LISTED)
    return [team_object(team) for team in teams]


@admin_route("/v2/team/list")
def teams_page(accounts: Accounts) -> Any:
    """The teams, page by page; for administrators."""
    names = {"team_id": "id", "team_alias": "alias"}
    return _groups_page("teams", accounts.teams, 10, names, team_object)


@admin_route("/team/update", body="UpdateTeamRequest")
def update_team(accounts: Accounts, actor: str, body: Body) -> Any:
    """Change a team; for administrators."""
    team = _change(accounts.teams, "team_id", objects.edit_team(body), actor, body, "update")
    return {"team_id": team.id, "data": team_object(team)}


@admin_route("/team/block", "/team/unblock", body="TeamRequest")
def block_team(accounts: Accounts, actor: str, body: Body) -> Any:
    """Block or unblock the keys of a team; for administrators."""
    return team_object(_block(accounts.teams, "team_id", actor, body))


@admin_route("/team/delete", body="DeleteTeamsRequest")
def delete_teams(accounts: Accounts, actor: str, body: Body) -> Any:
    """Delete teams and their keys; for administrators."""
    return accounts.teams.delete(values.names(body, "team_ids"), actor)


# -- the list of changes


@admin_route("/v1/audit", tag="slotproxy")
def list_changes(accounts: Accounts) -> Any:
    """Who changed which key, user or team; by `subject`, `before` and `limit`; for
    administrators."""
    limit = fields.count_of(request.args, "limit", 100, CHANGES_LISTED)
    before = request.args.get("before")
    number = fields.count_of(request.args, "before", 1, 999_999_999) if before else None
    entries = accounts.keys.entries(values.name(request.args, "subject") or "", number, limit)
    data = [
        {"object": "audit.entry", **asdict(entry), "at": values.shown_time(entry.at)}
        for entry in entries
    ]
    return {"object": "list", "data": data}
