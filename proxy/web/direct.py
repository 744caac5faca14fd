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

from .reply import Plain
from .services import Services, services, services_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Environ = dict[str, Any]
Sent = Plain | Response
View = Callable[[Services, Environ], Sent]


class Application(Flask):
    def __init__(self, name: str) -> None:
        super().__init__(name, static_folder=None)
        self.direct: dict[str, View] = {}  # what is called for a POST to a path

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        view = self.direct.get(environ["PATH_INFO"])
        if (
            view is None
            or environ["REQUEST_METHOD"] != "POST"
            or self.after_request_funcs.get(None)
            or self.before_request_funcs.get(None)
        ):
            return super().wsgi_app(environ, start_response)
        try:
            sent = view(services_of(self), environ)
        except Exception as defect:
            with self.request_context(environ):
                sent = self.make_response(self.handle_user_exception(defect))
        return sent(environ, start_response)


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
