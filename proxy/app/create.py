"""Creates the WSGI application: Flask's routes, and the gateway behind them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException

from ..accounts.key_cache import without_keys
from ..apis import modules
from ..backends.pools import Backend
from ..batches.batch_run import make_sender
from ..config import Settings, routes
from ..errors import BadRequest, GatewayError, MethodNotAllowed, NotFound
from ..runtime import logs
from ..runtime.life import Life
from ..web import body, pages, reference, site
from ..web.auth import basic_password
from ..web.client_address import TrustedProxies
from ..web.fastpath import Application
from ..web.observability import Record
from ..web.routes import error_form, routes_of
from ..web.services import EXTENSION, Services
from ..web.services import services_of as services_of  # part of this module's interface
from ..web.site import Sites, site_check
from ..web.spine import refuse
from .compose import JOINS, backend_of, compose, configs, replaced

log = logging.getLogger("slotproxy")


def create_app(settings: Settings, backends: Sequence[Backend] | None = None) -> Flask:
    """The WSGI application. Raises SettingsError for a setting that only a part of it can check."""
    logs.begin(settings.log_format, settings.log_level)
    services = compose(settings, backends)
    app = with_routes(settings)
    attach(app, services)
    if settings.state:
        # Other workers serve meanwhile; this one should be ready when it begins.
        services.gateway.registry.looked.wait(JOINS)
    return app


def with_routes(settings: Settings) -> Application:
    """The routes without services; they depend on prefix, pages, origins and switches of APIs."""
    app = Application("slotproxy")
    app.config["MAX_CONTENT_LENGTH"] = body.NET
    prefix = app.config["API_PREFIX"] = settings.api_prefix
    for name, module in modules().items():
        if getattr(settings, name, True) is not False:
            app.register_blueprint(import_module(module).blueprint, url_prefix=prefix)
    app.register_blueprint(reference.blueprint, url_prefix=prefix)
    if settings.pages:
        pages.install(app, prefix)
    site.install(app, settings.cors_origins)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _defect)
    return app


def attach(app: Application, services: Services) -> None:
    """Attach the services that the routes use."""
    settings = services.settings
    app.extensions[EXTENSION] = services
    services.keys.routes = services.requests.routes = routes_of(app)
    if services.ledger is not None:
        services.ledger.routes = routes_of(app)
    vars(app).pop("wsgi_app", None)
    if services.captures is not None:
        app.wsgi_app = services.captures.watching(app.wsgi_app)  # type: ignore[assignment, method-assign]
    if services.batch_runner is not None:
        services.batch_runner.ask = make_sender(app.wsgi_app, settings.api_prefix)
    app.proxies = TrustedProxies(settings.trusted_proxies) if settings.trusted_proxies else None
    machine = socket.gethostname()
    sites = Sites(settings.host, settings.allowed_hosts, settings.cors_origins, machine=machine)
    app.check_site = site_check(
        sites, keys=bool(settings.keys), error_form=partial(error_form, app)
    )


def reload(app: Flask, settings: Settings) -> None:
    """Add, change and drain backends according to these settings, and accept the API keys of their
    file; nothing else changes. Raises SettingsError, and then nothing has changed."""
    services = services_of(app)
    new_configs, replace_keys = configs(settings), replaced(services, settings)
    services.gateway.registry.reload(
        new_configs, lambda config: backend_of(settings, config, services.host)
    )
    services.gateway.registry.rules = routes.rules(settings.route)
    replace_keys()


def life_of(app: Flask) -> Life:
    """What ends the services of an application."""
    return services_of(app).life


def suspend_keys(app: Flask) -> bool:
    """Refuse the API keys of the settings until `reload`. Returns whether there are any."""
    keys = services_of(app).keys
    keys.suspend()
    return keys.needed


def shows_key(app: Flask, environ: Mapping[str, str]) -> bool:
    """Whether the headers have a valid key or session, for servers that read the body first."""
    services = services_of(app)
    if not services.keys.needed:
        return True
    assert isinstance(app, Application)
    headers = dict(environ)
    if app.proxies is not None:
        headers["REMOTE_ADDR"] = app.proxies.client(headers)
    try:
        password = basic_password(headers)
        if password is not None:
            return bool(services.keys.check(headers, password))
        if services.keys.has_key(headers):
            return True
        with app.test_request_context(headers={"Cookie": headers.get("HTTP_COOKIE", "")}):
            return bool(pages.session.signed_in())
    except GatewayError:
        return False


def _http_error(error: HTTPException) -> Response:
    """Convert flask's own errors to ours."""
    fault: GatewayError
    allowed = set(getattr(error, "valid_methods", None) or ())
    # OPTIONS is answered everywhere, even on unknown paths.
    if error.code == 404 or (error.code == 405 and allowed <= {"OPTIONS"}):
        path, there = without_keys(request.path)[:200], reference.place(current_app)
        fault = NotFound(f"no such route: {path} (see {there})")
    elif error.code == 405:
        right = " or ".join(sorted(allowed - {"HEAD", "OPTIONS"})) or "OPTIONS"
        wrong = f"method {request.method} is not allowed for this route"
        fault = MethodNotAllowed(f"{wrong}: use {right}")
    else:
        fault = BadRequest(error.description or "the request is malformed")
        fault.status = error.code or 400
    response = _refused(fault)
    if fault.status == 405:
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


def _defect(error: Exception) -> Response:
    """Log a defect in full, and show nothing of it. Errors that a hook raises come here too."""
    if isinstance(error, GatewayError):
        return _refused(error)
    log.exception("unhandled exception in %s", without_keys(request.path)[:200])
    return _refused(GatewayError("internal error"))


def _refused(fault: GatewayError) -> Response:
    """An error page for browsers, the error object of the API for all others."""
    if pages.guard.wants_page():
        return pages.guard.error_page(fault)
    form = error_form(current_app, request.path)
    return refuse(fault, form, Record.of(request.environ))
