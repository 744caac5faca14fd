"""Cross-origin requests: off unless origins are configured; a wildcard never allows credentials.

A host name without a scheme allows all its origins, at any port. `localhost` allows those of every
loopback address.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from flask import Flask, Response, request

METHODS = "GET, POST, DELETE, OPTIONS"
HEADERS = "Authorization, Content-Type, X-Api-Key, X-Request-Id, X-Session-Id"
EXPOSED = ", ".join(
    (
        "x-request-id",
        "openai-processing-ms",
        "x-slotproxy-backend",
        "x-slotproxy-compacted",
        "x-slotproxy-fallback",
        "x-slotproxy-overhead-ms",
        "x-slotproxy-warning",
        "retry-after",
    )
)


def install(app: Flask, origins: Sequence[str]) -> None:
    """Answer OPTIONS requests on every path, and add CORS headers for the configured origins."""

    def options(path: str = "") -> Response:
        return Response(status=200, headers={"Allow": METHODS})

    app.add_url_rule("/", "options", options, methods=["OPTIONS"], provide_automatic_options=False)
    app.add_url_rule(
        "/<path:path>", "options", options, methods=["OPTIONS"], provide_automatic_options=False
    )
    if not origins:
        return
    any_origin = "*" in origins
    allowed = allowed_by(origins)

    @app.after_request
    def mark(response: Response) -> Response:
        origin = request.headers.get("Origin", "")
        if any_origin:
            response.headers["Access-Control-Allow-Origin"] = "*"
        elif allowed(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Credentials"] = "true"
            response.headers.add("Vary", "Origin")
        else:
            return response
        response.headers["Access-Control-Expose-Headers"] = EXPOSED
        if request.method == "OPTIONS":
            response.headers["Access-Control-Allow-Methods"] = METHODS
            response.headers["Access-Control-Allow-Headers"] = HEADERS
            response.headers["Access-Control-Max-Age"] = "600"
        return response


LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def allowed_by(origins: Sequence[str]) -> Callable[[str], bool]:
    """Return a function that tells whether an origin is in `origins` or on one of its hosts."""
    exact = frozenset(origins)
    hosts = {one for one in origins if "://" not in one}
    if "localhost" in hosts:
        hosts |= LOOPBACK

    def allowed(origin: str) -> bool:
        if origin in exact:
            return True
        try:
            parts = urlsplit(origin)
            return parts.scheme in ("http", "https") and parts.hostname in hosts
        except ValueError:
            return False

    return allowed
