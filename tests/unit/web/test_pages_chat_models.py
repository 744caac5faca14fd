"""The models of the chat page: states and defaults, as GET /pages/api/chat/models lists them."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.fakes import CAPS, ScriptedDriver, make_app, say, services_of


def listed(app: Any) -> list[Any]:
    found: list[Any] = app.test_client().get("/pages/api/chat/models").json
    return found


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
    assert [one["state"] for one in listed(app)] == ["down"]
    for backend in registry.backends.values():
        backend.up = None
    assert [one["state"] for one in listed(app)] == ["unknown"]
