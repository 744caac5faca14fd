"""The page of the models that the gateway starts itself, and what its script calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from operator import attrgetter
from typing import Any

import msgspec
from flask import Response, after_this_request, make_response, redirect, render_template, request

from ...apis.fields import filled
from ...apis.models import routes as hosting
from ...apis.openai import routes as openai
from ...downloads.download import Download, shown
from ...hosting import view
from .. import downloads
from ..fastpath import Environ
from ..observability import Record
from ..permissions import visible
from ..services import Services, current_services
from ..spine import json_response, sent_json
from ..stream import looks
from . import api, chat_models, guard, session

# All times are points in time and not spans: nothing changes while a model waits, loads or idles.
PERIOD = 0.5  # seconds between two looks


def states(services: Services, environ: Environ) -> dict[str, Any]:
    """The models that the caller may use; others are segments without a name. `profiles` has the
    texts about the templates of models that were loaded once, `served` the models of servers that
    run already, `unread` the servers whose models are unknown."""
    registry = services.gateway.registry
    host, key = services.host, Record.of(environ).key
    admin, pulls = services.keys.is_admin(key), may_pull(services, key)
    # After a changed table, the former model of the name may still be there: the last one counts.
    named = {model.name: model for model in host.models if admin or not model.config.unlisted}
    listed = {name: named[name] for name in visible(services, environ, named)}
    now = time.time()
    return {
        "at": now,
        "admin": admin,
        "models": [view.view_of(model, now, admin=admin) for model in listed.values()],
        "room": view.room_of(host.room, listed),
        "download": _download(services.downloads.last) if pulls else None,
        "deletable": [*services.downloads.files()] if pulls else [],
        "profiles": {name: services.gateway.profile(name) for name in listed},
        "served": [
            model
            for model in sorted(chat_models.models(services, environ), key=attrgetter("name"))
            if host.find(model.name) is None and model.name not in registry.adapters
        ],
        "unread": chat_models.unread(services, environ),
    }


def may_pull(services: Services, key: str) -> bool:
    return services.downloads.can_begin and services.keys.is_given(key, "pull")


def _download(last: Download | None) -> dict[str, Any] | None:
    """The download under way, or the last one; `name` is the model's, once it is known."""
    if last is None:
        return None
    return {
        "name": last.said.chosen or shown(last.reference),
        "bytes": last.bytes,
        "size": last.said.size,
        "checking": last.checking,
        "ended": last.ended.is_set(),
        "error": last.error.message if last.error is not None else "",
    }


def _stream(
    services: Services, environ: Environ, sleep: Callable[[float], None] = time.sleep
) -> Generator[bytes, None, None]:
    """Yield server-sent events: `now`, at first and after each change."""
    shown: dict[str, Any] = {}
    for _ in looks(PERIOD, sleep):
        now = states(services, environ)
        if shown != {**now, "at": shown.get("at")}:
            shown = now
            yield b"event: now\ndata: " + msgspec.json.encode(now) + b"\n\n"


API = "/pages/api/models"
PATH = "/models"
LIST = "openai.models"  # the endpoint of the list for programs

blueprint = guard.guarded("panel_models")


def page() -> Response:
    services, key = current_services(), api.owner()
    admin, pulls = services.keys.is_admin(key), may_pull(services, key)
    return make_response(render_template("models.html", admin=admin, pulls=pulls))


blueprint.add_url_rule(PATH, "page", page, build_only=True)


@openai.blueprint.before_request  # not of the application: chats do without Flask
def page_for_browsers() -> Response | None:
    """Answer browsers with the page: at the same address, programs get OpenAI's list of models."""
    if (
        request.endpoint != LIST
        or request.path != f"{current_services().settings.api_prefix}{PATH}"
    ):
        return None
    after_this_request(_varies)
    return guard.answered(page) if guard.wants_page() and not session.has_key() else None


def _varies(response: Response) -> Response:
    response.vary.add("Accept")
    return response


@blueprint.get("/ui", strict_slashes=False)
def page_of_llama_swap() -> Response:
    """The address of its page there."""
    return make_response(redirect(f"{current_services().settings.api_prefix}{PATH}", 301))


@blueprint.get(API)
def now() -> Response:
    api.owner()
    return json_response(states(current_services(), request.environ))


@blueprint.get(f"{API}/events")
def events() -> Response:
    """Stream the state of the models. Raises QueueFull."""
    services, key = current_services(), api.owner()
    return hosting.watched(services, key, _stream(services, request.environ))


@blueprint.post(f"{API}/<any(load, unload, pin, unpin):action>")
def act(action: hosting.Action) -> Response:
    """Do this with `{"model"}`. Raises Forbidden, NotFound, InvalidParameter."""
    hosting.act(current_services(), api.owner(), action, filled(sent_json(), "model"))
    return api.done()


@blueprint.post(f"{API}/downloads")
def begin_download() -> Response:
    """Begin to download `{"model"}`. Raises as `downloads.begin`."""
    downloads.begin(current_services(), api.owner(), filled(sent_json(), "model"))
    return api.done()


@blueprint.post(f"{API}/downloads/list")
def list_download() -> Response:
    """The models of a repository, `{"model"}`, and which fit. Raises as `downloads.listed`."""
    text = filled(sent_json(), "model")
    return json_response(downloads.listed(current_services(), api.owner(), text))


@blueprint.delete(f"{API}/downloads")
def cancel_download() -> Response:
    """End the download under way. Raises Forbidden."""
    downloads.cancel(current_services(), api.owner())
    return api.done()


@blueprint.delete(f"{API}/files/<path:name>")
def delete(name: str) -> Response:
    """Delete a model. Raises Forbidden, NotFound."""
    downloads.delete(current_services(), api.owner(), name)
    return api.done()


@blueprint.get(f"{API}/logs/<path:name>")
def logs(name: str) -> Response:
    """Stream the log of a model. Raises Forbidden, NotFound, QueueFull."""
    services = current_services()
    return hosting.log_stream(services, api.owner(), name, request.headers.get("Last-Event-ID", ""))
