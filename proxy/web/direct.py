"""Flask, with a direct way to the views that ask for nothing of it.

What Flask does around a view (a request object, two contexts, routing, signals, hooks) is a seventh
of what a short answer costs. A view that takes the services and the WSGI environment alone is found
by its path and called. It is a route of its blueprint like any other, and Flask's own way leads to
it too: for other methods, for paths that only nearly fit, and for every request as long as a hook
of the application's (cross-origin calls) concerns all routes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.wsgi import ClosingIterator

from .observe import NOSNIFF, Record
from .peers import TrustedProxies
from .reply import Plain
from .services import Services, services, services_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Environ = dict[str, Any]
Sent = Plain | Response
View = Callable[[Services, Environ], Sent]

# Endpoints that are asked all the time, and whose success nobody needs to read of.
QUIET = frozenset({"status.ready", "status.live", "pages.static"})


class Application(Flask):
    def __init__(self, name: str) -> None:
        super().__init__(name, static_folder=None)
        self.direct: dict[str, View] = {}  # what is called for a POST to a path
        self.proxies: TrustedProxies | None = None
        # What refuses a request before all else; None lets it through.
        self.judge: Callable[[Environ], Response | None] = lambda environ: None

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self.proxies is not None:
            environ["REMOTE_ADDR"] = self.proxies.client(environ)
        refused = self.judge(environ)
        if refused is not None:
            services_of(self).observer.end(Record.of(environ))
            return refused(environ, start_response)
        view = self.direct.get(environ["PATH_INFO"])
        if (
            view is None
            or environ["REQUEST_METHOD"] != "POST"
            or self.after_request_funcs.get(None)
            or self.before_request_funcs.get(None)
        ):
            return self._observed(environ, start_response)
        try:
            sent = view(services_of(self), environ)
        except Exception as defect:
            with self.request_context(environ):
                sent = self.make_response(self.handle_user_exception(defect))
        return sent(environ, start_response)

    def _observed(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Flask's way: whatever becomes of the request, it leaves one line and is counted once."""
        record, end = Record.of(environ), services_of(self).observer.end

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            if not record.begun:
                record.status = int(status[:3])
            if not any(name.lower() == "x-content-type-options" for name, _ in headers):
                headers.append(NOSNIFF)
            return start_response(status, headers, *error)

        try:
            body = super().wsgi_app(environ, start)
        except BaseException:
            record.status = 500
            end(record)
            raise
        if record.begun:
            return body  # whoever told of its beginning tells of its end
        if isinstance(body, tuple | list):
            end(record)
            return body
        return ClosingIterator(body, partial(end, record))

    def full_dispatch_request(self) -> Response:
        record, rule = Record.of(request.environ), request.url_rule
        if rule is not None:
            record.route = rule.rule
            record.quiet = rule.endpoint in QUIET
        return super().full_dispatch_request()


def post(blueprint: Blueprint, *paths: str) -> Callable[[View], View]:
    """Make a view the route of POST to these paths, which have no variable parts."""

    def register(view: View) -> View:
        def record(state: BlueprintSetupState) -> None:
            assert isinstance(state.app, Application)
            for path in paths:
                state.app.direct[f"{state.url_prefix or ''}{path}"] = view

        through = partial(_through_flask, view)
        for path in paths:
            blueprint.add_url_rule(path, view.__name__, through, methods=["POST"])
        blueprint.record(record)
        return view

    return register


def _through_flask(view: View) -> Response:
    sent = view(services(), request.environ)
    return sent.reply() if isinstance(sent, Plain) else sent
