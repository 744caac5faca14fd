"""LiteLLM's routes for keys, users, teams and what they used, and the list of changes, our own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from flask import request
from msgspec import structs
from msgspec.structs import replace

from ...accounts import key_cache
from ...accounts.limiting.budgets import Price, Used, cost, price_of
from ...accounts.records import Member, StoredKey, Team, User
from ...accounts.service import Accounts, blocking
from ...errors import BadRequest, NotFound
from ...store.ledger_rows import LedgerGroup, LedgerRow, LedgerSums
from ...web import body, permissions
from ...web.observability import Record
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import json_route
from ..usage import routes as usage
from . import groups, keys, schemas, spend, values
from .keys import changes_list, parse_changes

blueprint = Api(
    "accounts",
    __name__,
    group="admin",
    tag="LiteLLM",
    schemas=schemas.BODIES,
)


def opened(services: Services) -> Accounts:
    """Raises NotFound if the gateway keeps no keys."""
    if services.accounts is None:
        raise NotFound(
            "this gateway keeps no API keys in its store: start it with API keys, --admins, and the"
            " extra slotproxy[knowledge]"
        )
    return services.accounts


def administered(services: Services, record: Record) -> Accounts:
    """The accounts, for an administrator. Raises Forbidden and NotFound."""
    permissions.check_admin(services, record.key)
    return opened(services)


def json_body(services: Services) -> dict[str, Any]:
    return body.read_json(request.environ, services.settings.max_body)


NEW = StoredKey(id="", digest="", shown="")


@json_route(blueprint, "POST", "/key/generate", body="GenerateKeyRequest")
def generate_key(services: Services, record: Record) -> Any:
    """Make an API key; for administrators."""
    accounts = administered(services, record).keys
    asked = keys.parse_new(json_body(services))
    return keys.made(*accounts.make(asked.edit(NEW, time.time()), record.key))


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
    return {"key": name, "info": keys.key_object(accounts.keys.read(name))}


@json_route(blueprint, "GET", "/key/list")
def list_keys(services: Services, record: Record) -> Any:
    """The API keys in the store; for administrators."""
    accounts = administered(services, record).keys
    page = keys.parse_list(request.args)
    offset = (page.number - 1) * page.size
    count, found = accounts.listed(page.wanted, offset, page.size, search=page.search)
    return keys.listed(page, count, found)


@json_route(blueprint, "POST", "/key/update", body="UpdateKeyRequest")
def update_key(services: Services, record: Record) -> Any:
    """Change an API key; for administrators."""
    accounts = administered(services, record).keys
    name, asked = keys.parse_update(json_body(services))
    edit, finish = partial(asked.edit, now=time.time()), asked.finish_running
    key = accounts.change(name, edit, record.key, finish_running=finish)
    return {"key": name, **keys.key_object(key)}


@json_route(blueprint, "POST", "/key/regenerate", body="RegenerateKeyRequest")
def regenerate_key(services: Services, record: Record) -> Any:
    """A new secret for an API key; for administrators.

    The key keeps its id and data."""
    return _regenerate(services, record)


@json_route(blueprint, "POST", "/key/<name>/regenerate", body="RegenerateNamedKey")
def regenerate_named(services: Services, record: Record, name: str) -> Any:
    """The same, with the key in the path."""
    return _regenerate(services, record, name)


def _regenerate(services: Services, record: Record, key: str | None = None) -> Any:
    accounts = administered(services, record).keys
    name, asked, grace = keys.parse_regenerate(json_body(services), key)
    edit = partial(asked.edit, now=time.time())
    secret, made = accounts.regenerate(name, edit, grace, record.key)
    # A session has only the key's id, so it would outlast the secret that began it.
    if services.sessions is not None:
        services.sessions.end_all(made.id)
    return keys.made(secret, made)


@json_route(blueprint, "POST", "/key/block", body="BlockKeyRequest")
def block_key(services: Services, record: Record) -> Any:
    """Block an API key; for administrators."""
    return _block_key(services, record, blocked=True)


@json_route(blueprint, "POST", "/key/unblock", body="BlockKeyRequest")
def unblock_key(services: Services, record: Record) -> Any:
    """Unblock an API key; for administrators."""
    return _block_key(services, record, blocked=False)


def _block_key(services: Services, record: Record, *, blocked: bool) -> Any:
    accounts = administered(services, record).keys
    name, finish = keys.parse_key(json_body(services))
    action = "block" if blocked else "unblock"
    return keys.key_object(
        accounts.change(name, blocking(blocked), record.key, action, finish_running=finish)
    )


@json_route(blueprint, "POST", "/key/delete", body="DeleteKeysRequest")
def delete_keys(services: Services, record: Record) -> Any:
    """Delete API keys; for administrators.

    All of the named keys, or none if one of them is missing."""
    accounts = administered(services, record).keys
    names, aliases, finish = keys.parse_delete(json_body(services))
    gone = accounts.delete(names, aliases, record.key, finish_running=finish)
    return {"deleted_keys": gone}


KEYS_LISTED = 1000  # keys of a user or team that its description has


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
    accounts, user = _asked_user(services, record)
    memberships = accounts.users.store.members(user.id)
    teams = [accounts.teams.store.read(one.team_id) for one in memberships]
    _, owned = accounts.keys.listed({"user_id": user.id}, 0, KEYS_LISTED)
    return groups.user_info(user, memberships, teams, owned)


@json_route(blueprint, "GET", "/v2/user/info", group="")
def user_alone(services: Services, record: Record) -> Any:
    """A user; without `user_id`, the caller's."""
    accounts, user = _asked_user(services, record)
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


