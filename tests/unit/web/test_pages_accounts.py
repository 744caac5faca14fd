"""The page of keys, users and teams: its calls, and who may make them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from proxy.accounts.limiting.budgets import Price
from tests.fakes import ScriptedDriver, ledger_of
from tests.unit.store.test_ledger import row
from tests.unit.web.account_client import Http, keyed
from tests.unit.web.test_pages_session import sign_in, token_of

API = "/pages/api/accounts"
HTML = {"Accept": "text/html"}


def _signed_in(http: Http, key: str) -> Any:
    """A browser's client that has signed in with this key, and its CSRF token."""
    client = http.app.test_client()
    assert sign_in(client, key).status_code == 303
    return client, {"X-CSRF-Token": token_of(client.get("/status", headers=HTML))}


def test_admin_makes_and_finds_keys_by_session(http: Http) -> None:
    client, token = _signed_in(http, "sk-ops")
    made = client.post(f"{API}/key/generate", json={"key_alias": "Laptop"}, headers=token)
    assert made.status_code == 200
    assert made.headers["Cache-Control"] == "no-store"
    assert http.chat(made.json["key"]).status_code == 200
    query = {"search": "lap", "return_full_object": "true"}
    keys = client.get(f"{API}/key/list", query_string=query).json["keys"]
    assert [key["key_alias"] for key in keys] == ["Laptop"]
    assert (keys[0]["created_by"], "key" in keys[0]) == ("ops", False)
    (entry,) = client.get(f"{API}/audit").json["data"]
    assert (entry["actor"], entry["action"]) == ("ops", "create")


def test_change_needs_the_token_of_the_page(http: Http) -> None:
    client, _ = _signed_in(http, "sk-ops")
    refused = client.post(f"{API}/key/generate", json={})
    assert (refused.status_code, refused.json["error"]["code"]) == (403, "csrf")


def test_other_keys_may_not_open_or_call_anything(http: Http) -> None:
    client, token = _signed_in(http, "sk-alice")
    assert client.get("/keys", headers=HTML).status_code == 403
    for rule in http.app.url_map.iter_rules():
        if rule.rule.startswith(API):
            method = "GET" if "GET" in (rule.methods or ()) else "POST"
            answer = client.open(rule.rule, method=method, json={}, headers=token)
            assert answer.status_code == 403, rule.rule
            anonymous = http.app.test_client().open(rule.rule, method=method, headers=token)
            assert anonymous.status_code in (401, 403), rule.rule


def test_page_is_linked_for_administrators_only(http: Http) -> None:
    for key, linked in (("sk-ops", True), ("sk-alice", False)):
        client, _ = _signed_in(http, key)
        assert ('href="/keys"' in client.get("/status", headers=HTML).text) is linked


@pytest.mark.parametrize("path", ["/key/list", "/user/list", "/v2/team/list"])
def test_search_finds_a_part_of_a_name_as_it_is(http: Http, path: str) -> None:
    for name in ("Research_A", "research%b", "other"):
        http.admin("/team/new", team_id=name)
        http.make(key_alias=name, user_id=f"of-{name}")

    def count(search: str) -> int:
        page = http.get(path, "sk-ops", search=search).json
        counted: int = page.get("total_count", page.get("total"))
        return counted

    assert [count(text) for text in ("", "RESEARCH", "h_", "h%", "none")] == [3, 2, 1, 1, 0]
    assert http.get(path, "sk-ops", search="x" * 300).status_code == 400


def test_list_of_keys_has_their_last_use_and_what_they_cost(tmp_path: Path) -> None:
    prices = (Price(model="m", prompt=1.0, completion=10.0),)
    http = keyed(ScriptedDriver(), tmp_path, price=prices)
    used, idle = http.make(key_alias="used"), http.make(key_alias="idle")
    now = int(1000 * time.time())
    hour = now - now % 3_600_000
    usual = {"key": used["key_id"], "prompt": 1000, "cached": 0, "completion": 1000}
    some = [row(ended=hour - 86_400_000, **usual), row(ended=hour, **usual)]
    some += [row(ended=hour - 1, model="free", **usual)]
    some += [row(ended=now - 100 * 86_400_000, **usual)]  # too long ago
    ledger_of(http.app).write("test", 1, some)
    client, _ = _signed_in(http, "sk-ops")
    listed = client.get(f"{API}/key/list", query_string={"return_full_object": "true"}).json
    by_name = {key["key_alias"]: key["used"] for key in listed["keys"]}
    assert by_name["used"]["last"] == hour / 1000
    assert (by_name["used"]["requests"], by_name["used"]["prompt_tokens"]) == (3, 3000)
    assert by_name["used"]["money"] == pytest.approx(0.022)
    assert (by_name["idle"]["last"], by_name["idle"]["requests"]) == (None, 0)
    short = client.get(f"{API}/key/list").json["keys"]
    assert short == [idle["token"], used["token"]]
    assert "used" not in http.get("/key/list", "sk-ops", return_full_object="true").json["keys"][0]
