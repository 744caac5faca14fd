"""The models of the chat page: their state, and the defaults of their settings."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from ...hosting import view
from .. import permissions
from ..fastpath import Environ
from ..observability import Record
from ..permissions import visible
from ..services import Services

State = Literal[view.State, "down", "unknown"]

# The settings on the page that have a default, by llama.cpp's names.
SHOWN = tuple(
    "temperature top_p top_k min_p repeat_penalty presence_penalty frequency_penalty".split()
)
HEAR = ("whisper.cpp", "llama-server")  # dialects of servers that may hear, the better ones first
# States of a router's model that are not a state of ours.
STATES: Mapping[str, State] = {"unloaded": "stopped", "sleeping": "stopped", "loading": "loading"}


class ChatModel(Struct, frozen=True, kw_only=True):
    """A model, its `place` in line, and the seconds `left` until it is loaded."""

    name: str
    title: str
    state: State
    place: int
    left: float | None
    context: int
    sees: bool
    defaults: dict[str, float]


def names(services: Services, environ: Environ) -> list[str]:
    return [model.name for model in models(services, environ)]


def models(services: Services, environ: Environ) -> tuple[ChatModel, ...]:
    """The models for the caller: the default, the loaded, the others, the failed."""
    registry, default = services.gateway.registry, services.settings.default_model
    listed = registry.listed() or tuple(filter(registry.is_named, registry.models()))
    listed = tuple(dict.fromkeys((*listed, *registry.adapted(), *registry.routes)))
    allowed = visible(services, environ, (name for name in listed if not registry.forwards(name)))

    def rank(model: ChatModel) -> tuple[bool, bool, bool, str]:
        state = model.state
        is_lost, is_loaded = state in ("failed", "down"), state in ("ready", "busy")
        return is_lost, model.name != default, not is_loaded, model.name

    return tuple(sorted((_model(services, name) for name in allowed), key=rank))


def ears(services: Services, environ: Environ) -> str:
    """The model that writes down what is said into a microphone, "" for none."""
    registry = services.gateway.registry
    for dialect in HEAR:
        for name in visible(services, environ, filter(registry.is_named, registry.models())):
            probed = (backend.caps for backend in registry.pool(name) if backend.caps is not None)
            if any(caps.audio and caps.dialect == dialect for caps in probed):
                return name
    return ""


def unread(services: Services, environ: Environ) -> list[dict[str, str]]:
    """The servers whose models are unknown: their names, as the caller may see them, and why."""
    shown = permissions.shown_names(services, Record.of(environ).key)
    backends = services.gateway.registry.unread()
    return [{"name": shown(backend.name), "why": backend.error} for backend in backends]


def _model(services: Services, name: str) -> ChatModel:
    hosted = next((model for model in services.host.models if model.name == name), None)
    title, place, left = name, 0, None
    model, _ = services.gateway.registry.resolve(name)  # another one for a route with rules
    state: State
    if hosted is None:
        state = _state(services, model)
    else:
        now = time.time()
        seen = view.view_of(hosted, now)
        title, place, state = seen["title"] or name, seen["place"], seen["state"]
        left = max(seen["ready_at"] - now, 0.0) if seen["ready_at"] is not None else None
    return ChatModel(
        name=name,
        title=title,
        state=state,
        place=place,
        left=left,
        context=max((b.n_ctx for b in services.gateway.registry.pool(model)), default=0),
        sees=services.gateway.accepts_images(name),
        defaults=_defaults(services, model),
    )


def _state(services: Services, name: str) -> State:
    """The state of a model whose servers are not started here."""
    pool = services.gateway.registry.pool(name)
    serving = [backend for backend in pool if backend.up]
    if not serving:
        return "down" if all(backend.up is False for backend in pool) else "unknown"
    status = services.gateway.registry.status(name)
    if status == "failed":
        return "failed"
    if status in STATES:
        return STATES[status]
    scheduler = services.gateway.scheduler
    names = [backend.name for backend in serving]
    slots = [(scheduler.in_flight(name), scheduler.slots(name)) for name in names]
    return "busy" if all(count <= used for used, count in slots if count) and slots else "ready"


def _defaults(services: Services, name: str) -> dict[str, float]:
    """Those of the settings, else those that a server reports."""
    pool = services.gateway.registry.pool(name)
    reported = next((backend.caps.settings for backend in pool if backend.caps is not None), {})
    defaults = {**reported, **services.settings.sampler_defaults}
    return {name: defaults[name] for name in SHOWN if type(defaults.get(name)) in (int, float)}