def _asked_user(services: Services, record: Record) -> tuple[Accounts, User]:
    """Raises NotFound and Forbidden."""
    name = request.args.get("user_id", "")
    if name and name != record.user:
        accounts = administered(services, record)
    else:
        accounts, name = opened(services), record.user
    if not name:
        raise NotFound("the API key has no user: name one by user_id", param="user_id")
    return accounts, accounts.users.store.read(name)


TEAMS_LISTED = 10_000  # in a list, which LiteLLM does not divide into pages


@json_route(blueprint, "POST", "/team/new", body="NewTeamRequest")
def new_team(services: Services, record: Record) -> Any:
    """Make a team; for administrators."""
    accounts = administered(services, record)
    asked, members = groups.parse_new_team(json_body(services))
    team = accounts.teams.make(asked.edit(Team(id=asked.id)), record.key)
    if members:
        joining = [Member(team.id, user, role) for user, role in members]
        accounts.teams.store.join(joining, record.key)
    return _team_object(accounts, team)


@json_route(blueprint, "GET", "/team/info", group="")
def team_info(services: Services, record: Record) -> Any:
    """A team with its keys; for others, the caller's without them."""
    name = values.name(request.args, "team_id") or record.team
    own = name and name == record.team
    accounts = opened(services) if own else administered(services, record)
    team = accounts.teams.store.read(name)
    _, owned = accounts.keys.listed({"team_id": team.id}, 0, 0 if own else KEYS_LISTED)
    return groups.team_info(team, accounts.teams.store.members(team.id), owned)


@json_route(blueprint, "GET", "/team/list")
def list_teams(services: Services, record: Record) -> Any:
    """The teams; for administrators."""
    accounts = administered(services, record)
    user = values.name(request.args, "user_id")
    if user:
        memberships = accounts.users.store.members(user)
        teams = [accounts.teams.store.read(one.team_id) for one in memberships]
    else:
        _, teams = accounts.teams.store.listed({}, 0, TEAMS_LISTED)
    return [_team_object(accounts, team) for team in teams]


