"""Invitations: a key that waits for its person, who gets it once by a link."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.fakes import at_once
from tests.unit.web.account_client import Http
from tests.unit.web.test_pages_session import token_of

API = "/pages/api/invitation"
HTML = {"Accept": "text/html"}


def invited(http: Http, **body: Any) -> Any:
    made = http.admin("/key/invite", **body)
    assert made.status_code == 200, made.text
    return made.json


def visitor(http: Http) -> tuple[FlaskClient, dict[str, str]]:
    """A browser that has not signed in, and the token of the page."""
    client = http.app.test_client()
    page = client.get("/invitation", headers=HTML)
    assert page.status_code == 200
    return client, {"X-CSRF-Token": token_of(page)}


def accept(http: Http, token: object) -> Any:
    client, header = visitor(http)
    return client.post(API, json={"token": token}, headers=header)


def test_person_gets_the_key_once_with_its_rights(http: Http) -> None:
    http.admin("/team/new", team_id="lab")
    made = invited(http, key_alias="erin", user_id="erin", team_id="lab", rpm_limit=5)
    assert made["blocked"] is True and "key" not in made
    answer = accept(http, made["invitation"])
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    assert answer.json["name"] == "erin"
    assert http.chat(answer.json["key"]).status_code == 200
    info = http.get("/key/info", "sk-ops", key=made["key_id"]).json["info"]
    assert (info["user_id"], info["team_id"], info["rpm_limit"]) == ("erin", "lab", 5)
    assert (info["blocked"], info["metadata"]) == (False, {})
    again = accept(http, made["invitation"])
    assert again.status_code == 404
    assert "used or has expired" in again.json["error"]["message"]


def test_two_who_come_at_once_get_one_key(http: Http) -> None:
    token = invited(http)["invitation"]
    visitors = [visitor(http) for _ in range(4)]

    def come(number: int) -> int:
        client, header = visitors[number]
        return client.post(API, json={"token": token}, headers=header).status_code

    assert sorted(at_once(come, 4)) == [200, 404, 404, 404]


def test_invitation_expires(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    made = invited(http, invitation_duration="1h")
    now = time.time()
    assert made["metadata"]["slotproxy_invitation"] == pytest.approx(now + 3600, abs=60)
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    assert accept(http, made["invitation"]).status_code == 404


def test_token_is_no_key_even_if_its_key_is_unblocked(http: Http) -> None:
    made = invited(http)
    assert http.chat(made["invitation"]).status_code == 401
    http.admin("/key/unblock", key=made["key_id"])
    assert http.chat(made["invitation"]).status_code == 401


def test_key_accepts_no_invitation(http: Http) -> None:
    key = http.make(metadata={"slotproxy_invitation": time.time() + 3600})
    for token in (key["key"], key["token"]):
        assert accept(http, token).status_code == 404
    assert http.chat(key["key"]).status_code == 200
    assert accept(http, key["key_id"]).status_code == 404


@pytest.mark.parametrize("token", ["", None, 5, "inv-" + "a" * 43, "inv-", "x" * 20_000])
def test_wrong_tokens_are_refused(http: Http, token: object) -> None:
    invited(http)
    assert accept(http, token).status_code in (400, 404, 413)


def test_deleted_invitation_is_over(http: Http) -> None:
    made = invited(http)
    http.admin("/key/delete", keys=[made["key_id"]])
    assert accept(http, made["invitation"]).status_code == 404


def test_guesses_are_limited_as_wrong_keys_are(http: Http) -> None:
    token = invited(http)["invitation"]
    answers = [accept(http, f"inv-{n}").status_code for n in range(5)]
    assert answers[0] == 404 and answers[-1] == 429
    assert accept(http, token).status_code == 429


def test_invitation_must_end_and_only_administrators_invite(http: Http) -> None:
    assert http.admin("/key/invite", invitation_duration="-1").status_code == 400
    assert http.admin("/key/invite", unknown=1).status_code == 400
    assert http.post("/key/invite", "sk-alice").status_code == 403


def test_another_site_cannot_use_it_up(http: Http) -> None:
    token = invited(http)["invitation"]
    client = http.app.test_client()
    assert client.post(API, json={"token": token}).status_code == 403
    assert accept(http, token).status_code == 200


def test_changes_name_who_invited_and_nothing_secret(http: Http) -> None:
    made = invited(http, key_alias="erin")
    secret = accept(http, made["invitation"]).json["key"]
    accepted, invitation = http.get("/v1/audit", "sk-ops").json["data"]
    assert (invitation["actor"], invitation["action"]) == ("ops", "invite")
    assert (accepted["actor"], accepted["action"]) == ("invitation", "accept")
    assert invitation["subject"] == accepted["subject"] == made["key_id"]
    text = http.get("/v1/audit", "sk-ops").text
    assert secret not in text and made["invitation"] not in text


def test_token_is_stored_as_a_digest_alone(http: Http, tmp_path: Path) -> None:
    token = invited(http)["invitation"].removeprefix("inv-")
    assert len(token) == 43
    stored = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert stored and not any(token.encode() in data for data in stored)
