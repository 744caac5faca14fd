"""Gateways on scripted backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from proxy.gateway import Gateway
from tests.fakes import ScriptedDriver, make_app, services_of, wait_until


@pytest.fixture
def serve() -> Iterator[Callable[..., Gateway]]:
    """Makes a gateway on these drivers. When the test is over every slot must be released and
    nothing may wait."""
    made: list[Gateway] = []

    def make(*drivers: ScriptedDriver, **settings: object) -> Gateway:
        settings = {"wait_for_backend": 10.0, "health_interval": 3600.0, **settings}
        made.append(services_of(make_app(*drivers, **settings)).gateway)
        return made[-1]

    yield make
    for gateway in made:
        wait_until(lambda gateway=gateway: not gateway.scheduler.outstanding)  # type: ignore[misc]  # bound in the loop
        assert gateway.scheduler.waiting == 0
        gateway.registry.close()
