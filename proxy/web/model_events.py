"""The changes of models as server-sent events: GET /models/sse of llama-server's router mode.

A stream begins with the state of each model that is not unloaded, so a client that connects again
misses nothing. While a model loads, there is an event each second. Servers do not tell how far
they are: the progress is the part of the time that the last load took.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any

from ..apis.llamacpp.native import model_event, models_reload
from ..hosting.model import HostedModel
from ..hosting.process import ModelLog
from .fastpath import Environ
from .permissions import visible
from .services import Services
from .stream import looks

# The lines that a model's server prints, as server-sent events.
#
# An event has the lines that are new. Its id says how many there were, so that a client that
# connects again gets the rest. A stream begins with an event `start` if the client has no lines of
# this log yet, or those of another one, which it should forget then.
KNOWN = re.compile(r"([0-9a-f]{16})-([0-9]{1,15})", re.ASCII)


def log_lines(
    log: ModelLog, last_id: str, sleep: Callable[[float], None] = time.sleep
) -> Generator[bytes, None, None]:
    """Yield events. `last_id` is the id of the last event that the client got, "" for none."""
    position = KNOWN.fullmatch(last_id)
    if position is None or position[1] != log.id:
        count = 0
        yield f"id: {log.id}-0\nevent: start\ndata: {log.id}\n\n".encode()
    else:
        count = int(position[2])
    for _ in looks(PERIOD, sleep):
        count, lines = log.after(count)
        if lines:
            data = "".join(f"data: {line}\n" for line in lines)
            yield f"id: {log.id}-{count}\n{data}\n".encode()


PERIOD = 0.25  # seconds between two looks

# The state of each listed model that is loaded on demand, and how far its load is.
States = dict[str, tuple[str, Mapping[str, Any]]]
STAGE = "text_model"  # of a router's stages of a load, the one that every model has


def events(
    services: Services, environ: Environ, sleep: Callable[[float], None] = time.sleep
) -> Generator[bytes, None, None]:
    """Yield an event for each change of a model that the caller may use."""
    shown: dict[str, Any] = dict.fromkeys(_states(services, environ), _noted("unloaded", {}))
    for _ in looks(PERIOD, sleep):
        states = _states(services, environ)
        for name, (status, loading) in states.items():
            if shown.get(name, _noted("unloaded", {})) != _noted(status, loading):
                yield model_event(name, status, loading)
        if states.keys() != shown.keys():
            yield models_reload()
        shown = {name: _noted(*state) for name, state in states.items()}


def _states(services: Services, environ: Environ) -> States:
    registry = services.gateway.registry
    names = visible(services, environ, registry.listed())
    states = {name: registry.status(name) for name in names}
    return {
        name: (status, _loading(services, name) if status == "loading" else {})
        for name, status in states.items()
        if status
    }


def _loading(services: Services, name: str) -> Mapping[str, Any]:
    """The progress of a model that the gateway loads itself."""
    model = services.host.find(name)
    if model is None or model.status != "loading":
        return {}
    loading = waiting(model)
    if loading["place"] or loading["wait"] is None:
        return loading
    part = round(model.elapsed / max(model.elapsed + loading["wait"], 1e-9), 3)
    return {**loading, "progress": {"stages": [STAGE], "current": STAGE, "value": part}}


def waiting(model: HostedModel) -> dict[str, Any]:
    """Its place in the line, 0 with room, and the expected seconds, null if unknown."""
    place, seconds = model.place()
    return {"place": place, "wait": round(seconds, 1) if model.needs.learned.loaded_at else None}


def _noted(status: str, loading: Mapping[str, Any]) -> tuple[str, int, int | None]:
    """What makes an event if it changes: of the expected time, the seconds."""
    wait = loading.get("wait")
    return status, loading.get("place", 0), None if wait is None else math.ceil(wait)
