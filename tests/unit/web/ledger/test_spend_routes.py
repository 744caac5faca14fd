"""LiteLLM's /spend/logs and /global/spend/report."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from proxy.accounts.limiting.budgets import Price
from proxy.apis.litellm import routes as litellm
from tests.fakes import ScriptedDriver, ledger_of
from tests.unit.store.test_ledger import row
from tests.unit.web.account_client import Http, keyed

NOON = int(1000 * datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp())
DAY = 86_400_000
DAYS = {"start_date": "2026-11-22", "end_date": "2026-11-23"}
KEPT = 36500  # days: rows of a fixed day are there, whatever day it is now


@pytest.fixture
def http(tmp_path: Path) -> Http:
    return keyed(ScriptedDriver(), tmp_path, ledger_days=KEPT)


@pytest.fixture
def filled(http: Http) -> Http:
    http.admin("/team/new", team_id="lab", team_alias="Laboratory")
    some = [
        row(ended=NOON, key="alice", user="a", team="", prompt=10, completion=1, request="one"),
        row(ended=NOON + 1, key="alice", user="a", team="", model="n", prompt=20, completion=2),
        row(ended=NOON - DAY, key="ops", user="b", team="lab", model="m", prompt=40, completion=4),
        row(ended=NOON - 2 * DAY, key="alice", model="m"),
        row(ended=NOON + DAY, key="alice", model="m"),
    ]
    ledger_of(http.app).write("test", 1, some)
    return http


def test_logs_of_days_are_sums_by_user_and_model(filled: Http) -> None:
    first, second = filled.get("/spend/logs", "sk-ops", **DAYS).json
    free = {"spend": 0.0, "models": {"m": 0.0}}
    assert first == {"startTime": "2026-11-22", **free, "users": {"b": 0.0}}
    models = {"m": 0.0, "n": 0.0}
    assert second == {"startTime": "2026-11-23", **free, "users": {"a": 0.0}, "models": models}


def test_logs_of_requests_have_their_tokens(filled: Http) -> None:
    found = filled.get("/spend/logs", "sk-ops", **DAYS, summarize="false").json
    assert [one["total_tokens"] for one in found] == [44, 11, 22]
    assert (found[0]["api_key"], found[0]["team_id"], found[0]["user"]) == ("ops", "lab", "b")
    assert found[0]["endTime"] == "2026-11-22T12:00:00.000Z"
    (one,) = filled.get("/spend/logs", "sk-ops", **DAYS, summarize="false", user_id="b").json
    assert one["prompt_tokens"] == 40
    query = {"summarize": "false", "request_id": "one"}
    (one,) = filled.get("/spend/logs", "sk-ops", **DAYS, **query).json
    assert (one["request_id"], one["total_tokens"]) == ("one", 11)


def test_others_than_administrators_see_their_own_requests(filled: Http) -> None:
    found = filled.get("/spend/logs", "sk-alice", **DAYS, summarize="false").json
    assert [one["api_key"] for one in found] == ["alice", "alice"]
    assert filled.get("/spend/logs", "sk-alice", **DAYS, api_key="ops").status_code == 403
    assert filled.get("/global/spend/report", "sk-alice", **DAYS).status_code == 403


def test_report_is_by_day_and_team_or_by_key(filled: Http) -> None:
    first, second = filled.get("/global/spend/report", "sk-ops", **DAYS).json
    assert first["group_by_day"] == "2026-11-22T00:00:00+00:00"
    (team,) = first["teams"]
    assert team["team_name"] == "Laboratory"
    assert team["metadata"] == [{"model": "m", "api_key": "ops", "spend": 0.0, "total_tokens": 44}]
    assert [one["team_name"] for one in second["teams"]] == ["Unassigned Team"]
    found = filled.get("/global/spend/report", "sk-ops", **DAYS, group_by="api_key").json
    assert [(one["api_key"], one["total_input_tokens"]) for one in found] == [
        ("ops", 40),
        ("alice", 30),
    ]
    assert [one["model"] for one in found[1]["model_details"]] == ["m", "n"]
    only = filled.get("/global/spend/report", "sk-ops", **DAYS, internal_user_id="a").json
    assert [one["api_key"] for one in only] == ["alice"]


def test_key_may_be_named_by_secret_or_digest(http: Http) -> None:
    made = http.make()
    ledger_of(http.app).write("test", 1, [row(ended=NOON, key=made["key_id"])])
    for name in (made["key"], made["token"], made["key_id"]):
        query = {**DAYS, "api_key": name, "summarize": "false"}
        (one,) = http.get("/spend/logs", "sk-ops", **query).json
        assert one["api_key"] == made["key_id"]
        (key,) = http.get("/global/spend/report", "sk-ops", **DAYS, api_key=name).json
        assert key["api_key"] == made["key_id"]


def test_spend_is_money_by_the_prices_of_models(tmp_path: Path) -> None:
    prices = (Price(model="m", prompt=1000.0, cached=0.0, completion=5000.0),)
    http = keyed(ScriptedDriver(), tmp_path, ledger_days=KEPT, price=prices)
    some = [
        row(ended=NOON, key="alice", prompt=1000, cached=400, completion=100),
        row(ended=NOON, key="alice", model="free", prompt=1000),
    ]
    ledger_of(http.app).write("test", 1, some)
    (day,) = http.get("/spend/logs", "sk-ops", **DAYS).json
    assert (day["spend"], day["models"]) == (1.1, {"m": 1.1, "free": 0.0})
    found = http.get("/spend/logs", "sk-ops", **DAYS, summarize="false").json
    assert [one["spend"] for one in found] == [1.1, 0.0]
    (key,) = http.get("/global/spend/report", "sk-ops", **DAYS, group_by="api_key").json
    assert key["total_cost"] == 1.1


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/spend/logs", {"start_date": "2026-11-23"}),
        ("/spend/logs", {"start_date": "x", "end_date": "2026-11-23"}),
        ("/spend/logs", {"start_date": "2026-11-23", "end_date": "9999-12-31"}),
        ("/global/spend/report", {"start_date": "2026-11-23", "end_date": "9999-12-31"}),
        ("/spend/logs", {**DAYS, "summarize": "perhaps"}),
        ("/global/spend/report", {}),
        ("/global/spend/report", {"start_date": "2026-11-23", "end_date": "2026-11-22"}),
        ("/global/spend/report", {**DAYS, "group_by": "customer"}),
    ],
    ids=str,
)
def test_wrong_query_is_named(http: Http, path: str, query: dict[str, Any]) -> None:
    answer = http.get(path, "sk-ops", **query)
    assert answer.status_code == 400
    assert answer.json["error"]["param"] in ("start_date", "end_date", "summarize", "group_by")


def test_number_of_requests_in_an_answer_is_bounded(
    filled: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "MOST_LOGS", 2)
    refused = filled.get("/spend/logs", "sk-ops", **DAYS, summarize="false")
    assert refused.status_code == 400
    assert "fewer days" in refused.json["error"]["message"]
