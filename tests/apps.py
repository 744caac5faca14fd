"""Applications for tests, each with its own services, on routes that are made once.

To register an application's 150 routes takes nine tenths of the time to make it. A process keeps
applications that no test uses any more, and attaches the next test's services to one of them.
"""

from __future__ import annotations

import atexit
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from proxy.app.compose import compose
from proxy.app.create import attach, with_routes
from proxy.backends.pools import Backend
from proxy.config import Settings
from proxy.web.fastpath import Application


class _Lent:
    """An application in use, until its exit handlers run: conftest.py calls them after the test
    or module that made it."""

    def __init__(self, app: Application, free: list[Application]) -> None:
        self._app = app
        self._free = free
        self._before = _setup(app)

    def give_back(self) -> None:
        self._app.extensions.clear()
        assert _setup(self._app) == self._before, "changed by its test: use create_app there"
        self._free.append(self._app)


_free: dict[Any, list[Application]] = defaultdict(list)


def app_on(backends: Sequence[Backend], settings: Settings) -> Application:
    """As ``create_app``. The test may not change hooks, views or attributes of the application."""
    routes = (settings.api_prefix, settings.chatchat, settings.pages, settings.cors_origins)
    free = _free[routes]
    services = compose(settings, backends)
    app = free.pop() if free else with_routes(settings)
    atexit.register(_Lent(app, free).give_back)
    attach(app, services)
    return app


def _setup(app: Application) -> list[object]:
    """State that one test could change and the next one would see."""
    hooks = (app.before_request_funcs, app.after_request_funcs, app.teardown_request_funcs)
    return [
        *({name: [*functions] for name, functions in hook.items() if functions} for hook in hooks),
        dict(app.view_functions),
        dict(app.direct),
        dict(app.config),
        app.test_client_class,
    ]
