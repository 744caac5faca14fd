"""The changes of models as server-sent events: GET /models/sse of llama-server's router mode.

A stream begins with the state of each model that is not unloaded, and ends after `LIFE` seconds.
So a client that connects again misses nothing, and no stream delays a server that is stopping.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

from ..dialects.llamacpp_native import model_event, models_reload
from .services import Services

PERIOD = 0.25  # seconds between two looks
LIFE = 15.0  # seconds per stream

States = dict[str, str]


def events(
    services: Services, sleep: Callable[[float], None] = time.sleep
) -> Generator[bytes, None, None]:
    """Yield an event for each change."""
    yield b"retry: 500\n\n"
    known: States = dict.fromkeys(_states(services), "unloaded")
    end = time.monotonic() + LIFE
    while True:
        states = _states(services)
        for name, status in states.items():
            if known.get(name, "unloaded") != status:
                yield model_event(name, status)
        if states.keys() != known.keys():
            yield models_reload()
        known = states
        if time.monotonic() + PERIOD > end:
            return
        sleep(PERIOD)


def _states(services: Services) -> States:
    """The state of each listed model that is loaded on demand."""
    registry = services.gateway.registry
    states = {name: registry.status(name) for name in registry.listed()}
    return {name: status for name, status in states.items() if status}
