"""The models of the chat page: states and defaults, as GET /pages/api/chat/models lists them."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from proxy.config.routes import RouteConfig, Rule
from tests.fakes import CAPS, ScriptedDriver, make_app, say, services_of
from tests.unit.web.test_pages_session import BROWSER


def listed(app: Any) -> list[Any]:
    models: list[Any] = app.test_client().get("/pages/api/chat/models").json["models"]
    return models


def test_model_is_ready_and_shows_its_defaults() -> None:
    caps = msgspec.structs.replace(CAPS, settings={"temperature": 0.8, "min_p": 0.05, "seed": 1})
    app = make_app(ScriptedDriver(say("Hi"), caps=caps), sampling=("temperature=0.3",))
    (model,) = listed(app)
    assert model["state"] == "ready"
    assert model["defaults"] == {"temperature": 0.3, "min_p": 0.05}
    assert model["context"] == CAPS.n_ctx


def test_model_whose_servers_are_down_is_down() -> None:
    app = make_app(ScriptedDriver(say("Hi")))
    registry = services_of(app).gateway.registry
    for backend in registry.backends.values():
        backend.up = False
    assert [model["state"] for model in listed(app)] == ["down"]
    for backend in registry.backends.values():
        backend.up = None
    assert [model["state"] for model in listed(app)] == ["unknown"]


@pytest.mark.parametrize(
    ("default", "states", "order"),
    [
        ("", {"a": "down", "b": "unknown"}, ["c", "b", "a"]),  # loaded, not yet known, failed
        ("b", {"b": "unknown"}, ["b", "a", "c"]),
        ("b", {"b": "down"}, ["a", "c", "b"]),
    ],
)
def test_default_model_comes_first_and_failed_ones_last(
    default: str, states: dict[str, str], order: list[str]
) -> None:
    drivers = [ScriptedDriver(caps=msgspec.structs.replace(CAPS, models=(name,))) for name in "abc"]
    app = make_app(*drivers, default_model=default)
    for backend in services_of(app).gateway.registry.backends.values():
        if backend.model in states:
            backend.up = None if states[backend.model] == "unknown" else False
    assert [model["name"] for model in listed(app)] == order
    visitor = app.test_client()
    shown = (
        ("/connect", f'<span data-value="model">{order[0]}</span>'),
        ("/docs", f'data-model="{order[0]}"'),
    )
    for path, text in shown:
        assert text in visitor.get(path, headers=BROWSER).text
    options = re.findall('<option value="([abc])"', visitor.get("/", headers=BROWSER).text)
    assert options == order


def test_route_with_rules_is_a_model_of_the_page_and_sees_if_one_of_its_models_does() -> None:
    caps = [msgspec.structs.replace(CAPS, models=("small",))]
    caps.append(msgspec.structs.replace(CAPS, models=("eyes",), chat=True, vision=True))
    rules = (Rule(models=("eyes",), images=True), Rule(models=("small",)))
    route = (RouteConfig(model="auto", rules=rules),)
    drivers = [ScriptedDriver(caps=each) for each in caps]
    models = {model["name"]: model for model in listed(make_app(*drivers, route=route))}
    assert {name: model["sees"] for name, model in models.items()} == {
        "auto": True,
        "eyes": True,
        "small": False,
    }
    assert (models["auto"]["state"], models["auto"]["context"]) == ("ready", CAPS.n_ctx)
    models = {model["name"]: model for model in listed(make_app(drivers[0], vision="small"))}
    assert models["small"]["sees"]  # its images would be described
