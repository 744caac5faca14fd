"""Health, backends, slots and metrics. Health checks need no key and wake no sleeping model."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from flask import Response, request

from ... import __version__
from ...accounts.rights import Permissions
from ...errors import NotFound
from ...store.measures import total
from ...web import permissions as visibility
from ...web.observability import Record
from ...web.permissions import permissions
from ...web.routes import Api
from ...web.services import Services, current_services
from ...web.spine import json_response, json_route

MINUTE = 60.0  # seconds

blueprint = Api("status", __name__, group="status", tag="slotproxy")


@blueprint.get("/health", is_open=True, quiet=True)
@blueprint.get("/v1/health", is_open=True, quiet=True)
@blueprint.get("/readyz", is_open=True, quiet=True)
def ready() -> Response:
    """200 when a backend can answer."""
    registry = current_services().gateway.registry
    backends = {name: _state(b.up) for name, b in enumerate(registry.backends.values())}
    counts = {s: sum(v == s for v in backends.values()) for s in ("up", "down", "unknown")}
    if registry.ready:
        notices = current_services().gateway.scheduler.notices
        more = {"notices": notices} if notices else {}
        return json_response({"status": "ok", "backends": counts, **more})
    message = "No backend is up" if registry.settled else "Loading model"
    error = {"code": 503, "message": message, "type": "unavailable_error"}
    response = json_response({"status": "error", "error": error, "backends": counts}, 503)
    response.headers["Retry-After"] = "1"
    return response


@blueprint.get("/livez", is_open=True, quiet=True)
def live() -> Response:
    """200 while the process answers."""
    return json_response({"status": "ok"})


@json_route(blueprint, "GET", "/version")
def version(services: Services, record: Record) -> Any:
    """The version of slotproxy."""
    return {"version": __version__}


@json_route(blueprint, "GET", "/v1/slots", quiet=True)
def slots(services: Services, record: Record) -> Any:
    """Slots, the queue, how often something was cached, and the last minute in numbers."""
    caller = services.callers.caller(record.key, request.environ)
    newest = services.observer.samples(time.time() - MINUTE)
    return {
        "object": "slots",
        **msgspec.to_builtins(visibility.view(services, caller)),
        "running": services.observer.running,
        "minute": total(newest.values()),
    }


@json_route(blueprint, "GET", "/v1/backends", quiet=True)
def backends(services: Services, record: Record) -> Any:
    """What is known of each backend."""
    may = permissions(services, request.environ)
    return {"object": "list", "data": listed(services, record.key, may)}


def listed(services: Services, key: str, may: Permissions) -> list[dict[str, Any]]:
    """The backends of the models that a key may use, as /v1/backends shows them to it."""
    scheduler = services.gateway.scheduler
    shown, admin = visibility.shown_names(services, key), services.keys.is_admin(key)
    out = []
    for backend in services.gateway.registry.backends.values():
        if not may.permits_model(backend.model, *backend.aliases):
            continue
        caps = backend.caps
        has_slots = backend.is_loaded and (caps is not None or backend.set_slots > 0)
        probed = msgspec.to_builtins(caps) if caps is not None else None
        if probed:
            probed["template"] = bool(probed["template"])
            del probed["settings"]  # part of GET /props
        out.append(
            {
                "id": shown(backend.name),
                "object": "backend",
                "state": _state(backend.up),
                "error": backend.trouble(admin=admin) or None,
                "model": None if backend.is_unread else backend.model,
                "tier": backend.tier.name or None,
                "status": backend.status or None,
                "slots": scheduler.slots(backend.name) if has_slots else None,
                "in_flight": scheduler.in_flight(backend.name),
                "n_ctx": backend.n_ctx or None,
                "profile": dict(services.gateway.profile(backend.model)),
                "server_prompts": list(backend.verdict.differing),
                "found": probed,
            }
        )
    return out


def _state(up: bool | None) -> str:
    return "unknown" if up is None else "up" if up else "down"


@json_route(blueprint, "GET", "/metrics", answer="text/plain", quiet=True)
def metrics(services: Services, record: Record) -> Response:
    """Metrics for Prometheus, with `--metrics`."""
    if not services.settings.metrics:
        raise NotFound("metrics are disabled: start with --metrics")

    from ...web.observability import prometheus  # deferred: see its docstring

    shown = visibility.shown_names(services, record.key)
    ledger = services.ledger.counts() if services.ledger is not None else None
    counts = services.observer.counts()
    text = prometheus.text(counts, services.gateway, shown, ledger, services.host.models)
    response = Response(text, mimetype="text/plain")
    response.headers["Process-Start-Time-Unix"] = str(services.started)
    return response
