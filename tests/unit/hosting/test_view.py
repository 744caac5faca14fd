"""What pages and clients see of models and of the memory that they share."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.errors import GatewayError
from proxy.hosting import memory_budget, view
from proxy.hosting import model as model_module
from proxy.hosting.memory_budget import Limits, MemoryBudget
from proxy.hosting.model import HostedModel, State
from proxy.runtime import subprocesses
from tests.fakes import wait_until

from . import fakes
from .fakes import Make

MIB = 1 << 20


def view_of(model: HostedModel, now: float, *, admin: bool = False) -> Any:
    seen = view.view_of(model, now, admin=admin)
    if seen["failure"] is not None:
        seen["failure"] = SimpleNamespace(**seen["failure"])
    return SimpleNamespace(**seen)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_budget, "LOOK", 0.02)


def test_view_follows_a_model_from_start_to_end(make: Make) -> None:
    model = make(title="A", description="B", ttl=100.0, memory="5MiB", stop_timeout=1.0)
    seen = view_of(model, 1000.0)
    assert (seen.title, seen.description, seen.state, seen.ttl) == ("A", "B", "stopped", 100.0)
    assert (seen.memory, seen.source, seen.loaded_at) == (5 * MIB, "set", None)
    fakes.use(model)
    seen = view_of(model, time.time())
    assert (seen.state, seen.busy, seen.slots, seen.expires_at) == ("busy", 1, 2, None)
    assert seen.loaded_at == pytest.approx(time.time(), abs=5)
    model.leave(answered=True)
    now = time.time()
    shift = -(now + model.left) % 1  # its end is a whole second: both looks round it alike
    now += shift
    seen = view_of(model, now)
    assert (seen.state, seen.busy) == ("ready", 0)
    assert seen.expires_at == pytest.approx(now + 100, abs=2)
    assert view_of(model, time.time() + shift) == seen  # nothing has changed
    model.stop()
    wait_until(lambda: view_of(model, now).state == "stopped")


def test_view_of_a_model_in_line_and_of_one_that_loads(make: Make) -> None:
    room = MemoryBudget(Limits(memory=10 * MIB), swap_wait=60.0)
    first = make(room=room, name="first", memory="6MiB")
    second = make(room=room, name="second", memory="6MiB")
    fakes.use(first)
    waiting = fakes.wait(second)
    assert next(waiting) is None
    wait_until(lambda: second.status == "loading" and second.place()[0] == 1)
    assert view_of(second, 1000.0).ready_at is None
    second.needs.learn(30.0)
    seen = view_of(second, 1000.0)
    assert (seen.state, seen.place, seen.began_at) == ("waiting", 1, None)
    assert seen.ready_at == pytest.approx(1000 + 60 + 30, abs=5)
    segment = {"model": "first", "size": 6 * MIB, "phase": "loaded"}
    assert view.room_of(room, {"first"})["bars"] == [
        {"device": 0, "limit": 10 * MIB, "segments": [segment]}
    ]
    first.stop()
    (bar,) = view.room_of(room, ())["bars"]
    assert bar["segments"] == [{"model": "", "size": 6 * MIB, "phase": "stopping"}]
    first.leave(answered=True)
    list(waiting)
    second.leave(answered=True)


def test_loading_model_tells_when_it_is_expected(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    monkeypatch.setattr(model_module, "time", SimpleNamespace(monotonic=lambda: 5000.0))
    model.state, model._began = State.LOADING, 4998.0
    seen = view_of(model, 1000.0)
    assert (seen.state, seen.began_at, seen.ready_at) == ("loading", 998.0, None)
    model.needs.learn(10.0)
    assert view_of(model, 1000.0).ready_at == 1008.0
    assert model.place() == (0, 8.0)
    assert view_of(model, 2000.0).ready_at == 2008.0
    model.state = State.STOPPED


def test_failed_model_tells_why_and_when_it_may_be_loaded_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(fakes.FAILS, connect=fakes.SilentServer)
    for pause in (0.01, 0.01, 30.0):
        monkeypatch.setattr(subprocesses, "FIRST_PAUSE", pause)
        with pytest.raises(GatewayError):
            fakes.use(model)
    wait_until(lambda: model.status == "failed")
    seen = view_of(model, 1000.0)
    assert seen.state == "failed" and seen.failure is not None
    why = "the model m failed to load: its server ended with exit code 3: no such file"
    assert seen.failure.summary == f"{why}: … at …"
    assert (seen.failure.cause, seen.failure.lines) == ("ended", "no such file: … at …")
    own = view_of(model, 1000.0, admin=True).failure
    assert own is not None
    assert own.summary == f"{why}: /home/me/x.gguf at 127.0.0.1:8080"
    assert own.lines == "no such file: /home/me/x.gguf at 127.0.0.1:8080"
    assert seen.failure.retry_at is not None and seen.failure.retry_at >= 1000.0


@pytest.mark.parametrize(
    ("fields", "limit", "cause"),
    [
        ({"command": "/no/such/program ${PORT}"}, 0, "not_started"),
        ({"memory": "2MiB"}, MIB, "too_large"),
    ],
)
def test_causes_of_failures(make: Make, fields: dict[str, str], limit: int, cause: str) -> None:
    room = MemoryBudget(Limits(memory=limit))
    model = make(room=room, connect=fakes.SilentServer, **fields)
    with pytest.raises(GatewayError):
        fakes.use(model)
    wait_until(lambda: model.status == "failed")
    failure = view_of(model, 1000.0).failure
    assert failure is not None
    assert (failure.cause, failure.retry_at) == (cause, None)
