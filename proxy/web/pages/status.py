"""The status page and its live stream."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import msgspec
from flask import Response, make_response, render_template, request

from ...apis.models.routes import watched
from ...apis.status.routes import listed
from ...gateway import Caller
from .. import permissions
from ..observability.history import SAMPLES, STEP, total
from ..services import Services, current_services
from ..spine import json_response
from ..stream import looks
from . import guard

PERIOD = 1.0  # seconds between two updates
LIFE = 15.0  # seconds per stream


def _snapshot(services: Services, caller: Caller) -> dict[str, Any]:
    """The state now, and totals: no prompt text, and of other groups' slots only their number."""
    view = permissions.view(services, caller)
    samples = services.observer.samples()
    newest = time.time() - 60
    return {
        "at": time.time(),
        "started": services.started,
        "running": services.observer.running,
        "backends": listed(services, caller.key, caller.may),
        "slots": msgspec.to_builtins(view.backends),
        "queue": msgspec.to_builtins(view.queue),
        "minute": total([sample for sample in samples if sample.at >= newest]),
        "hour": total(samples),
    }


def points(services: Services, since: float = 0.0) -> dict[str, Any]:
    """Return the samples of the last hour, or since that time, as columns for plots."""
    samples = services.observer.samples(since)
    return {
        "step": STEP,
        "span": STEP * SAMPLES,
        "at": [sample.at for sample in samples],
        "requests": [round(sample.requests / STEP, 3) for sample in samples],
        "first_token": [_over(sample.first_token, sample.first_tokens) for sample in samples],
        "speed": [_over(sample.written, sample.writing) for sample in samples],
    }


def _stream(services: Services, caller: Caller) -> Generator[bytes, None, None]:
    """Yield server-sent events: `points` of the last hour, then `now` every second."""
    yield b"retry: 500\n\n"
    yield _event("points", points(services))
    for _ in looks(PERIOD, LIFE):
        yield _event(
            "now", {**_snapshot(services, caller), "points": points(services, time.time() - STEP)}
        )


def _event(name: str, data: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


def _over(sum_: float, count: float) -> float | None:
    return round(sum_ / count, 4) if count else None


blueprint = guard.guarded("panel_status")

MOST_WATCHERS = 32  # at once, for all keys together


@blueprint.get("/status")
def page() -> Response:
    return make_response(render_template("status.html"))


@blueprint.get("/pages/api/status")
def now() -> Response:
    services = current_services()
    data = {**_snapshot(services, _caller(services)), "points": points(services)}
    return json_response(data)


@blueprint.get("/pages/api/status/events")
def events() -> Response:
    """Stream the status. Raises QueueFull."""
    services = current_services()
    caller = _caller(services)
    return watched(services, caller.key, _stream(services, caller))


def _caller(services: Services) -> Caller:
    return services.callers.caller(services.keys.check(request.environ), request.environ)
