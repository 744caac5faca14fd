"""Health, what is behind us, and metrics. Health needs no key and wakes nothing."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Blueprint, Response, request

from ..dialects import openai
from ..errors import GatewayError, NotFound
from . import seen
from .exchange import plain, refuse
from .observe import Record
from .services import Services, services

blueprint = Blueprint("status", __name__)


@blueprint.get("/health")
@blueprint.get("/v1/health")
@blueprint.get("/readyz")
def ready() -> Response:
    """200 when a backend can answer, else 503 in llama-server's form."""
    registry = services().gateway.registry
    backends = {name: _state(b.up) for name, b in enumerate(registry.backends.values())}
    counts = {s: sum(v == s for v in backends.values()) for s in ("up", "down", "unknown")}
    if registry.ready:
        notices = services().gateway.scheduler.notices
        more = {"notices": notices} if notices else {}
        return _json({"status": "ok", "backends": counts, **more})
    message = "No backend is up" if registry.settled else "Loading model"
    error = {"code": 503, "message": message, "type": "unavailable_error"}
    response = _json({"status": "error", "error": error, "backends": counts}, 503)
    response.headers["Retry-After"] = "1"
    return response


@blueprint.get("/livez")
def live() -> Response:
    """200 while this process answers."""
    return _json({"status": "ok"})


@blueprint.get("/v1/backends")
def backends() -> Response:
    def view(here: Services, record: Record) -> Any:
        return {"object": "list", "data": listed(here, record.key)}

    return plain(view)


def listed(here: Services, key: str) -> list[dict[str, Any]]:
    """The backends and what the probe found, as /v1/backends has them for this key."""
    scheduler = here.gateway.scheduler
    shown = seen.names(here, key)
    out = []
    for backend in here.gateway.registry.backends.values():
        caps = backend.caps
        known = caps is not None or backend.set_slots > 0
        found = msgspec.to_builtins(caps) if caps is not None else None
        if found:
            found["template"] = bool(found["template"])
            del found["settings"]  # GET /props has them
        out.append(
            {
                "id": shown(backend.name),
                "object": "backend",
                "state": _state(backend.up),
                "error": backend.trouble or None,
                "model": backend.model,
                "status": backend.status or None,
                "slots": scheduler.slots(backend.name) if known else None,
                "in_flight": scheduler.in_flight(backend.name),
                "n_ctx": backend.n_ctx or None,
                "found": found,
            }
        )
    return out


def _state(up: bool | None) -> str:
    return "unknown" if up is None else "up" if up else "down"


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status=status, mimetype="application/json")


@blueprint.get("/metrics")
def metrics() -> Response:
    here = services()
    try:
        if not here.settings.metrics:
            raise NotFound("metrics are off: start with --metrics")
        key = here.keys.check(request.environ)
    except GatewayError as error:
        return refuse(error, openai.error, Record.of(request.environ))

    from . import exposition  # late: see there

    shown = seen.names(here, key)
    text = exposition.text(here.observer.counts(), here.gateway, shown)
    response = Response(text, mimetype="text/plain")
    response.headers["Process-Start-Time-Unix"] = str(here.started)
    return response
