"""The status page and its live stream."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Mapping
from typing import Any

import msgspec
from flask import Response, make_response, render_template, request
from msgspec.structs import asdict

from ...apis.fields import count_of
from ...apis.models.routes import watched
from ...apis.status.routes import listed
from ...apis.usage.routes import opened
from ...gateway import Caller
from ...store.measures import Counts, histogram, percentile, total
from .. import permissions
from ..observability.history import SAMPLES, SPAN, STEP, Tenure
from ..services import Services, current_services
from ..spine import json_response
from ..stream import looks
from . import guard

PERIOD = 1.0  # seconds between two updates


def _snapshot(services: Services, caller: Caller) -> dict[str, Any]:
    """The state now, and totals: no prompt text, and of other groups' slots only their number."""
    view = permissions.view(services, caller)
    samples = services.observer.samples()
    newest = time.time() - 60
    return {
        "at": time.time(),
        "started": services.started,
        "workers": view.workers,
        "running": services.observer.running,
        "backends": listed(services, caller.key, caller.may),
        "slots": msgspec.to_builtins(view.backends),
        "queue": msgspec.to_builtins(view.queue),
        "minute": sum(counts["requests", 0] for at, counts in samples.items() if at >= newest),
        "total": total(samples.values()),
    }


def points(services: Services, since: float = 0.0) -> dict[str, Any]:
    """Return the samples of the last hour, or since that time, as columns for plots."""
    samples = services.observer.samples(since)
    return {"step": STEP, "span": STEP * SAMPLES, **_columns(samples)}


def _columns(counts: Mapping[int, Counts]) -> dict[str, Any]:
    """Requests, and medians, at each time."""
    columns: dict[str, Any] = {"at": [*counts]}
    columns["requests"] = [count["requests", 0] for count in counts.values()]
    for name in ("first_token", "speed"):
        columns[name] = [percentile(histogram(count, name), 0.5) for count in counts.values()]
    return columns


def _stream(services: Services, caller: Caller) -> Generator[bytes, None, None]:
    """Yield server-sent events: `points` of the last hour, then `now` every second."""
    yield _event("points", points(services))
    for _ in looks(PERIOD):
        new = points(services, time.time() - STEP)
        yield _event("now", {**_snapshot(services, caller), "points": new})


def _event(name: str, data: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


blueprint = guard.guarded("panel_status")

MOST_WATCHERS = 32  # at once, for all keys together
HOUR = 3600  # seconds
DAY_HOURS = 24
MOST_HOURS = 31 * DAY_HOURS
LANES = 32  # slots whose contents are shown together
HIGHEST = 1 << 16  # number of a slot


@blueprint.get("/status")
def page() -> Response:
    has_ledger = current_services().ledger is not None
    return make_response(render_template("status.html", kept=has_ledger))


@blueprint.get("/pages/api/status")
def now() -> Response:
    services = current_services()
    data = {**_snapshot(services, _caller(services)), "points": points(services)}
    return json_response(data)


@blueprint.get("/pages/api/status/past")
def past() -> Response:
    """Return the totals of the last hours in the ledger, of all workers, and columns for plots."""
    hours, services = count_of(request.args, "hours", 1, MOST_HOURS), current_services()
    width = SPAN if hours == 1 else HOUR if hours <= DAY_HOURS else DAY_HOURS * HOUR
    end = int(time.time()) // width * width + width
    begin = end - max(hours * HOUR, width)
    measured = opened(services).measures(1000 * width, 1000 * begin, 1000 * end)
    counts = {at: measured.get(1000 * at, Counter()) for at in range(begin, end, width)}
    points = {"step": width, **_columns(counts)}
    return json_response({"total": total(counts.values()), "points": points})


@blueprint.get("/pages/api/status/slots")
def tenures() -> Response:
    """Return who held some slots of a backend in the last hour, or since the start."""
    services = current_services()
    caller = _caller(services)
    shown = permissions.shown_names(services, caller.key)
    first, backend = count_of(request.args, "first", 0, HIGHEST, 0), request.args.get("backend")
    now, is_admin = time.time(), services.keys.is_admin(caller.key)
    begin = max(now - HOUR, services.started)
    held = [
        _tenure(services, tenure, is_admin or tenure.key == caller.key)
        for tenure in services.observer.tenures(begin)
        if first <= tenure.slot < first + LANES and shown(tenure.backend) == backend
    ]
    return json_response({"begin": begin, "end": now, "tenures": held})


def _tenure(services: Services, tenure: Tenure, is_seen: bool) -> dict[str, Any]:
    """What a caller may see: of another key's, only that the slot was held."""
    digest = ""
    if is_seen and tenure.conversation:
        digest = services.aliases.digest(tenure.conversation)
    hidden = {} if is_seen else {"key": None, "prompt": 0}
    return {**asdict(tenure), "backend": "", "conversation": digest, **hidden}


@blueprint.get("/pages/api/status/events")
def events() -> Response:
    """Stream the status. Raises QueueFull."""
    services = current_services()
    caller = _caller(services)
    return watched(services, caller.key, _stream(services, caller))


def _caller(services: Services) -> Caller:
    return services.callers.caller(services.keys.check(request.environ), request.environ)
