"""The page of the models that the gateway starts itself, and what its script calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import msgspec
from flask import Response, make_response, render_template, request
from msgspec.structs import replace

from ...apis.fields import filled
from ...apis.models import routes as hosting
from ...hosting import view
from ...hosting.view import ModelView, RoomView
from ...prompting.profile.describe import Line
from .. import permissions
from ..fastpath import Environ
from ..observability import Record
from ..permissions import visible
from ..routes import Api
from ..services import Services, current_services
from ..spine import json_response
from . import api, guard

# The data of the models page: everything once, and again whenever something has changed.
#
# All times are points in time and not spans, so that nothing changes while a model only waits,
# loads or idles; the page counts the seconds. A stream ends after `LIFE` seconds and the browser
# reconnects.
PERIOD = 0.5  # seconds between two looks
LIFE = 15.0  # seconds per stream


class Models(msgspec.Struct, frozen=True):
    """What a key may see: the models that it may use. Only an admin may load, unload and pin them,
    and sees those that lists leave out. The others are segments without a name. `profiles` has the
    labels and texts about the template of each model that was loaded once."""

    admin: bool
    models: tuple[ModelView, ...]
    room: RoomView
    profiles: dict[str, tuple[Line, ...]]


def _states(services: Services, environ: Environ) -> Models:
    """What the caller of a request may see; its key has been checked."""
    host, admin = services.host, permissions.is_admin(services, Record.of(environ).key)
    # After a changed table, the former model of the name may still be there: the last one counts.
    named = {one.name: one for one in host.models if admin or not one.config.unlisted}
    listed = {name: named[name] for name in visible(services, environ, named)}
    states = time.time()
    models = tuple(view.view_of(one, states) for one in listed.values())
    room = view.room_of(host.room)
    bars = tuple(
        replace(
            bar,
            segments=tuple(
                one if one.model in listed else replace(one, model="") for one in bar.segments
            ),
        )
        for bar in room.bars
    )
    profiles = {name: services.gateway.profile(name) for name in listed}
    return Models(admin, models, replace(room, bars=bars), profiles)


def states(services: Services, environ: Environ) -> dict[str, Any]:
    """What the caller may see, and the time, `at`."""
    return {"at": time.time(), **msgspec.to_builtins(_states(services, environ))}


def _stream(
    services: Services, environ: Environ, sleep: Callable[[float], None] = time.sleep
) -> Generator[bytes, None, None]:
    """Yield server-sent events: `now`, at first and after each change."""
    yield b"retry: 500\n\n"
    known: Models | None = None
    end = time.monotonic() + LIFE
    while True:
        models = _states(services, environ)
        if models != known:
            known = models
            data = {"at": time.time(), **msgspec.to_builtins(models)}
            yield b"event: now\ndata: " + msgspec.json.encode(data) + b"\n\n"
        if time.monotonic() + PERIOD > end:
            return
        sleep(PERIOD)


API = "/pages/api/models"

blueprint = Api("panel_models", __name__, group="pages", ledger="pages")
guard.protect(blueprint)


@blueprint.get("/hosting")
def page() -> Response:
    """The page. It is not at /models, which is a route of llama-server."""
    admin = permissions.is_admin(current_services(), api.owner())
    return make_response(render_template("models.html", admin=admin))


@blueprint.get(API)
def now() -> Response:
    api.owner()
    response = json_response(states(current_services(), request.environ))
    response.headers["Cache-Control"] = "no-store"
    return response


@blueprint.get(f"{API}/events")
def events() -> Response:
    """Stream the state of the models. Raises QueueFull."""
    services, key = current_services(), api.owner()
    return hosting.watched(services, key, _stream(services, request.environ))


@blueprint.post(f"{API}/<any(load, unload, pin, unpin):action>")
def act(action: hosting.Action) -> Response:
    """Do this with `{"model"}`. Raises Forbidden, NotFound, InvalidParameter."""
    hosting.act(current_services(), api.owner(), action, filled(api.json_body(), "model"))
    return api.done()


@blueprint.get(f"{API}/logs/<path:name>")
def logs(name: str) -> Response:
    """Stream the log of a model. Raises Forbidden, NotFound, QueueFull."""
    services = current_services()
    return hosting.log_stream(services, api.owner(), name, request.headers.get("Last-Event-ID", ""))
