"""Which web sites may use this gateway, judged before any routing.

A browser on this machine or in this network can be led to send requests here by any page it shows.
Where API keys are set, such a page has none. Where none are set, two checks stand in for a key:

- Host: a page may point a name of its own at this address (DNS rebinding) and then read all
  answers. So the Host must be one that no stranger can hold: an IP address, localhost, a name of
  this machine, a name of `--allowed-hosts`. Names that exist in private networks alone
  (`gateway`, `printer.local`) are taken unless the gateway listens on loopback: there they only
  help somebody in the network to get in.
- Origin: what changes something must not come from a page of another site. Browsers tell the site
  in `Origin` and `Sec-Fetch-Site`, which no script can forge. `--cors-origins` names those that
  may.

With keys, the Origin is checked for `Authorization: Basic` alone, which browsers add by themselves.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable, Collection, Sequence

from flask import Response

from ..dialects import openai
from ..errors import Forbidden
from .cors import allowed_by
from .direct import Environ
from .exchange import refuse
from .observe import Record

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_HOST = 300  # characters; no name in DNS is longer than 253
REMEMBERED = 64  # Hosts that need no second look
TOLD = 20  # refusals that the log shows
# How containers call the machine they run on.
CONTAINERS = frozenset(
    {"host.docker.internal", "gateway.docker.internal", "host.containers.internal"}
)
PRIVATE = (".local", ".internal", ".home.arpa")  # no name in public DNS ends so
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::[0-9]*)?")

log = logging.getLogger("slotproxy")


class Sites:
    """`host` is the address the gateway listens on, `hosts` are `--allowed-hosts`, `origins` those
    of `--cors-origins`. `machine` is the name of this machine."""

    def __init__(
        self, host: str, hosts: Collection[str], origins: Sequence[str], *, machine: str = ""
    ) -> None:
        self._any_host = "*" in hosts
        self._names = {host.lower(), machine.lower(), *hosts} - {""}
        self._domains = tuple(one for one in hosts if one.startswith("."))
        self._private = not _loopback(host)
        self._any_origin = "*" in origins
        self._named = allowed_by(origins)
        self._remembered: set[str] = set()

    def judge_host(self, environ: Environ) -> None:
        """Raises Forbidden for a Host that a stranger's page may have."""
        # A request without a Host comes from no browser.
        host = environ.get("HTTP_HOST")
        if not host or host in self._remembered or self._any_host:
            return
        if not self._knows(host):
            raise Forbidden(
                f"this gateway has no API keys, so it answers only to hosts it knows, and "
                f"{host[:MAX_HOST]!r} is none: name it in --allowed-hosts, or set --api-key",
                code="unknown_host",
            )
        if len(self._remembered) < REMEMBERED:
            self._remembered.add(host)

    def judge_origin(self, environ: Environ) -> None:
        """Raises Forbidden for what a page of another site sends to change something."""
        origin, site = environ.get("HTTP_ORIGIN"), environ.get("HTTP_SEC_FETCH_SITE")
        if origin is None and site is None:
            return
        if environ["REQUEST_METHOD"] in SAFE or self._any_origin:
            return
        # A proxy may have changed the Host; a browser knows all the same which site is its page's.
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
            f"a page of {named} may not change anything here: name the origin in --cors-origins, "
            "or send an API key as Authorization: Bearer",
            code="unknown_origin",
        )

    def _knows(self, host: str) -> bool:
        found = _HOST.fullmatch(host.lower()) if len(host) <= MAX_HOST else None
        if found is None:
            return False
        six, name = found[1], (found[2] or "").removesuffix(".")
        if six or _is_address(name):
            return _is_address(six or name)
        return (
            name in self._names
            or name == "localhost"
            or name.endswith((".localhost", *self._domains))
            or name in CONTAINERS
            or (self._private and ("." not in name or name.endswith(PRIVATE)))
        )


def keyless(sites: Sites) -> Callable[[Environ], Response | None]:
    """The judge of a gateway without keys: the response that refuses a request, None for one that
    may go on."""

    def check(environ: Environ) -> None:
        sites.judge_host(environ)
        sites.judge_origin(environ)

    return _judge(check)


def keyed(sites: Sites) -> Callable[[Environ], Response | None]:
    """The judge of a gateway with keys."""

    def check(environ: Environ) -> None:
        if environ.get("HTTP_AUTHORIZATION", "")[:6].lower() == "basic ":
            sites.judge_origin(environ)

    return _judge(check)


def _judge(check: Callable[[Environ], None]) -> Callable[[Environ], Response | None]:
    told: set[str] = set()

    def judge(environ: Environ) -> Response | None:
        try:
            check(environ)
        except Forbidden as fault:
            if fault.message not in told and len(told) < TOLD:
                told.add(fault.message)
                log.warning("refused: %s", fault.message)
            return refuse(fault, openai.error, Record.of(environ))
        return None

    return judge


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _loopback(host: str) -> bool:
    return host.lower() == "localhost" or (
        _is_address(host) and ipaddress.ip_address(host).is_loopback
    )
