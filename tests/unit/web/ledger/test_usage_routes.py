"""GET /v1/usage, and its export."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient

from proxy.apis.usage import routes as usage
from proxy.config import ApiKey, Secret
from proxy.store.ledger import Ledger
from proxy.store.ledger_rows import LedgerRow
from tests.fakes import ScriptedDriver, ledger_of, make_app
from tests.unit.store.test_ledger import DAY, NOON, row

NIGHT = (NOON - NOON % DAY) // 1000  # seconds
KEYS = tuple(ApiKey(name, Secret(f"sk-{name}-0123456789")) for name in ("root", "ann"))
ADMIN, ANN = ({"Authorization": f"Bearer {key.secret}"} for key in KEYS)


class Api:
    def __init__(self, client: FlaskClient, ledger: Ledger) -> None:
        self.client = client
        self.ledger = ledger
        self._batch = 0

    def write(self, *rows: LedgerRow) -> None:
        self._batch += 1
        self.ledger.write("test", self._batch, rows)

    def get(self, path: str, headers: dict[str, str] = ADMIN, **query: Any) -> Any:
        return self.client.get(path, query_string=query, headers=headers)


@pytest.fixture
def api(tmp_path: Path) -> Api:
    settings = {"file_keys": KEYS, "admins": ("root",), "ledger_days": 36500}
    app = make_app(ScriptedDriver(), data=str(tmp_path), **settings)
    return Api(app.test_client(), ledger_of(app))


def test_own_usage_is_summed_by_day_and_model(api: Api) -> None:
    api.write(
        row(),
        row(model="n", outcome="queue_full"),
        row(ended=NOON + DAY, completion=7),
        row(key="root", completion=1000),
    )
    body = api.get("/v1/usage", ANN, start_time=NIGHT, end_time=NIGHT + 2 * 86400).json
    assert body["object"] == "usage"
    assert (body["start_time"], body["end_time"]) == (NIGHT, NIGHT + 2 * 86400)
    assert [(day["date"], day["model"], day["completion_tokens"]) for day in body["data"]] == [
        ("2022-01-08", "m", 5),
        ("2022-01-08", "n", 5),
        ("2022-01-09", "m", 7),
    ]
    total = body["total"]
    assert (total["requests"], total["failed"]) == (3, 1)
    assert (total["prompt_tokens"], total["cached_tokens"]) == (30, 12)
    assert (total["completion_tokens"], total["reasoning_tokens"]) == (17, 6)
    assert (total["slot_seconds"], total["saved_seconds"]) == (6.0, 0.375)


def test_admins_see_all_keys_and_others_only_their_own(api: Api) -> None:
    api.write(row(), row(key="root"))
    query: dict[str, Any] = {"start_time": NIGHT, "scope": "all", "group_by": "key"}
    data = api.get("/v1/usage", **query).json["data"]
    assert [(sums["key"], sums["key_name"]) for sums in data] == [("ann", "ann"), ("root", "root")]
    for path in ("/v1/usage", "/v1/usage/export"):
        assert api.get(path, ANN, scope="all").status_code == 403
    lines = api.get("/v1/usage/export", ANN, start_time=NIGHT, format="jsonl").data.splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["ann"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"start_time": "yesterday"}, "start_time"),
        ({"group_by": "secret"}, "group_by"),
        ({"group_by": ["model"] * 101}, "group_by"),
        ({"group_by": "m" * 257}, "group_by"),
        ({"scope": "some"}, "scope"),
    ],
)
def test_wrong_query_is_named(api: Api, query: dict[str, Any], param: str) -> None:
    answer = api.get("/v1/usage", **query)
    assert answer.status_code == 400
    assert answer.json["error"]["param"] == param


def test_unknown_format_is_refused(api: Api) -> None:
    answer = api.get("/v1/usage/export", format="trace")
    assert answer.status_code == 400
    assert "csv, jsonl" in answer.json["error"]["message"]


def test_number_of_sums_is_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.write(row(), row(model="n"))
    monkeypatch.setattr(usage, "MOST_GROUPS", 1)
    answer = api.get("/v1/usage", ANN, start_time=NIGHT)
    assert answer.status_code == 400
    assert "shorter time" in answer.json["error"]["message"]


def test_csv_has_a_line_for_each_request(api: Api) -> None:
    api.write(row(), row(client="=cmd()", outcome="cancelled", slot=-1))
    answer = api.get("/v1/usage/export", start_time=NIGHT, scope="all")
    assert answer.content_type == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="usage.csv"'
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert lines[0]["time"] == "2022-01-08T12:00:00.000+00:00"
    assert lines[0]["prompt_tokens"] == "10"
    assert lines[0]["slot_seconds"] == "2.0"
    assert (lines[0]["client"], lines[1]["client"]) == ("curl/8.0", "'=cmd()")
    assert lines[1]["slot"] == "-1"
    empty = api.get("/v1/usage/export", start_time=0, end_time=1).text.splitlines()
    assert len(empty) == 1


def test_json_lines_have_the_same_fields_as_csv(api: Api) -> None:
    api.write(row())
    (line,) = api.get("/v1/usage/export", ANN, start_time=NIGHT, format="jsonl").data.splitlines()
    fields = json.loads(line)
    head = api.get("/v1/usage/export", ANN, start_time=NIGHT).text.splitlines()[0]
    assert ",".join(fields) == head
    assert (fields["completion_tokens"], fields["outcome"]) == (5, "ok")
    assert fields["backend"].startswith("backend-")  # an alias, since ann is no admin


@pytest.mark.slow
def test_export_needs_memory_for_a_page_only(api: Api) -> None:
    for _ in range(20):
        api.write(*(row(request=f"{n}" * 20) for n in range(1000)))
    answer = api.get("/v1/usage/export", start_time=NIGHT, scope="all", format="jsonl")
    tracemalloc.start()
    try:
        count = sum(part.count(b"\n") for part in answer.iter_encoded())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        answer.close()
    assert count == 20_000
    assert peak < 8 << 20


def test_without_ledger_the_answer_says_what_to_set() -> None:
    client = make_app(ScriptedDriver()).test_client()
    paths = ("/v1/usage", "/v1/usage/export")
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 404
        assert "see --data, --ledger-days and the extra" in answer.get_json()["error"]["message"]


def test_request_appears_in_the_usage_of_its_key(api: Api) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    answer = api.client.post("/v1/chat/completions", json=body, headers=ANN).get_json()
    ledger_of(api.client.application)
    total = api.get("/v1/usage", ANN).json["total"]
    assert total["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    assert total["completion_tokens"] == answer["usage"]["completion_tokens"]
    assert msgspec.json.decode(api.get("/v1/usage").data)["total"]["requests"] == 0
