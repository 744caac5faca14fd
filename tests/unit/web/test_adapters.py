"""LoRA adapters as models: their names in lists, and the task that a backend gets."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient

from proxy.core.adapters import Adapter
from proxy.core.task import Task
from tests.fakes import CAPS, ScriptedDriver, make_app, make_own_app

NAMES = ["scripted", "scripted:poet", "scripted:pirate"]
POET, PIRATE = [{"id": 0, "scale": 1.0}], [{"id": 1, "scale": 1.0}]
SERVERS = (Adapter(0, "poet", 0.0), Adapter(1, "pirate", 0.0))
WITH = msgspec.structs.replace(CAPS, slots=1, modern_sampling=True, adapters=SERVERS)
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "U"}]},
    "/v1/completions": {"prompt": "p"},
    "/v1/responses": {"input": "U"},
    "/v1/messages": {"messages": [{"role": "user", "content": "U"}], "max_tokens": 9},
    "/completion": {"prompt": "p", "n_predict": 9},
    "/api/chat": {"messages": [{"role": "user", "content": "U"}], "stream": False},
    "/api/generate": {"prompt": "p", "stream": False},
}


class House:
    def __init__(self, **settings: Any) -> None:
        self.driver = ScriptedDriver(caps=WITH)
        make = make_own_app if settings else make_app
        self.http: FlaskClient = make(self.driver, **settings).test_client()

    def task(self, path: str, **fields: Any) -> Task:
        answer = self.http.post(path, json={**PATHS[path], **fields})
        assert answer.status_code == 200, answer.text
        return self.driver.tasks[-1]


@pytest.mark.parametrize("path", PATHS)
def test_the_name_of_an_adapter_means_its_model_with_it(path: str) -> None:
    house = House()
    assert house.task(path, model="scripted:pirate").sampling["lora"] == PIRATE
    assert "lora" not in house.task(path, model="scripted").sampling


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/completion"]
)
def test_the_field_of_a_request_counts_before_the_name(path: str) -> None:
    house = House()
    assert house.task(path, model="scripted:pirate", lora=POET).sampling["lora"] == POET
    assert house.task(path, model="scripted", lora=POET).sampling["lora"] == POET
    assert "lora" not in house.task(path, lora=[]).sampling


def test_ollamas_options_have_it_too() -> None:
    house = House()
    assert house.task("/api/chat", options={"lora": POET}).sampling["lora"] == POET


def test_lists_have_adapters_as_models() -> None:
    http = House().http
    listed = http.get("/v1/models").json
    assert listed is not None
    assert [model["id"] for model in listed["data"]] == NAMES
    tags = http.get("/api/tags").json
    assert tags is not None
    assert [tag["model"].removesuffix(":latest") for tag in tags["models"]] == NAMES
    assert http.get(f"/v1/models/{NAMES[1]}").status_code == 200
    served = http.get("/pages/api/models").json
    assert served is not None
    assert [model["name"] for model in served["served"]] == NAMES[:1]  # a page of servers
    shown = http.get("/pages/api/chat/models").json
    assert shown is not None
    assert [model["name"] for model in shown["models"]] == [NAMES[0], *sorted(NAMES[1:])]


def test_a_model_with_another_name_gives_it_to_its_adapters() -> None:
    house = House(alias=("tale",))
    listed = house.http.get("/v1/models").json
    assert listed is not None
    assert [model["id"] for model in listed["data"]] == ["tale", "tale:poet", "tale:pirate"]
    assert house.task("/v1/completions", model="tale:poet").sampling["lora"] == POET


def test_an_alias_may_mean_an_adapter() -> None:
    house = House(aliases={"smart": "scripted:poet"})
    assert house.task("/v1/completions", model="smart").sampling["lora"] == POET


def test_a_slot_is_evaluated_anew_for_other_adapters() -> None:
    house = House()
    tasks = [
        house.task("/v1/completions", model=name, prompt="p" * size)
        for name, size in ((NAMES[1], 200), (NAMES[1], 200), (NAMES[2], 200), (NAMES[0], 200))
    ]
    fresh = [task.sampling.get("cache_prompt") is False for task in tasks]
    assert fresh == [True, False, True, True]  # nobody knows what it had before


def test_a_backend_without_adapters_says_what_to_do() -> None:
    http = make_app(ScriptedDriver()).test_client()
    refused = http.post("/v1/completions", json={**PATHS["/v1/completions"], "lora": POET})
    assert refused.status_code == 400 and "--lora FILE" in refused.text
    silent = {**PATHS["/v1/completions"], "lora": [{"id": 0, "scale": 0}]}
    assert http.post("/v1/completions", json=silent).status_code == 200
