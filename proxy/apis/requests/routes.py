"""GET /v1/requests, one request with the reason of its placement, cancelling one that runs or
ending its reasoning, and what would be done with a body.

A key sees and cancels its own requests; the keys of `--admins`, or all callers if no key is needed,
see and cancel all, and likewise read and delete what was captured of them. Requests that ended come
from this process' memory, and older ones and those of other processes from the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, cast

from flask import current_app, request
from msgspec import structs

from ...core.fold import fold
from ...core.request import CompletionRequest
from ...dialogue.loop import ToolAnswer
from ...errors import (
    Cancelled,
    Ended,
    InvalidParameter,
    NotFound,
    RequestCancelled,
    StoreUnavailable,
)
from ...gateway import Answer, Caller, Info
from ...gateway.explain import explain as what_if
from ...gateway.explain import must_load
from ...gateway.prewarm import prewarm as begin_prewarming
from ...observe.ring import Json, Seen, row_json, seen_json
from ...runtime.cancel import Cancel
from ...web import disconnect, permissions
from ...web.fastpath import Application, BodyAndHeaders, Environ
from ...web.ledger import query
from ...web.model_tables import read_request
from ...web.observability import RECORD, Record
from ...web.routes import Api
from ...web.services import Services, note
from ...web.spine import INSTEAD, Dialect, json_route, read_chat
from ...web.stream import EventSource
from ..fields import count_of

blueprint = Api("requests", __name__, group="", tag="slotproxy")

MOST = 200  # requests that ended, in an answer
USUAL = 50
FILTERS = ("key", "model", "api", "outcome")
LONGEST = 256  # characters of a filter
LOOK_BACK = 7 * query.DAY  # seconds; older requests are not looked up by their id


class _Visible:
    """The requests that a caller may see, those of `everyone` or its own, as JSON."""

    def __init__(self, services: Services, record: Record, *, everyone: bool) -> None:
        self._services = services
        self._shown = permissions.shown_names(services, record.key)
        self._own = {} if everyone else {"key": record.key}

    def may_see(self, key: str) -> bool:
        return not self._own or key == self._own["key"]

    def json(self, seen: Seen) -> Json:
        return self._with_name(seen_json(seen, self._shown))

    def opened(self, name: str) -> Json | None:
        row = self._services.requests.opened(name, self.may_see, self._shown)
        if row is None:
            return None
        before = [self._with_name(earlier) for earlier in row["slot_before"]]
        return {**self._with_name(row), "slot_before": before}

    def stored(self, begin: int, end: int, only: Mapping[str, str], limit: int) -> Iterator[Json]:
        """Those in the ledger, none while its database is unavailable."""
        if self._services.ledger is None:
            return
        chosen = {name: (value,) for name, value in {**only, **self._own}.items()}
        with suppress(StoreUnavailable):
            ledger = self._services.ledger.ledger
            for row in ledger.newest(1000 * begin, 1000 * end, chosen, limit):
                yield self._with_name(row_json(row, self._shown))

    def _with_name(self, row: Json) -> Json:
        return {**row, "key_name": self._services.keys.shown(row["key"]) if row["key"] else ""}


@json_route(blueprint, "GET", "/v1/requests")
def listed(services: Services, record: Record) -> Any:
    """The requests of the caller's key that run, and the last ones that ended; with `scope=all`,
    those of all keys. `key`, `model`, `api`, `outcome`, `start_time` and `end_time` choose some."""
    args, everyone = request.args, query.everyone(request.args)
    if everyone:
        permissions.check_admin(services, record.key)
    limit = count_of(args, "limit", USUAL, MOST)
    begin, end = query.time_range(args, time.time())
    only = {name: args[name] for name in FILTERS if args.get(name)}
    for name, value in only.items():
        if len(value) > LONGEST:
            raise InvalidParameter(name, f"must have at most {LONGEST} characters")
    visible = _Visible(services, record, everyone=everyone)

    def fitting(rows: Iterable[Json]) -> Iterator[Json]:
        return (row for row in rows if all(row[name] == only[name] for name in only))

    remembered = map(visible.json, services.requests.ended(visible.may_see))
    ended = [*islice(fitting(row for row in remembered if begin <= _end(row) < end), limit)]
    if len(ended) < limit and args.get("stored") != "false":
        ids = {row["id"] for row in ended}
        stored = fitting(visible.stored(begin, end, only, limit))
        ended += (row for row in stored if row["id"] not in ids)
        ended = sorted(ended, key=_end, reverse=True)[:limit]  # keeps ties in order
    running = [*fitting(map(visible.json, services.requests.running(visible.may_see)))]
    mode = services.captures.mode(record.key) if services.captures is not None else "off"
    return {"object": "list", "capture": mode, "running": running, "data": ended}


def _end(row: Json) -> float:
    return round(float(row["started"] + row["seconds"]), 3)


@json_route(blueprint, "GET", "/v1/requests/<name>")
def read(services: Services, record: Record, name: str) -> Any:
    """A request by its `x-request-id`: where it was placed, why its prompt was evaluated, and how
    long each step took."""
    everyone = services.keys.is_admin(record.key)
    visible, now = _Visible(services, record, everyone=everyone), int(time.time()) + 1
    stored = visible.stored(now - LOOK_BACK, now, {"request": name}, 1)
    if (row := visible.opened(name) or next(stored, None)) is not None:
        own, captures = {"request": name, "key": row["key"]}, services.captures
        return {**row, "captured": captures is not None and any(captures.find(**own))}
    raise NotFound(
        f"no request {name[:100]!r} is known: it must be the x-request-id of a request of this key"
        f" that asked a model, and at most {LOOK_BACK // 86400} days old"
    )


@json_route(blueprint, "POST", "/v1/requests/<name>/cancel")
def cancel(services: Services, record: Record, name: str) -> Any:
    """Cancel a request that runs, by its `x-request-id`. Its client gets an error that says who
    cancelled it."""
    by = services.keys.shown(record.key) if record.key else ""
    running = _running(services, record, name)
    for each, its_cancel in running:
        its_cancel.cancel(partial(RequestCancelled, by))
        details = {"key": each.key, "model": each.info.model}
        note(services, record.key, "cancel", "request", name, details)
    return {"id": name, "object": "request", "cancelled": len(running)}


@json_route(blueprint, "POST", "/v1/requests/<name>/end-thinking")
def end_thinking(services: Services, record: Record, name: str) -> Any:
    """End the reasoning of a request that runs, by its `x-request-id`: its answer begins. A backend
    that parses reasoning itself goes on."""
    running = _running(services, record, name)
    for _, its_cancel in running:
        its_cancel.hurried = True
    return {"id": name, "object": "request", "hurried": len(running)}


def _running(services: Services, record: Record, name: str) -> list[tuple[Record, Cancel]]:
    """The running requests of this id that the caller may see. Raises NotFound."""
    visible = _Visible(services, record, everyone=services.keys.is_admin(record.key))
    running = [
        (each, each.cancel)
        for each in services.requests.running_records(visible.may_see)
        if each.id == name and each.cancel is not None
    ]
    if not running:
        raise NotFound(
            f"no request {name[:100]!r} of this key is running in this process: it may have ended"
        )
    return running


@json_route(blueprint, "GET", "/v1/requests/<name>/capture")
def captured(services: Services, record: Record, name: str) -> Any:
    """What the client and the backends of a captured request sent and got, and its prompt."""
    capture = _capture(services, record, name)
    if capture["key"] != record.key:
        details = {"key": capture["key"]}
        note(services, record.key, "read capture", "request", name, details)
    return capture


@json_route(blueprint, "DELETE", "/v1/requests/<name>/capture")
def forget(services: Services, record: Record, name: str) -> Any:
    """Delete what was captured of a request."""
    key = _capture(services, record, name)["key"]
    assert services.captures is not None
    count = services.captures.delete(request=name, key=key)
    return {"id": name, "object": "request.capture.deleted", "deleted": count}


def _capture(services: Services, record: Record, name: str) -> Json:
    """The last capture of a request that the caller may see. Raises NotFound."""
    own = {} if services.keys.is_admin(record.key) else {"key": record.key}
    if services.captures is not None:
        for capture in services.captures.find(request=name, **own):
            return capture
    raise NotFound(
        f"there is no capture of the request {name[:100]!r}: it must be the x-request-id of a"
        " request of this key that was captured, and captures are deleted after some days"
    )


CHAT = "/v1/chat/completions"
UNLISTED = "tools of MCP servers: asked for when the answer begins, so they are missing here"
Begin = Callable[[CompletionRequest, Cancel, Caller], EventSource]


class _Body(NamedTuple):
    """A request to another route, whose key and rights were checked."""

    chat: CompletionRequest
    caller: Caller
    begin: Begin
    record: Record


@json_route(blueprint, "POST", "/v1/explain", body="ChatCompletionRequest")
def explain(services: Services, record: Record) -> Any:
    """What would be done with this body, without doing it: model, backend, slot and the other
    places with their costs, prompt, grammar and ignored fields. `route` says whose body it is."""
    return _instead(services, partial(_explained, services))


@json_route(blueprint, "POST", "/v1/prewarm", body="ChatCompletionRequest", ledger="prewarm")
def prewarm(services: Services, record: Record) -> Any:
    """Evaluate the prompt of this body in an idle slot, for the request that follows. It makes way
    for all others. `route` says whose body it is."""
    return _instead(services, partial(_prewarmed, services, record))


def _instead(services: Services, act: Callable[[_Body, Cancel], Json]) -> Json:
    """Do this with the body of the current request instead of answering it as its `route` does."""
    path = request.args.get("route", CHAT)
    environ: Environ = {**request.environ, "PATH_INFO": services.settings.api_prefix + path}
    app = cast(Application, current_app)
    view = app.direct.get(environ["PATH_INFO"])
    if view is None:
        raise InvalidParameter("route", f"must be one that answers with text, such as {CHAT}")
    inner, results = Record(environ), list[Json]()
    inner.route = environ["PATH_INFO"]  # its rights are those of the route
    environ[RECORD] = inner

    def instead(dialect: Dialect, begin: Begin | None) -> BodyAndHeaders:
        inner.key = services.keys.check(environ)
        with disconnect.watched(environ) as cancel:
            raw = read_request(services, inner, environ)
            chat, caller = read_chat(services, environ, dialect, raw)
            permissions.check_model(services, environ, chat.model)
            body = _Body(chat, caller, begin or services.gateway.answer, inner)
            results.append(act(body, cancel))
        return [], []

    environ[INSTEAD] = instead
    view(services, environ)
    environ.clear()  # ends a cycle of references
    return results[0]


def _explained(services: Services, body: _Body, cancel: Cancel) -> Json:
    shown = permissions.shown_names(services, body.record.key)
    info, warnings = Info(), body.record.warnings
    explained = must_load(services.gateway, body.chat.model)
    if explained is None:
        answer = body.begin(body.chat, cancel, body.caller)
        if isinstance(answer, ToolAnswer):
            if answer.request.servers:
                warnings += (UNLISTED,)
            answer = services.gateway.answer(answer.offering(), cancel, body.caller)
        assert isinstance(answer, Answer)
        explained, info = what_if(services.gateway, answer), answer.info
    places = [
        {**structs.asdict(place), "backend": shown(place.backend)} for place in explained.places
    ]
    return {
        "object": "explanation",
        **structs.asdict(explained),
        "chosen": body.record.chosen and structs.asdict(body.record.chosen),
        "warnings": [*warnings, *info.warnings],
        **services.requests.decision_json(info, shown),
        "places": places,
    }


def _prewarmed(services: Services, record: Record, body: _Body, cancel: Cancel) -> Json:
    services.observer.begin(record, cancel)
    record.allowance = body.record.allowance
    own = body.begin(body.chat, cancel, body.caller)  # it has done nothing yet
    chat = own.offering() if isinstance(own, ToolAnswer) else own.request
    answer = begin_prewarming(services.gateway, chat, cancel, body.caller)
    record.info = info = answer.info
    is_complete = True
    try:
        fold(answer)
    except Ended:
        raise
    except Cancelled:  # others need the slot, and what was evaluated stays there
        is_complete = False
    finally:
        answer.close()
    return {
        "object": "prewarm",
        "model": info.model,
        "complete": is_complete,
        "prompt_tokens": info.usage.prompt,
        "cached_tokens": info.usage.cached,
    }
