"""All models that a gateway starts itself."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.backends.http import CheckPeer
from proxy.backends.openai.driver import OpenAIServer
from proxy.config import ModelConfig
from proxy.hosting.host import ModelHost
from proxy.hosting.memory_budget import MemoryBudget
from proxy.hosting.model import HostedModel
from proxy.hosting.starting import Hosting, Server
from tests.fakes import wait_until

from . import fakes

LISTING = Path(__file__).with_name("listing_server.py")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no models are started there")


@pytest.fixture
def host() -> Iterator[ModelHost]:
    fake = fakes.fake()

    def connect(config: ModelConfig, url: str, check: CheckPeer) -> Server:
        if config.kind == "openai":
            return OpenAIServer(f"{url}/v1", model=config.server_model, check_peer=check)
        return fake(url, check)

    hosting = Hosting(connect=connect, room=MemoryBudget(), deadline=5.0, max_waiting=8)
    made = ModelHost(hosting)
    yield made
    made.close()


def ready(model: HostedModel) -> bool:
    return model.status in ("loaded", "failed")


def test_models_to_preload_are_loaded_at_the_start_and_when_they_are_added(host: ModelHost) -> None:
    first = host.add(fakes.config(name="a", preload=True))
    other = host.add(fakes.config(name="b"))
    assert first.status == "unloaded"
    host.start()
    later = host.add(fakes.config(name="c", preload=True))
    wait_until(lambda: ready(first) and ready(later))
    assert [model.status for model in (first, other, later)] == ["loaded", "unloaded", "loaded"]


@pytest.mark.parametrize(("concurrency", "slots"), [(0, 2), (1, 1), (9, 2)])
def test_concurrency_bounds_the_slots_of_the_server(
    host: ModelHost, concurrency: int, slots: int
) -> None:
    model = host.add(fakes.config(concurrency=concurrency, preload=True))
    host.start()
    wait_until(lambda: ready(model))
    assert model.caps.slots == slots


def served(names: str, server_model: str = "") -> ModelConfig:
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(LISTING))} ${{PORT}} {names}"
    return fakes.config(command, kind="openai", preload=True, server_model=server_model)


@pytest.mark.parametrize(("names", "wanted"), [("x", ""), ("x y", "y")])
def test_server_of_openais_api_is_a_model(host: ModelHost, names: str, wanted: str) -> None:
    model = host.add(served(names, wanted))
    host.start()
    wait_until(lambda: ready(model))
    assert (model.status, model.caps.models) == ("loaded", (wanted or "x",))


def test_server_of_openais_api_with_several_models_needs_the_name_of_one(host: ModelHost) -> None:
    model = host.add(served("x y"))
    host.start()
    wait_until(lambda: ready(model))
    assert "has several models: set server_model" in model.error.message


def test_server_is_not_started_where_another_one_listens(host: ModelHost) -> None:
    model = host.add(fakes.config(url="http://127.0.0.1:9", preload=True))
    host.start()
    wait_until(lambda: ready(model))
    assert "another server listens at its url" in model.error.message
