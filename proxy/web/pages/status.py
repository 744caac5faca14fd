"""The status page, and the stream that keeps it alive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec
from flask import Blueprint, Response, make_response, render_template, request

from ...errors import QueueFull
from ...gateway import Caller
from ..exchange import STREAM_HEADERS
from ..reply import Reply
from ..services import Services, services
from . import guard, status_feed

blueprint = Blueprint("panel_status", __name__)
guard.protect(blueprint)

MOST_WATCHERS = 32  # at once, of all keys


@blueprint.get("/status")
def page() -> Response:
    return make_response(render_template("status.html"))


@blueprint.get("/pages/api/status")
def now() -> Response:
    """What `status_feed.now` and `points` tell, once."""
    here = services()
    data = {**status_feed.now(here, _caller(here)), "points": status_feed.points(here)}
    return Reply(msgspec.json.encode(data), "application/json", [("Cache-Control", "no-store")])


@blueprint.get("/pages/api/status/events")
def events() -> Response:
    """Raises QueueFull."""
    here = services()
    caller = _caller(here)
    if not here.watchers.take(caller.key):
        raise QueueFull("too many look at the status", retry_after=status_feed.LIFE)
    body = _Seated(status_feed.events(here, caller), partial(here.watchers.give, caller.key))
    return Reply(body, "text/event-stream", [*STREAM_HEADERS])


class _Seated:
    """A stream that gives its seat back once, whichever way it ends."""

    def __init__(self, parts: Iterator[bytes], leave: Callable[[], None]) -> None:
        self._parts = parts
        self._leave = leave
        self._open = True

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def close(self) -> None:
        if self._open:
            self._open = False
            self._leave()


def _caller(here: Services) -> Caller:
    return here.callers.caller(here.keys.check(request.environ), request.environ)
