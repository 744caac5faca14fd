"""Routes that load and unload models that the gateway starts itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from proxy.config.keys import ApiKey, Secret
from proxy.hosting.model import HostedModel
from tests.fakes import ScriptedDriver, make_app, services_of, wait_until
from tests.unit.hosting import fakes

ADMIN = {"Authorization": "Bearer key-of-admin"}
OTHER = {"Authorization": "Bearer key-of-other"}
KEYS = tuple(ApiKey(name, Secret(f"key-of-{name}")) for name in ("admin", "other"))


class Served:
    """An app with a model of its name, `scripted`, that a small program serves."""

    def __init__(self, app: Flask) -> None:
        self.http: FlaskClient = app.test_client()
        host = services_of(app).host
        host._connect = fakes.fake()
        self.model: HostedModel = host.add(fakes.config(name="scripted", ttl=300.0))

    def post(self, path: str, **body: Any) -> Any:
        return self.http.post(path, json=body, headers=ADMIN)


@pytest.fixture
def served() -> Iterator[Served]:
    app = make_app(ScriptedDriver(), file_keys=KEYS, admins=("admin",))
    made = Served(app)
    yield made
    made.model.close()
    made.model.join(10.0)


def test_model_is_loaded_and_unloaded_by_hand(served: Served) -> None:
    http, model = served.http, served.model
    assert http.get("/running", headers=OTHER).json == {"running": []}
    for _ in range(2):
        assert served.post("/models/load", model="scripted").json == {"success": True}
    wait_until(lambda: model.status == "loaded")
    (running,) = http.get("/running", headers=OTHER).json["running"]
    assert (running["model"], running["state"], running["ttl"]) == ("scripted", "ready", 300)
    assert served.post("/models/unload", model="scripted").json == {"success": True}
    wait_until(lambda: model.status == "unloaded")
    assert served.post("/models/unload", model="scripted").status_code == 200


def test_all_models_are_unloaded(served: Served) -> None:
    fakes.use(served.model)
    served.model.leave(answered=True)
    assert served.http.post("/unload", headers=ADMIN).status_code == 200
    wait_until(lambda: served.model.status == "unloaded")


@pytest.mark.parametrize("path", ["/models/load", "/models/unload", "/unload"])
def test_only_admins_load_and_unload(served: Served, path: str) -> None:
    answer = served.http.post(path, json={"model": "scripted"}, headers=OTHER)
    assert answer.status_code == 403
    assert served.model.status == "unloaded"


@pytest.mark.parametrize(
    ("body", "status"), [({"model": "absent"}, 404), ({}, 400), ({"model": 3}, 400)]
)
def test_wrong_model_to_load_is_an_error(served: Served, body: dict[str, Any], status: int) -> None:
    assert served.post("/models/load", **body).status_code == status


def test_logs_are_for_admins(served: Served) -> None:
    served.model.log.add(b"a line")
    answer = served.http.get("/logs/scripted", headers=ADMIN)
    assert (answer.text, answer.mimetype) == ("a line\n", "text/plain")
    assert served.http.get("/logs/scripted", headers=OTHER).status_code == 403
    assert served.http.get("/logs/scripted").status_code == 401
    assert served.http.get("/logs/absent", headers=ADMIN).status_code == 404


def test_ollama_loads_and_unloads_with_an_empty_prompt(served: Served) -> None:
    model = served.model
    answer = served.post("/api/generate", model="scripted", keep_alive="10m")
    assert answer.json["done_reason"] == "load"
    wait_until(lambda: model.status == "loaded")
    assert 500 < model.left <= 600
    (shown,) = served.http.get("/api/ps", headers=OTHER).json["models"]
    assert shown["expires_at"] < "9999"
    answer = served.post("/api/chat", model="scripted", keep_alive=0)
    assert answer.json["done_reason"] == "unload"
    wait_until(lambda: model.status == "unloaded")


def test_keep_alive_of_a_chat_is_for_admins(served: Served) -> None:
    fakes.use(served.model)
    chat = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "stream": False}
    for headers, left in ((OTHER, 300), (ADMIN, float("inf"))):
        body = {**chat, "keep_alive": -1}
        assert served.http.post("/api/chat", json=body, headers=headers).status_code == 200
        assert served.model.left <= left
        assert (served.model.left == float("inf")) == (headers is ADMIN)
    served.model.leave(answered=True)


@pytest.mark.parametrize("value", ["soon", "5 apples", True, [], "1" * 20])
def test_unreadable_keep_alive_is_named(served: Served, value: Any) -> None:
    answer = served.post("/api/generate", model="scripted", keep_alive=value)
    assert (answer.status_code, "keep_alive" in answer.json["error"]) == (400, True)
