"""LiteLLM's routes for users and teams."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.web.account_client import Http


def _make_team(http: Http, **fields: Any) -> Any:
    made = http.admin("/team/new", **fields)
    assert made.status_code == 200, made.text
    return made.json


def test_user_gets_a_key_with_its_bounds(http: Http) -> None:
    made = http.admin("/user/new", user_id="carol", user_email="c@d", models=["other"]).json
    assert (made["user_id"], made["user_email"], made["models"]) == ("carol", "c@d", ["other"])
    assert http.chat(made["key"]).status_code == 403
    changed = http.admin("/user/update", user_id="carol", models=["scr*"]).json
    assert changed["data"]["models"] == ["scr*"]
    assert http.chat(made["key"]).status_code == 200
    info = http.get("/user/info", "sk-ops", user_id="carol").json
    assert [key["key_id"] for key in info["keys"]] == [made["key_id"]]
    assert info["user_info"]["user_email"] == "c@d"
    own = http.get("/user/info", made["key"]).json
    assert own["user_id"] == "carol"
    assert http.get("/user/info", made["key"], user_id="dave").status_code == 403
    listed = http.get("/user/list", "sk-ops").json
    assert ([user["user_id"] for user in listed["users"]], listed["total"]) == (["carol"], 1)
    assert http.admin("/user/delete", user_ids=["carol"]).json == 1
    assert http.chat(made["key"]).status_code == 401


def test_user_without_key(http: Http) -> None:
    made = http.admin("/user/new", auto_create_key=False, user_role="internal_user_viewer").json
    assert "key" not in made
    assert made["user_role"] == "internal_user_viewer"
    key = http.make(user_id=made["user_id"])["key"]
    assert http.chat(key).status_code == 403
    assert http.get("/v1/models", key).status_code == 200


def test_user_is_not_made_when_the_alias_of_its_key_is_in_use(http: Http) -> None:
    http.make(key_alias="laptop")
    refused = http.admin("/user/new", user_id="carol", key_alias="laptop")
    assert (refused.status_code, refused.json["error"]["param"]) == (400, "key_alias")
    assert http.get("/user/list", "sk-ops").json["total"] == 0
    made = http.admin("/user/new", user_id="carol", key_alias="desk")
    assert (made.status_code, made.json["key_alias"]) == (200, "desk")


def test_team_bounds_its_keys(http: Http) -> None:
    team = _make_team(http, team_alias="Research", models=["other"])
    assert team["models"] == ["other"]
    key = http.make(team_id=team["team_id"], models=["scripted"])["key"]
    assert http.chat(key).status_code == 403
    http.admin("/team/update", team_id=team["team_id"], models=[])
    assert http.chat(key).status_code == 200
    for path, status in (("/team/block", 401), ("/team/unblock", 200)):
        assert http.admin(path, team_id=team["team_id"]).status_code == 200
        assert http.chat(key).status_code == status
    own = http.get("/team/info", key).json
    assert (own["team_info"]["team_alias"], own["keys"]) == ("Research", [])
    info = http.get("/team/info", "sk-ops", team_id=team["team_id"]).json
    assert len(info["keys"]) == 1
    assert http.admin("/team/delete", team_ids=[team["team_id"]]).json == 1
    assert http.chat(key).status_code == 401


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/user/new", {"model_max_budget": {"m": 1}}, "model_max_budget"),
        ("/user/new", {"user_role": "proxy_admin"}, "user_role"),
        ("/user/new", {"teams": ["none"]}, "teams"),
        ("/user/update", {}, "user_id"),
        ("/user/delete", {}, "user_ids"),
        ("/team/new", {"tpm_limit": "1"}, "tpm_limit"),
        ("/team/new", {"admin": True}, "admin"),
        ("/team/new", {"members_with_roles": [{"user_id": "a"}]}, "members_with_roles"),
        ("/team/update", {"models": []}, "team_id"),
        ("/key/generate", {"team_id": "none"}, "team_id"),
    ],
)
def test_wrong_requests_are_refused_by_name(
    http: Http, path: str, body: dict[str, Any], param: str
) -> None:
    refused = http.admin(path, **body)
    assert refused.status_code == 400, refused.text
    assert refused.json["error"]["param"] == param
    assert http.get("/user/list", "sk-ops").json["total"] == 0
