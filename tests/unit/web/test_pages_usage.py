"""The usage page: the data of its script, and the rights of keys."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from proxy.accounts.limiting.budgets import Price
from proxy.web.pages import usage
from tests.fakes import ScriptedDriver, ledger_of, make_app
from tests.unit.store.test_ledger import row
from tests.unit.web.ledger.test_usage_routes import ADMIN, ANN, KEYS

API = "/pages/api/usage"


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    app = make_app(ScriptedDriver(), data=str(tmp_path), file_keys=KEYS, admins=("root",))
    now = int(1000 * time.time())
    some = [row(ended=now), row(ended=now, model="n", completion=500)]
    some.append(row(ended=now - 3 * 86_400_000, key="root", completion=1000))
    ledger_of(app).write("test", 1, some)
    return app


def sums(app: Flask, headers: dict[str, str], **query: Any) -> Any:
    answer = app.test_client().get(API, query_string=query, headers=headers)
    assert answer.status_code == 200, answer.get_json()
    return answer.get_json()


def test_own_sums_are_by_day_and_model_with_the_largest_first(app: Flask) -> None:
    spent = sums(app, ANN, days=7)
    assert spent["total"]["requests"] == 2
    assert [model["model"] for model in spent["models"]] == ["n", "m"]
    today = spent["begin"] + 6 * 86400
    assert [(day["at"], day["requests"]) for day in spent["by_day"]] == [(today, 2)]
    assert [(r["at"], r["model"]) for r in spent["by_model"]] == [(today, "m"), (today, "n")]
    assert spent["keys"] == []


def test_admins_see_the_keys_with_most_tokens(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    spent = sums(app, ADMIN, scope="all")
    assert [(key["name"], key["requests"]) for key in spent["keys"]] == [("root", 1), ("ann", 2)]
    assert spent["total"]["requests"] == 3
    monkeypatch.setattr(usage, "MOST_SHOWN", 1)
    assert len(sums(app, ADMIN, scope="all")["keys"]) == 1


def test_others_may_not_see_all_keys(app: Flask) -> None:
    answer = app.test_client().get(API, query_string={"scope": "all"}, headers=ANN)
    assert answer.status_code == 403


@pytest.mark.parametrize("days", ["0", "367", "x"])
def test_number_of_days_is_bounded(app: Flask, days: str) -> None:
    answer = app.test_client().get(API, query_string={"days": days}, headers=ANN)
    assert answer.status_code == 400


def test_own_usage_is_told_with_what_is_left_of_the_limits(app: Flask) -> None:
    client = app.test_client()
    limits = {"rpm_limit": 2, "limits": {"tokens": {"day": 1000}}, "max_budget": 2}
    made = client.post("/key/generate", json=limits, headers=ADMIN).json
    own = {"Authorization": f"Bearer {made['key']}"}
    body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
    assert client.post("/v1/chat/completions", json=body, headers=own).status_code == 200
    requests, tokens, money = sums(app, own)["limits"]
    assert (money["quantity"], money["most"], money["is_budget"]) == ("money", 2.0, True)
    assert (requests["quantity"], requests["used"], requests["most"]) == ("requests", 1, 2)
    assert (tokens["period"], tokens["most"], tokens["level"]) == ("day", 1000, "key")
    assert 0 < tokens["used"] < 1000
    assert sums(app, own)["limits"][0]["used"] == 1
    assert sums(app, ADMIN)["limits"] == sums(app, ADMIN, scope="all")["limits"] == []


PRICES = (
    Price(model="m", prompt=10.0, cached=1.0, completion=100.0),
    Price(model="n", prompt=0.0, completion=1000.0),
)


@pytest.fixture
def priced(tmp_path: Path) -> Flask:
    """Two models with a price and one without, today and three days ago."""
    app = make_app(
        ScriptedDriver(), data=str(tmp_path), file_keys=KEYS, admins=("root",), price=PRICES
    )
    now = int(1000 * time.time())
    usual = {"prompt": 1000, "cached": 0, "completion": 1000}
    some = [row(ended=now, **usual), row(ended=now, model="n", **usual)]
    some += [row(ended=now, model="free", **usual)]
    some += [row(ended=now - 3 * 86_400_000, key="root", **usual)]
    ledger_of(app).write("test", 1, some)
    return app


def test_money_is_what_the_prices_say_by_day_model_and_key(priced: Flask) -> None:
    spent = sums(priced, ADMIN, scope="all", days=7)
    assert spent["total"]["money"] == pytest.approx(0.11 + 1.0 + 0.11)
    assert [each["money"] for each in spent["by_day"]] == pytest.approx([0.11, 1.11])
    assert {each["model"]: each["money"] for each in spent["models"]} == pytest.approx(
        {"m": 0.22, "n": 1.0, "free": 0.0}
    )
    assert {each["name"]: each["money"] for each in spent["keys"]} == pytest.approx(
        {"ann": 1.11, "root": 0.11}
    )


def test_money_of_people_is_that_of_their_models(priced: Flask) -> None:
    eves = row(ended=int(1000 * time.time()), user="eve", prompt=1000, cached=0, completion=0)
    ledger_of(priced).write("test", 2, [eves])
    money = {group["user"]: group["money"] for group in sums(priced, ANN, days=7)["users"]}
    assert money == pytest.approx({"u": 1.11, "eve": 0.01})


def test_own_money_is_that_of_the_key_alone(priced: Flask) -> None:
    spent = sums(priced, ANN, days=7)
    assert spent["total"]["money"] == pytest.approx(1.11)
    assert "money" not in sums(priced, ANN, days=7)["by_model"][0]  # they plot tokens


def test_without_prices_there_is_no_money(app: Flask) -> None:
    spent = sums(app, ADMIN, scope="all")
    assert "money" not in spent["total"] and "money" not in spent["keys"][0]
    page = app.test_client().get("/usage", headers=ADMIN).text
    assert 'data-priced="false"' in page and "Cost" not in page


def test_page_opens_on_all_keys_for_an_admin(priced: Flask) -> None:
    page = priced.test_client().get("/usage", headers=ADMIN).text
    assert '<option value="all" selected>' in page and "Cost" in page
    assert 'name="scope"' not in priced.test_client().get("/usage", headers=ANN).text


def test_export_is_that_of_the_api(priced: Flask) -> None:
    client, path = priced.test_client(), f"{API}/export"
    assert client.get(path).status_code == 401
    assert len(client.get(path, headers=ANN).text.splitlines()) == 4
    assert len(client.get(f"{path}?scope=all", headers=ADMIN).text.splitlines()) == 5
    assert client.get(f"{path}?scope=all", headers=ANN).status_code == 403


def test_people_are_shown_if_there_are_several(app: Flask) -> None:
    assert sums(app, ANN)["users"] == []
    rows = [row(ended=int(1000 * time.time()), user=user) for user in ("eve", "eve", "bob")]
    ledger_of(app).write("test", 2, rows)
    shown = [(group["user"], group["requests"]) for group in sums(app, ANN)["users"]]
    assert sorted(shown) == [("bob", 1), ("eve", 2), ("u", 2)]
