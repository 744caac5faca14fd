"""LiteLLM's routes for teams."""

from __future__ import annotations

from typing import Any

from flask import request

from ....accounts.records import Member, Team
from ....accounts.service import Accounts, blocking
from ....web.observability import Record
from ....web.services import Services
from ....web.spine import json_route
from .. import groups, values
from . import users
from .common import administered, blueprint, json_body, opened

MOST_LISTED = 10_000  # in a list, which LiteLLM does not divide into pages


@json_route(blueprint, "POST", "/team/new", body="NewTeamRequest")
def new_team(services: Services, record: Record) -> Any:
    """Make a team; for administrators."""
    accounts = administered(services, record)
    asked, members = groups.parse_new_team(json_body(services))
    team = accounts.teams.make(asked.edit(Team(id=asked.id)), record.key)
    if members:
        joining = [Member(team.id, user, role) for user, role in members]
        accounts.teams.store.join(joining, record.key)
    return _shown(accounts, team)


@json_route(blueprint, "GET", "/team/info", group="")
def team_info(services: Services, record: Record) -> Any:
    """A team with its keys; for others, the caller's without them."""
    name = values.name(request.args, "team_id") or record.team
    own = name and name == record.team
    accounts = opened(services) if own else administered(services, record)
    team = accounts.teams.store.read(name)
    _, owned = accounts.keys.listed({"team_id": team.id}, 0, 0 if own else users.MOST_LISTED)
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
        _, teams = accounts.teams.store.listed({}, 0, MOST_LISTED)
    return [_shown(accounts, team) for team in teams]


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
    return groups.page("teams", number, size, count, [_shown(accounts, team) for team in teams])


@json_route(blueprint, "POST", "/team/update", body="UpdateTeamRequest")
def update_team(services: Services, record: Record) -> Any:
    """Change a team; for administrators."""
    accounts = administered(services, record)
    asked = groups.parse_team_update(json_body(services))
    finish = asked.finish_running
    team = accounts.teams.change(asked.id, asked.edit, record.key, finish_running=finish)
    return {"team_id": team.id, "data": _shown(accounts, team)}


@json_route(blueprint, "POST", "/team/block", body="TeamRequest")
def block_team(services: Services, record: Record) -> Any:
    """Block the keys of a team; for administrators."""
    return _block(services, record, blocked=True)


@json_route(blueprint, "POST", "/team/unblock", body="TeamRequest")
def unblock_team(services: Services, record: Record) -> Any:
    """Unblock the keys of a team; for administrators."""
    return _block(services, record, blocked=False)


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
    team = _shown(accounts, store.read(members[0].team_id))
    return {**team, "updated_users": shown, "updated_team_memberships": []}


@json_route(blueprint, "POST", "/team/member_delete", body="RemoveMemberRequest")
def remove_member(services: Services, record: Record) -> Any:
    """Remove a member from a team; for administrators."""
    accounts = administered(services, record)
    team, user = groups.parse_leaving(json_body(services))
    accounts.teams.store.leave(team, user, record.key)
    return _shown(accounts, accounts.teams.store.read(team))


def _block(services: Services, record: Record, *, blocked: bool) -> Any:
    accounts = administered(services, record)
    name, finish = groups.parse_team(json_body(services))
    action = "block" if blocked else "unblock"
    team = accounts.teams.change(name, blocking(blocked), record.key, action, finish_running=finish)
    return _shown(accounts, team)


def _shown(accounts: Accounts, team: Team) -> dict[str, Any]:
    return groups.team_object(team, accounts.teams.store.members(team.id))
