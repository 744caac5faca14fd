"""Routes, each described once, beside its view.

What the gateway knows of a route: its group, for the rights of keys; the name of its API in the
ledger; the form of its errors; and its row of /openapi.json. An `Api` says it for all its routes,
the keywords of a route's decorator for one of them, and the docstring of the view sums it up:

    @json_route(api, "POST", "/v1/batches", "/batches", body="BatchRequest")
    def create(services: Services, record: Record) -> Any:
        '''A batch of requests from an uploaded file.'''
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flask import Blueprint, Flask
from flask.blueprints import BlueprintSetupState

from ..apis.openai import answer as openai
from ..apis.schema_fields import Schema
from ..errors import GatewayError

Shape = Callable[[GatewayError], dict[str, Any]]

ROUTES = "ROUTES"  # key in app.config
PAGES = "/pages/api/"  # begins the routes that only the scripts of pages use
SSE, LINES, ANY = "text/event-stream", "application/x-ndjson", "*/*"
OTHER = "other"  # the API of the ledger for routes that ask no model


class Route(NamedTuple):
    """A route of an application: its `path`, without the prefix of the gateway, and the keywords
    that its decorator takes.

    `body` names the schema of a body or form, `other` that of an alternative body. `streams` is the
    media type of the streamed answer, `answer` that of the whole one, "" if there is none. `empty`
    describes answers without a body, by status. `foreign`: errors are those of a model's server, of
    any media type. `is_open`: no key is needed. `quiet`: it is logged only with a 5xx or at level
    debug, as is all that the pages poll. The others replace what the API says: the group of rights,
    the name in the ledger, the tag and the schema of errors in the document, which has no route
    without a tag: only the pages use it. `summary` is the first paragraph of the view's docstring,
    unless it is given."""

    path: str
    summary: str = ""
    body: str = ""
    streams: str = ""
    answer: str = "application/json"
    other: str = ""
    empty: Mapping[str, str] = {}
    foreign: bool = False
    is_open: bool = False
    quiet: bool = False
    group: str = ""
    ledger: str = OTHER
    tag: str = ""
    error_schema: str = "Error"


Routes = Mapping[tuple[str, str], Route]
"""By method and rule."""


class Api(Blueprint):
    """The routes of an API. Every key may use those of the group "". `owns` is the beginning of all
    its paths, if no other API has such paths: unknown ones get errors in its form, too. `schemas`
    are those of its bodies and errors, by the names that its routes give."""

    def __init__(
        self,
        name: str,
        import_name: str,
        *,
        group: str,
        tag: str = "",
        ledger: str = OTHER,
        error: Shape = openai.error,
        error_schema: str = "Error",
        owns: str = "",
        schemas: Mapping[str, Schema] = {},
    ) -> None:
        super().__init__(name, import_name)
        self._about = {"group": group, "tag": tag, "ledger": ledger, "error_schema": error_schema}
        self.error, self.owns, self.schemas = error, owns, schemas

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view_func: Any = None,
        provide_automatic_options: bool | None = None,
        **options: Any,
    ) -> None:
        about = {name: options.pop(name) for name in Route._fields if name in options}
        super().add_url_rule(rule, endpoint, view_func, provide_automatic_options, **options)
        if options.get("build_only"):  # the address of another route
            return
        methods = set(options.get("methods") or ("GET",))
        is_polled = methods == {"GET"} and rule.startswith(PAGES)
        defaults = {**self._about, "summary": _summary(view_func), "quiet": is_polled}
        route = Route(rule, **{**defaults, **about})
        methods |= {"OPTIONS", "HEAD"} if "GET" in methods else {"OPTIONS"}

        def note(state: BlueprintSetupState) -> None:
            path = f"{(state.url_prefix or '').rstrip('/')}{rule}"
            routes = state.app.config.setdefault(ROUTES, {})
            routes.update({(method, path): route for method in methods})

        self.record(note)


def _summary(view: object) -> str:
    """The first paragraph of its docstring, without the full stop."""
    first, _, _ = (inspect.getdoc(view) or "").partition("\n\n")
    return " ".join(first.split()).removesuffix(".")


def routes_of(app: Flask) -> Routes:
    """The routes of an application, in the order of their registration."""
    routes: Routes = app.config[ROUTES]
    return routes


def error_form(app: Flask, path: str) -> Shape:
    """The form of errors that no view makes: an unknown route, a wrong method, another site's page.
    Clients of some APIs read errors only in the API's own form; all others know OpenAI's."""
    own = path.removeprefix(app.config["API_PREFIX"])
    for api in app.iter_blueprints():
        if isinstance(api, Api) and api.owns and own.startswith(api.owns):
            return api.error
    return openai.error
