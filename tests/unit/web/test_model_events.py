"""GET /models/sse: the changes of models, as llama-server's router sends them."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.accounts.rights import Rights
from proxy.hosting.model import HostedModel, State
from proxy.web import model_events
from proxy.web.auth import IDENTITY
from proxy.web.services import Services
from tests.fakes import ScriptedDriver, make_app, services_of
from tests.unit.hosting import fakes


class OnDemand(ScriptedDriver):
    """A driver whose model is loaded on demand."""

    state = "unloaded"

    @property
    def status(self) -> str:
        return self.state


@pytest.fixture
def driver() -> OnDemand:
    return OnDemand()


@pytest.fixture
def services(driver: OnDemand) -> Services:
    return services_of(make_app(driver))


def seen(
    services: Services,
    *changes: Callable[[], object],
    environ: dict[str, Any] | None = None,
    stream: Any = model_events.events,
    head: str = "data: ",
) -> list[dict[str, Any]]:
    """The events of a stream in which `changes` are made one after the other."""
    left, events = iter(changes), []
    parts = stream(services, environ or {}, lambda seconds: next(left)())
    with pytest.raises((StopIteration, RuntimeError)):
        while True:
            part = next(parts).decode()
            if part.startswith(head):
                assert part.endswith("\n\n")
                events.append(json.loads(part.removeprefix(head)))
    return events


def test_each_change_of_a_model_is_an_event(services: Services, driver: OnDemand) -> None:
    def to(state: str) -> Any:
        return lambda: setattr(driver, "state", state)

    steps = [to(s) for s in ("loading", "loading", "loaded", "unloaded", "loading", "failed")]
    events = seen(services, *steps)
    assert {(event["model"], event["event"]) for event in events} == {("scripted", "model_status")}
    assert [event["data"] for event in events] == [
        {"status": "loading"},
        {"status": "loaded"},
        {"status": "unloaded", "exit_code": 0},
        {"status": "loading"},
        {"status": "unloaded", "exit_code": 1},
    ]


def test_stream_begins_with_the_models_that_are_not_unloaded(
    services: Services, driver: OnDemand
) -> None:
    assert seen(services) == []
    driver.state = "loaded"
    (first,) = seen(services)
    assert first["data"] == {"status": "loaded"}


def test_key_sees_only_the_models_that_it_may_use(services: Services, driver: OnDemand) -> None:
    driver.state = "loaded"
    for models, count in ((("scr*",), 1), (("other",), 0)):
        identity = SimpleNamespace(rights=(Rights(models=models),))
        assert len(seen(services, environ={IDENTITY: identity})) == count


def test_changed_list_is_an_event(services: Services) -> None:
    registry = services.gateway.registry

    def hide() -> None:
        registry.backends["b0"].unlisted = True
        registry.rebuild()

    assert seen(services, hide) == [{"model": "*", "event": "models_reload"}]


def test_list_says_what_a_routers_says(driver: OnDemand) -> None:
    app = make_app(driver)
    services_of(app).gateway.registry.backends["b0"].aliases = ("other",)
    driver.state = "failed"
    (listed,) = app.test_client().get("/models").json["data"]
    assert listed["status"] == {"value": "unloaded", "failed": True}
    assert listed["aliases"] == ["other"]
    assert listed["architecture"] == {"input_modalities": ["text"], "output_modalities": ["text"]}


@pytest.fixture
def hosted(services: Services) -> HostedModel:
    """The model of the driver, as one that the gateway starts, is loading."""
    model = services.host.add(fakes.config(name="scripted"))
    model.state = State.LOADING
    return model


def test_progress_of_a_load_is_an_event_each_second(
    services: Services, driver: OnDemand, hosted: HostedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.state = "loading"
    hosted.needs.learn(4.0)
    elapsed = [0.0]
    monkeypatch.setattr(HostedModel, "elapsed", property(lambda self: elapsed[0]))

    def to(seconds: float) -> Any:
        return lambda: elapsed.__setitem__(0, seconds)

    events = [event["data"] for event in seen(services, to(0.5), to(1.0), to(4.0), to(9.0))]
    progress = {"stages": ["text_model"], "current": "text_model"}
    assert events == [
        {"status": "loading", "place": 0, "wait": wait, "progress": {**progress, "value": value}}
        for wait, value in ((4.0, 0.0), (3.0, 0.25), (0.0, 1.0))
    ]


def test_first_load_and_waiting_models_have_no_progress(
    services: Services, driver: OnDemand, hosted: HostedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.state = "loading"
    place = [2, 9.0]
    monkeypatch.setattr(HostedModel, "place", lambda self: tuple(place))
    events = [event["data"] for event in seen(services, lambda: place.__setitem__(0, 1))]
    assert events == [{"status": "loading", "place": n, "wait": None} for n in (2, 1)]
    hosted.needs.learn(4.0)
    assert [event["data"] for event in seen(services)] == [
        {"status": "loading", "place": 1, "wait": 9.0}
    ]
