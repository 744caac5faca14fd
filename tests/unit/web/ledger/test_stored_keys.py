"""Rows of requests with API keys that were made at run time: they have the key's user and team."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.store.ledger_rows import LedgerRow
from tests.fakes import ScriptedDriver, ledger_of, wait_until
from tests.unit.web.account_client import CHAT, Http, keyed


@pytest.fixture
def http(tmp_path: Path) -> Http:
    return keyed(ScriptedDriver(), tmp_path)


def rows(http: Http) -> list[LedgerRow]:
    return list(ledger_of(http.app).rows(0, 1 << 60))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/responses", {"input": "Hi", "background": True}),
        ("/api/chat", CHAT),
    ],
)
def test_row_has_user_and_team_of_the_key(http: Http, path: str, body: dict[str, Any]) -> None:
    team = http.admin("/team/new", team_alias="lab").json["team_id"]
    user = http.admin("/user/new", user_id="carol", auto_create_key=False).json["user_id"]
    made = http.make(user_id=user, team_id=team)
    answer = http.post(path, made["key"], **body)
    assert answer.status_code == 200, answer.text
    answer.close()
    wait_until(lambda: len(rows(http)) == 1)
    (row,) = rows(http)
    assert (row.key, row.user, row.team) == (made["key_id"], user, team)


def test_key_of_the_store_sees_its_own_usage(http: Http) -> None:
    made, other = http.make(), http.make()
    http.chat(made["key"])
    http.chat(other["key"])
    assert len(rows(http)) == 2
    assert http.get("/v1/usage", made["key"]).json["total"]["requests"] == 1
    assert http.get("/v1/usage", made["key"], scope="all").status_code == 403


def test_request_with_a_wrong_key_has_no_row(http: Http) -> None:
    assert http.chat("sk-wrong").status_code == 401
    assert rows(http) == []