@json_route(blueprint, "GET", "/v2/team/list")
def teams_page(services: Services, record: Record) -> Any:
    """The teams, page by page; for administrators."""
    accounts = administered(services, record)
    number, size = values.page(request.args, "page_size", 10, groups.MOST_LISTED)
    wanted = {"id": values.name(request.args, "team_id")}
    wanted["alias"] = values.name(request.args, "team_alias")
    count, teams = accounts.teams.store.listed(
        {name: one for name, one in wanted.items() if one},
        (number - 1) * size,
        size,
        search=values.name(request.args, "search") or "",
    )
    return groups.page(
        "teams", number, size, count, [_team_object(accounts, team) for team in teams]
    )


@json_route(blueprint, "POST", "/team/update", body="UpdateTeamRequest")
def update_team(services: Services, record: Record) -> Any:
    """Change a team; for administrators."""
    accounts = administered(services, record)
    asked = groups.parse_team_update(json_body(services))
    finish = asked.finish_running
    team = accounts.teams.change(asked.id, asked.edit, record.key, finish_running=finish)
    return {"team_id": team.id, "data": _team_object(accounts, team)}


@json_route(blueprint, "POST", "/team/block", body="TeamRequest")
def block_team(services: Services, record: Record) -> Any:
    """Block the keys of a team; for administrators."""
    return _block_team(services, record, blocked=True)


@json_route(blueprint, "POST", "/team/unblock", body="TeamRequest")
def unblock_team(services: Services, record: Record) -> Any:
    """Unblock the keys of a team; for administrators."""
    return _block_team(services, record, blocked=False)


@json_route(blueprint, "POST", "/team/delete", body="DeleteTeamsRequest")
def delete_teams(services: Services, record: Record) -> Any:
    """Delete teams and their keys; for administrators.

    All of the named teams and their keys, or none if one of them is missing."""
    accounts = administered(services, record)
    names, finish = groups.parse_delete(json_body(services), "team_ids")
    return accounts.teams.delete(names, record.key, finish_running=finish)


@json_route(blueprint, "POST", "/team/member_add", body="AddMembersRequest")
def add_members(services: Services, record: Record) -> Any:
    """Add members to a team; for administrators."""
    accounts = administered(services, record)
    members = groups.parse_members(json_body(services))
    store = accounts.teams.store
    store.join(members, record.key)
    users = [accounts.users.store.read(one.user_id) for one in members]
    shown = [groups.user_object(one, accounts.users.store.members(one.id)) for one in users]
    team = _team_object(accounts, store.read(members[0].team_id))
    return {**team, "updated_users": shown, "updated_team_memberships": []}


@json_route(blueprint, "POST", "/team/member_delete", body="RemoveMemberRequest")
def remove_member(services: Services, record: Record) -> Any:
    """Remove a member from a team; for administrators."""
    accounts = administered(services, record)
    team, user = groups.parse_leaving(json_body(services))
    accounts.teams.store.leave(team, user, record.key)
    return _team_object(accounts, accounts.teams.store.read(team))


def _block_team(services: Services, record: Record, *, blocked: bool) -> Any:
    accounts = administered(services, record)
    name, finish = groups.parse_team(json_body(services))
    action = "block" if blocked else "unblock"
    team = accounts.teams.change(name, blocking(blocked), record.key, action, finish_running=finish)
    return _team_object(accounts, team)


def _team_object(accounts: Accounts, team: Team) -> dict[str, Any]:
    return groups.team_object(team, accounts.teams.store.members(team.id))


# What was used, from the ledger. Administrators see all keys, others their own.
MOST_LOGS = 1000  # requests of an answer

Only = Mapping[str, Sequence[str]]


