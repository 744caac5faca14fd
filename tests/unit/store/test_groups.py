"""Users and teams in a database, and their effects on their keys."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from proxy.accounts.records import StoredKey, Team, User
from proxy.accounts.rights import Rights
from proxy.errors import BadRequest
from proxy.store.api_keys import ApiKeys, teams, users
from proxy.store.database import Database


def _key(number: int, **fields: object) -> StoredKey:
    return StoredKey(id=f"key_{number}", digest=f"d{number}", shown="", **fields)  # type: ignore[arg-type]


def test_rights_of_key_team_and_user_hold_together(database: Database) -> None:
    people, groups, keys = users(database), teams(database), ApiKeys(database)
    people.add(User(id="u", rights=Rights(models=("a*",), priority="low")), "ops")
    groups.add(Team(id="t", rights=Rights(models=("*b",), group="research")), "ops")
    keys.add(_key(1, user_id="u", team_id="t", rights=Rights(read_only=True)), "ops")
    key = keys.find("d1")
    assert key is not None
    assert [rights.models for rights in key.rights] == [(), ("*b",), ("a*",)]
    assert (key.priority, key.group, key.user, key.team) == ("low", "research", "u", "t")
    assert not key.admin


@pytest.mark.parametrize("kind", ["user", "team"])
def test_deleted_user_or_team_takes_its_keys_along(database: Database, kind: str) -> None:
    people, groups, keys = users(database), teams(database), ApiKeys(database)
    people.add(User(id="x"), "ops")
    groups.add(Team(id="x"), "ops")
    keys.add(_key(1, **{f"{kind}_id": "x"}), "ops")
    keys.add(_key(2), "ops")
    assert (people if kind == "user" else groups).delete(["x"], "ops") == 1
    assert [key.id for key in keys.listed({}, 0, 10)[1]] == ["key_2"]
    last = ApiKeys(database).entries("", None, 2)
    assert [(entry.kind, entry.action) for entry in last] == [(kind, "delete"), ("key", "delete")]


def test_user_of_a_new_key_is_made_and_its_team_must_exist(database: Database) -> None:
    people, keys = users(database), ApiKeys(database)
    keys.add(_key(1, user_id="carol"), "ops")
    assert people.read("carol").id == "carol"
    keys.add(_key(2, user_id="carol"), "ops")
    assert people.listed({}, 0, 10)[0] == 1
    with pytest.raises(BadRequest, match="no team 'none'"):
        keys.add(_key(3, team_id="none"), "ops")
    with pytest.raises(BadRequest, match="no team 'none'"):
        keys.change("key_1", lambda key: replace(key, team_id="none"), "ops", "update")


def test_ids_emails_and_team_aliases_are_unique(database: Database) -> None:
    people, groups = users(database), teams(database)
    people.add(User(id="a", email="a@b"), "ops")
    groups.add(Team(id="a", alias="A"), "ops")
    with pytest.raises(BadRequest, match="user_id 'a' is in use"):
        people.add(User(id="a"), "ops")
    with pytest.raises(BadRequest, match="user_email 'a@b' is in use"):
        people.add(User(id="b", email="a@b"), "ops")
    with pytest.raises(BadRequest, match="team_alias 'A' is in use"):
        groups.add(Team(id="b", alias="A"), "ops")
    people.add(User(id="b", alias="A"), "ops")
    people.add(User(id="c", alias="A"), "ops")
