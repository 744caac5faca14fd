"""A Flask application with a fast path for views that do not need Flask.

What Flask does around a view is a fifth of the cost of a short answer. A view that takes only the
services and the WSGI environment is found by its path and called. It is also an ordinary route, for
other methods, for paths that do not match exactly, and while the application has hooks for all
routes (cross-origin requests).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property, partial, wraps
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import Rule
from werkzeug.wsgi import ClosingIterator

from .client_address import TrustedProxies
from .observability import RECORD, Record
from .routes import Api, routes_of
from .services import EXTENSION, Services, current_services, services_of
from .stream import WholeBody

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Environ = dict[str, Any]
# What is sent with status 200. A Response costs twenty calls more.
BodyAndHeaders = tuple[Iterable[bytes], list[tuple[str, str]]]
View = Callable[[Services, Environ], Response | BodyAndHeaders]


class _Rule(Rule):
    """Compiles what makes a URL when that is asked for first: few are, and to compile all takes a
    sixth of the start."""

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        compile_now = super()._compile_builder
        made: Callable[..., tuple[str, str]] | None = None

        def build(rule: Rule, /, **values: Any) -> tuple[str, str]:
            nonlocal made
            made = made or compile_now(append_unknown)
            return made(rule, **values)

        return build


class Application(Flask):
    url_rule_class = _Rule

    def __init__(self, name: str) -> None:
        super().__init__(name, static_folder=None)
        self.direct: dict[str, View] = {}  # views of POST requests, by path
        self.proxies: TrustedProxies | None = None
        # Returns the response that refuses a request, or None. Called before anything else.
        self.check_site: Callable[[Environ], Response | None] = lambda environ: None

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Handle a request. Every request is logged once and counted once."""
        if self.proxies is not None:
            environ["REMOTE_ADDR"] = self.proxies.client(environ)
        record = environ[RECORD] = Record(environ)
        refused = self.check_site(environ)
        if refused is not None:
            self._finish_whole(record, refused)
            return refused(environ, _with_headers_of(record, start_response))
        view = self._fast.get(environ["PATH_INFO"])
        if view is None or environ["REQUEST_METHOD"] != "POST":
            return self._through_flask(record, environ, start_response)
        services: Services = self.extensions[EXTENSION]
        try:
            sent = view(services, environ)
        except Exception as defect:
            with self.request_context(environ):
                sent = self.make_response(self.handle_user_exception(defect))
        if isinstance(sent, tuple):
            parts, headers = sent
            if "slotproxy.is_last" in environ and not record.stream:
                # Our worker runs nothing else between a part and the next: nobody sees a gap.
                parts = WholeBody(parts, partial(services.observer.finish, record))
            elif not record.stream:
                services.observer.finish(record)
            start_response("200 OK", [*record.headers(), *headers])
            return parts
        self._finish_whole(record, sent)
        return sent(environ, _with_headers_of(record, start_response))

    @cached_property
    def _fast(self) -> dict[str, View]:
        """The direct views, none if hooks concern all routes. They are set before any request."""
        hooks = self.after_request_funcs.get(None) or self.before_request_funcs.get(None)
        return {} if hooks else self.direct

    def _through_flask(
        self, record: Record, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        finish = services_of(self).observer.finish
        start_with_headers = _with_headers_of(record, start_response)

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            _note(record, int(status[:3]))
            return start_with_headers(status, headers, *error)

        try:
            body = super().wsgi_app(environ, start)
        except BaseException:
            record.status = 500
            finish(record)
            raise
        if record.over or record.stream:  # a stream is finished by close()
            return body
        return ClosingIterator(body, partial(finish, record))

    def _finish_whole(self, record: Record, response: Response) -> None:
        """Finish the record of a response whose body is complete."""
        if response.is_sequence:
            _note(record, response.status_code)
            services_of(self).observer.finish(record)

    def full_dispatch_request(self) -> Response:
        record, rule = Record.of(request.environ), request.url_rule
        if rule is not None:
            record.route = rule.rule
            route = routes_of(self).get((request.method, rule.rule))
            record.quiet = route is not None and route.quiet
        response = super().full_dispatch_request()
        self._finish_whole(record, response)
        return response


def _with_headers_of(record: Record, start_response: StartResponse) -> StartResponse:
    def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        return start_response(status, [*record.headers(), *headers], *error)

    return start


def _note(record: Record, status: int) -> None:
    if not record.asks_model:  # the views that ask a model set their own status
        record.status = status


def post(api: Api, *paths: str, **about: Any) -> Callable[[View], View]:
    """Register a view for POST to these paths, which have no variable parts."""

    def register(view: View) -> View:
        def record(state: BlueprintSetupState) -> None:
            assert isinstance(state.app, Application)
            for path in paths:
                state.app.direct[f"{state.url_prefix or ''}{path}"] = view

        @wraps(view)
        def through() -> Response:
            return _through_flask(view)

        for path in paths:
            api.add_url_rule(path, view.__name__, through, methods=["POST"], **about)
        api.record(record)
        return view

    return register


def _through_flask(view: View) -> Response:
    sent = view(current_services(), request.environ)
    if isinstance(sent, Response):
        return sent
    # Unwrapped, since the server reads `holds_slot` of a stream's body.
    return Response(sent[0], 200, sent[1], direct_passthrough=True)