@json_route(blueprint, "GET", "/spend/logs", group="")
def spend_logs(services: Services, record: Record) -> Any:
    """What was used by day, or the requests; for others than administrators, the caller's."""
    asked = spend.parse_logs(request.args, time.time())
    only = _visible(services, record, asked.only)
    ledger = usage.opened(services)
    if asked.summed:
        return spend.by_day(_groups(services, asked.begin, asked.end, ("user", "model"), only))
    if asked.request:
        only = {**only, "request": (asked.request,)}
    found = list(islice(ledger.rows(asked.begin, asked.end, only), MOST_LOGS + 1))
    if len(found) > MOST_LOGS:
        raise BadRequest(f"these are more than {MOST_LOGS} requests: ask for fewer days, or a key")
    price = _pricing(services)
    return [
        spend.log(_of_row(row, price(row.model)), row.request, row.ended, row.api, row.outcome)
        for row in found
    ]


@json_route(blueprint, "GET", "/global/spend/report")
def spend_report(services: Services, record: Record) -> Any:
    """What teams or keys used; for administrators."""
    permissions.check_admin(services, record.key)
    asked = spend.parse_report(request.args)
    only = {name: (_id_of_key(services, value),) for name, value in asked.only.items()}
    names = ("key", "team", "model")
    if asked.by == "api_key":
        return spend.by_key(_groups(services, asked.begin, asked.end, names, only))
    used = _groups(services, asked.begin, asked.end, names, only)
    return spend.by_team(used, lambda team: _team_alias(services, team))


def _visible(services: Services, record: Record, asked: Mapping[str, str]) -> Only:
    """The filter of rows: those of the caller's key, unless it administers. Raises Forbidden."""
    only = {name: (_id_of_key(services, value),) for name, value in asked.items()}
    if permissions.is_admin(services, record.key):
        return only
    if only.get("key", (record.key,)) != (record.key,):
        permissions.check_admin(services, record.key)
    return {**only, "key": (record.key,)}


def _id_of_key(services: Services, value: str) -> str:
    """The id of a key that is given as LiteLLM's clients do: by its secret, digest or id. Other
    values stay."""
    is_key = value.startswith(key_cache.SECRET_PREFIX) or len(value) == key_cache.DIGEST
    if services.accounts is None or not is_key:
        return value
    try:
        return services.accounts.keys.read(value).id
    except NotFound:
        return value


def _groups(
    services: Services, begin: int, end: int, names: Sequence[str], only: Only
) -> list[spend.Used]:
    found = usage.groups(
        usage.opened(services), begin, end, width=spend.DAY, by=tuple(names), only=only
    )
    price = _pricing(services)
    return [_of_group(one, price(one.names["model"])) for one in found]


def _pricing(services: Services) -> Callable[[str], Price]:
    """What the tokens of a model cost."""
    prices = [Price(**structs.asdict(one)) for one in services.settings.price]
    return lambda model: price_of(prices, model)


def _of_group(group: LedgerGroup, price: Price) -> spend.Used:
    names: Mapping[str, Any] = group.names
    sums = group.sums
    return spend.Used(
        at=group.begin,
        **names,
        prompt=sums.prompt,
        completion=sums.completion,
        money=_money(sums, price),
    )


def _of_row(row: LedgerRow, price: Price) -> spend.Used:
    return spend.Used(
        at=row.ended - round(1000 * row.seconds),
        key=row.key,
        user=row.user,
        team=row.team,
        model=row.model,
        prompt=row.prompt,
        completion=row.completion,
        money=_money(row, price),
    )


def _money(counts: LedgerSums | LedgerRow, price: Price) -> float:
    used = Used(counts.prompt, counts.cached, counts.completion, counts.slot_seconds)
    return cost("money", used, price)


def _team_alias(services: Services, team: str) -> str:
    """The name of a team for people."""
    if services.accounts is None:
        return team
    try:
        return services.accounts.teams.store.read(team).alias or team
    except NotFound:
        return team  # deleted since


@json_route(blueprint, "GET", "/v1/audit", tag="slotproxy")
def list_changes(services: Services, record: Record) -> Any:
    """Who changed which key, user or team; by `subject`, `before` and `limit`; for
    administrators."""
    accounts = administered(services, record).keys
    page = parse_changes(request.args)
    return changes_list(accounts.entries(page.subject, page.before, page.limit))
