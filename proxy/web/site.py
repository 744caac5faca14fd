"""Checks which web sites may call the gateway, before any routing.

Any web page can make a browser on this machine or network send requests here. If API keys are
configured, such a page has none. Without keys, two checks replace them:

- Host: a page can point a name of its own at this address (DNS rebinding) and then read all
answers. So the Host must be an IP address, localhost, a name of this machine, or one of
`--allowed-hosts`. Names of private networks (`gateway`, `printer.local`) are accepted unless the
gateway listens on loopback.
- Origin: requests that change something must not come from a page of another site, which browsers
name in `Origin` and `Sec-Fetch-Site`. `--cors-origins` names exceptions.

With keys, only requests with `Authorization: Basic` need the Origin check, since browsers add that
header by themselves.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, request

from ..errors import Forbidden
from .fastpath import Environ
from .observability import Record
from .routes import Shape
from .spine import refuse

# Cross-origin requests: off unless origins are configured; a wildcard never allows credentials.
#
# A host name without a scheme allows all its origins, at any port. `localhost` allows those of
# every loopback address.
METHODS = "GET, POST, DELETE, OPTIONS"
HEADERS = "Authorization, Content-Type, X-Api-Key, X-Request-Id, X-Session-Id"
EXPOSED = ", ".join(
    "x-request-id openai-processing-ms x-slotproxy-backend x-slotproxy-compacted"
    " x-slotproxy-decision x-slotproxy-fallback x-slotproxy-model x-slotproxy-overhead-ms"
    " x-slotproxy-warning retry-after".split()
)


def install(app: Flask, origins: Sequence[str]) -> None:
    """Answer OPTIONS requests on every path, and add CORS headers for the configured origins."""

    def options(path: str = "") -> Response:
        return Response(status=200, headers={"Allow": METHODS})

    about: dict[str, Any] = {"methods": ["OPTIONS"], "provide_automatic_options": False}
    for rule in ("/", "/<path:path>"):
        app.add_url_rule(rule, "options", options, **about)
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
    hosts = {origin for origin in origins if "://" not in origin}
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


SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_HOST = 300  # characters; names in DNS have at most 253
REMEMBERED = 64  # accepted Hosts that are cached
# Names under which containers reach their host machine.
CONTAINERS = frozenset(
    {"host.docker.internal", "gateway.docker.internal", "host.containers.internal"}
)
PRIVATE = (".local", ".internal", ".home.arpa")  # never used in public DNS
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::[0-9]*)?")


class Sites:
    """`host` is the address the gateway listens on, `hosts` the names in `--allowed-hosts`,
    `origins` those in `--cors-origins`, `machine` the name of this machine."""

    def __init__(
        self, host: str, hosts: Collection[str], origins: Sequence[str], *, machine: str = ""
    ) -> None:
        self._any_host = "*" in hosts
        self._names = {host.lower(), machine.lower(), *hosts} - {""}
        self._domains = tuple(name for name in hosts if name.startswith("."))
        self._private = not _loopback(host)
        self._any_origin = "*" in origins
        self._named = allowed_by(origins)
        self.accepted: set[str] = set()  # Hosts that were checked

    def check_host(self, environ: Environ) -> None:
        """Raises Forbidden for a Host that another site could own."""
        # Browsers always send a Host.
        host = environ.get("HTTP_HOST")
        if not host or self._any_host:
            return
        if not self._knows(host):
            raise Forbidden(
                f"without API keys this gateway accepts only known hosts, and"
                f" {host[:MAX_HOST]!r} is not one of them: add it to --allowed-hosts, or set"
                f" --api-key",
                code="unknown_host",
            )
        if len(self.accepted) < REMEMBERED:
            self.accepted.add(host)

    def check_origin(self, environ: Environ) -> None:
        """Raises Forbidden for a request of another site's page that would change something."""
        origin, site = environ.get("HTTP_ORIGIN"), environ.get("HTTP_SEC_FETCH_SITE")
        # Browsers let any page open a WebSocket to any site.
        safe = environ["REQUEST_METHOD"] in SAFE and "HTTP_UPGRADE" not in environ
        if safe or self._any_origin:
            return
        # A proxy may have changed the Host, but the browser knows the site of its page.
        if site == "same-origin":
            return
        if site in (None, "none"):
            if origin is None:
                return
            if origin.partition("://")[2] == environ.get("HTTP_HOST", "").lower():
                return
        if self._named(origin or ""):
            return
        named = f"the origin {origin[:MAX_HOST]!r}" if origin else "another site"
        raise Forbidden(
            f"pages from {named} may not change anything: add the origin to --cors-origins, or"
            f" send an API key as Authorization: Bearer",
            code="unknown_origin",
        )

    def _knows(self, host: str) -> bool:
        match = _HOST.fullmatch(host.lower()) if len(host) <= MAX_HOST else None
        if match is None:
            return False
        six, name = match[1], (match[2] or "").removesuffix(".")
        if six or _is_address(name):
            return _is_address(six or name)
        return (
            name in self._names
            or name == "localhost"
            or name.endswith((".localhost", *self._domains))
            or name in CONTAINERS
            or (self._private and ("." not in name or name.endswith(PRIVATE)))
        )


def site_check(
    sites: Sites, *, keys: bool, error_form: Callable[[str], Shape]
) -> Callable[[Environ], Response | None]:
    """Return the check of a gateway with or without keys: it returns the response that refuses a
    request, or None. `error_form` gives the form of errors for a path."""

    def check(environ: Environ) -> Response | None:
        try:
            if not keys and environ.get("HTTP_HOST") not in sites.accepted:
                sites.check_host(environ)
            if "HTTP_ORIGIN" in environ or "HTTP_SEC_FETCH_SITE" in environ:
                basic = environ.get("HTTP_AUTHORIZATION", "")[:6].lower() == "basic "
                if basic or not keys:
                    sites.check_origin(environ)
        except Forbidden as fault:
            form = error_form(environ.get("PATH_INFO", ""))
            return refuse(fault, form, Record.of(environ))
        return None

    return check


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _loopback(host: str) -> bool:
    is_address = _is_address(host)
    return ipaddress.ip_address(host).is_loopback if is_address else host.lower() == "localhost"
