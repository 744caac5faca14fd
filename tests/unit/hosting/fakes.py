"""Models whose servers are small programs that listen on nothing, with scripted drivers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from proxy.backends.driver import Capabilities, OnCapabilities, ignore
from proxy.backends.http import CheckPeer
from proxy.backends.llamacpp import LlamaCpp
from proxy.config import ModelConfig
from proxy.config.models import words
from proxy.errors import GatewayError
from proxy.hosting.memory_budget import MemoryBudget
from proxy.hosting.model import HostedModel
from proxy.hosting.need import Cards, KeptNeeds
from proxy.hosting.starting import Hosting, Server
from proxy.runtime.cancel import Cancel
from tests.fakes import CAPS

Make = Callable[..., HostedModel]

RUNS = "sh -c 'echo begins; exec sleep 60' ${PORT}"
FAILS = "sh -c 'echo no such file: /home/me/x.gguf at 127.0.0.1:8080; exit 3' ${PORT}"


class FakeServer(LlamaCpp):
    """A server that is always ready. `faults` are raised by the next probes."""

    made: int = 0
    faults: tuple[GatewayError, ...] = ()
    caps: Capabilities = msgspec.structs.replace(CAPS, template="a template")

    def __init__(self, url: str, check_peer: CheckPeer | None = None) -> None:
        super().__init__(url, check_peer=check_peer)
        type(self).made += 1

    def status_of(self, path: str, seconds: float, pool: Any = None) -> int:
        return 200

    def probe(self, deadline: float, learned: OnCapabilities = ignore) -> Capabilities:
        kind = type(self)
        if kind.faults:
            error, *rest = kind.faults
            kind.faults = tuple(rest)
            raise error
        return self.caps


class SilentServer(FakeServer):
    """A server that never answers."""

    def status_of(self, path: str, seconds: float, pool: Any = None) -> int:
        return 0


def fake() -> type[FakeServer]:
    """A class of fake servers with counts of its own."""
    return type("Fake", (FakeServer,), {})


def config(command: str = RUNS, **fields: Any) -> ModelConfig:
    return ModelConfig(**{"name": "m", "command": words(command), "stop_timeout": 5.0, **fields})


def hosted(
    command: str = RUNS,
    connect: type[FakeServer] | None = None,
    room: MemoryBudget | None = None,
    waiting: int = 8,
    cards: Cards | None = None,
    needs: KeptNeeds | None = None,
    **fields: Any,
) -> HostedModel:
    kind = connect or fake()
    hosting = Hosting(
        connect=lambda config, url, check: kind(url, check),
        room=room or MemoryBudget(),
        deadline=5.0,
        max_waiting=waiting,
        cards=cards or Cards(),
        needs=needs,
    )
    return HostedModel(config(command, **fields), hosting)


def use(model: HostedModel, patience: float = 10.0) -> Server:
    """Wait for the model's server, and keep it until `leave`."""
    server = list(wait(model, patience))[-1]
    assert server is not None
    return server


def wait(
    model: HostedModel, patience: float = 10.0, cancel: Cancel | None = None
) -> Iterator[Server | None]:
    return model.use(cancel or Cancel(), 0.05, patience)
