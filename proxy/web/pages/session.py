"""Who looks at a page: an API key typed once becomes a signed cookie, which holds the key's name
and a random id.

The signing secret is made of the configured keys, slowly (scrypt), so that sessions end when the
keys change, and a stolen cookie is no quick way to guess a key. The open sessions are kept, in the
database where there is one (proxy/store/live.py): one that was ended is over, whoever still has its
cookie. A session is good for pages alone: the API wants the key itself, since a browser
adds cookies to requests that another site makes.

A second cookie, `VISIT`, is a random text without meaning, of which the CSRF token is made. It is
Lax where the session is Strict: a link from another site must not replace it, or every page that is
open would hold a wrong token.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
import time
from collections.abc import Iterable
from typing import NamedTuple

from flask import Response, current_app, g, request
from itsdangerous import BadSignature, URLSafeTimedSerializer

from ...errors import Forbidden
from ...store.live import LIFETIME as LIFETIME
from ..auth import SIGNED_IN
from ..observe import Record
from ..services import services

SESSION = "slotproxy_session"
VISIT = "slotproxy_visit"


class Session(NamedTuple):
    """`id` is a digest of what the cookie holds, `name` that of the key."""

    id: str
    name: str


class Sessions:
    """Signs and reads session cookies. `keys` are pairs (name, secret)."""

    def __init__(self, keys: Iterable[tuple[str, str]]) -> None:
        self._keys = sorted(keys)
        self._names = frozenset(name for name, _ in self._keys)

    @functools.cached_property
    def _signer(self) -> URLSafeTimedSerializer:
        material = repr(self._keys).encode("utf-8", "surrogateescape")
        secret = hashlib.scrypt(material, salt=b"slotproxy sessions", n=1 << 14, r=8, p=1)
        return URLSafeTimedSerializer(
            secret, salt="session", signer_kwargs={"digest_method": hashlib.sha256}
        )

    @property
    def needed(self) -> bool:
        """Whether anybody has to sign in at all."""
        return bool(self._keys)

    def sign(self, name: str) -> tuple[str, Session]:
        """A cookie for the key of this name, and the new session it stands for."""
        value = secrets.token_urlsafe(16)
        return self._signer.dumps([name, value]), Session(_digest(value), name)

    def read(self, cookie: str) -> Session | None:
        """The session of a cookie, open or not; None for one that is forged, cut or too old."""
        if not cookie or not self.needed:
            return None
        try:
            name, value = self._signer.loads(cookie, max_age=LIFETIME)
        except (BadSignature, ValueError):  # or one of an earlier version
            return None
        return Session(_digest(value), name) if name in self._names else None


def _digest(value: str) -> str:
    return hashlib.blake2s(value.encode(), digest_size=16).hexdigest()


def sessions() -> Sessions:
    """Those of this app, made when first asked for."""
    known = current_app.extensions.get("slotproxy.sessions")
    if known is None:
        keys = ((key.name, key.secret) for key in services().settings.keys)
        known = current_app.extensions["slotproxy.sessions"] = Sessions(keys)
    assert isinstance(known, Sessions)
    return known


def signed_in() -> str | None:
    """The name of the key behind the current request's session; "" where no key is needed."""
    if not sessions().needed:
        return ""
    found = _current()
    return found.name if found else None


def _current() -> Session | None:
    """The open session of the current request."""
    if "session" not in g:
        g.session = None  # also for the page that tells that the store is away
        live = services().sessions
        found = sessions().read(request.cookies.get(SESSION, "")) if live else None
        if found and live and not live.alive(found.id, found.name, time.time()):
            found = None
        g.session = found
    current: Session | None = g.session
    return current


def require() -> None:
    """Let the current request through to a page, or to what a page calls: `Keys.check` takes its
    session for a key from here on. A key in a header does as well. Raises Unauthorized."""
    name = signed_in()
    if name:
        request.environ[SIGNED_IN] = name
    elif name is None:
        name = services().keys.check(request.environ)
    Record.of(request.environ).key = name or ""


def has_key() -> bool:
    """Whether the request itself shows a right key. No browser adds one by itself, but for the
    scheme Basic, which is none of ours."""
    return services().keys.shows(request.environ)


def visit() -> str:
    """The text of this visitor's cookie, a new one for who has none. `keep` sends it."""
    known = request.cookies.get(VISIT, "")
    if len(known) >= 16:
        return known
    if "visit" not in g:
        g.visit = secrets.token_urlsafe(24)
    made: str = g.visit
    return made


def keep(response: Response) -> Response:
    """Send what `visit` made, if it made one."""
    if "visit" in g:
        _set(response, VISIT, g.visit, "Lax", None)
    return response


def begin(response: Response, name: str) -> Response:
    """Sign in, with the key of this name. Raises Forbidden where sessions cannot be kept."""
    live = services().sessions
    if live is None:
        raise Forbidden(
            "signing in needs pip install 'slotproxy[knowledge]' where workers share --state"
        )
    cookie, made = sessions().sign(name)
    live.begin(made.id, name, time.time())
    _set(response, SESSION, cookie, "Strict", LIFETIME)
    return response


def end(response: Response, *, everywhere: bool = False) -> Response:
    """Sign out: this session is over, or all that were begun with its key."""
    found, live = _current(), services().sessions
    if found and live and everywhere:
        live.end_all(found.name)
    elif found and live:
        live.end(found.id)
    g.session = None
    _set(response, SESSION, "", "Strict", 0)
    return response


def _set(response: Response, name: str, value: str, same_site: str, seconds: int | None) -> None:
    # A proxy that ends TLS says so in a header anybody could send; a wrong one only makes the
    # cookie stricter.
    https = request.is_secure or request.headers.get("X-Forwarded-Proto") == "https"
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        path=services().settings.api_prefix or "/",
        secure=https,
        httponly=True,
        samesite=same_site,
    )
