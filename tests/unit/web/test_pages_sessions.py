"""The page of sign-in sessions: who sees and ends which."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.store.live import LONGEST_AGENT
from proxy.web.pages import session_routes
from tests.unit.web.account_client import Http
from tests.unit.web.test_pages_session import BROWSER, token_of

API = "/pages/api/sessions"


class Visitor:
    """A browser that has signed in with a key."""

    def __init__(self, http: Http, key: str, agent: str = "Firefox") -> None:
        self.client = http.app.test_client()
        csrf = token_of(self.client.get("/signin", headers=BROWSER))
        self.token = {"X-CSRF-Token": csrf}
        data = {"key": key, "csrf_token": csrf}
        self.client.post("/signin", data=data, headers={"User-Agent": agent})

    def listed(self, scope: str = "own") -> Any:
        answer = self.client.get(API, query_string={"scope": scope})
        assert answer.status_code == 200, answer.text
        return answer.json

    def end(self, session: Any) -> int:
        answer = self.client.post(f"{API}/end", json={"id": session}, headers=self.token)
        return answer.status_code

    @property
    def is_signed_in(self) -> bool:
        return bool(self.client.get("/pages/api/session").json["signed_in"])


def test_own_sessions_are_listed_and_ended(http: Http) -> None:
    first, second = Visitor(http, "sk-alice", "Chrome"), Visitor(http, "sk-alice")
    Visitor(http, "sk-ops")
    sessions = second.listed()
    assert [(session["agent"], session["current"]) for session in sessions] == [
        ("Firefox", True),
        ("Chrome", False),
    ]
    assert {session["name"] for session in sessions} == {"alice"}
    assert sessions[0]["address"] == "127.0.0.1"
    assert second.end(sessions[1]["id"]) == 204
    assert (first.is_signed_in, second.is_signed_in) == (False, True)
    assert second.end(sessions[1]["id"]) == 404


def test_only_administrators_see_and_end_sessions_of_other_keys(http: Http) -> None:
    admin, other = Visitor(http, "sk-ops"), Visitor(http, "sk-alice")
    assert other.client.get(API, query_string={"scope": "all"}).status_code == 403
    (own,) = admin.listed()
    assert other.end(own["id"]) == 404
    assert admin.is_signed_in
    assert [session["name"] for session in admin.listed("all")] == ["alice", "ops"]
    (theirs,) = other.listed()
    assert admin.end(theirs["id"]) == 204
    assert not other.is_signed_in


def test_ending_needs_the_token_and_an_id(http: Http) -> None:
    visitor = Visitor(http, "sk-alice")
    (own,) = visitor.listed()
    assert visitor.client.post(f"{API}/end", json={"id": own["id"]}).status_code == 403
    assert visitor.end(None) == visitor.end(7) == 400
    assert http.app.test_client().get(API).status_code == 401


def test_kept_text_and_list_of_sessions_are_bounded(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_routes, "MOST_LISTED", 2)
    visitors = [Visitor(http, "sk-alice", "x" * 1000) for _ in range(3)]
    sessions = visitors[0].listed()
    assert len(sessions) == 2
    assert sessions[0]["agent"] == "x" * LONGEST_AGENT
