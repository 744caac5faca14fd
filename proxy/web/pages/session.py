"""Sign-in to the pages: an API key becomes a signed cookie with the key's name and a random id.

The signing secret is derived from the configured keys, slowly (scrypt): sessions end when the keys
change, and a stolen cookie does not help to guess a key. The API accepts no sessions. The CSRF
token is derived from a second cookie, `VISIT`. It is Lax: a link from another site must not replace
it, or every open page would have a wrong token.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
import time
from collections.abc import Iterable
from typing import NamedTuple, cast

from flask import Response, current_app, g, request
from itsdangerous import BadSignature, URLSafeTimedSerializer

from ...errors import Forbidden
from ...store.live import LIFETIME as LIFETIME
from ...store.live import LONGEST_AGENT, OpenSession
from ..auth import SIGNED_IN
from ..observability import Record
from ..services import current_services

SESSION = "slotproxy_session"
VISIT = "slotproxy_visit"


class Session(NamedTuple):
    """`id` is a digest of the cookie's content, `name` the key's name."""

    id: str
    name: str


class Sessions:
    """Signs and reads session cookies. `keys` are pairs (name, secret)."""

    def __init__(self, keys: Iterable[tuple[str, str]]) -> None:
        self._keys = sorted(keys)

    @functools.cached_property
    def _secret(self) -> bytes:
        material = repr(self._keys).encode("utf-8", "surrogateescape")
        return hashlib.scrypt(material, salt=b"slotproxy sessions", n=1 << 14, r=8, p=1)

    def signer(self, purpose: str) -> URLSafeTimedSerializer:
        """What signs and reads values for this purpose alone."""
        digest = {"digest_method": hashlib.sha256}
        return URLSafeTimedSerializer(self._secret, salt=purpose, signer_kwargs=digest)

    @property
    def needed(self) -> bool:
        return bool(self._keys)

    def sign(self, name: str) -> tuple[str, Session]:
        """Return a cookie for the key of this name, and its new session."""
        value = secrets.token_urlsafe(16)
        return self.signer("session").dumps([name, value]), Session(_digest(value), name)

    def read(self, cookie: str) -> Session | None:
        """Return the session of a cookie, open or not; None if it is forged, cut or expired."""
        if not cookie or not self.needed:
            return None
        try:
            name, value = self.signer("session").loads(cookie, max_age=LIFETIME)
        except (BadSignature, ValueError):  # or the cookie is from an earlier version
            return None
        return Session(_digest(value), name)


def _digest(value: str) -> str:
    return hashlib.blake2s(value.encode(), digest_size=16).hexdigest()


def sessions() -> Sessions:
    made = current_app.extensions.get("slotproxy.sessions")
    if made is None:
        keys = ((key.name, key.secret) for key in current_services().settings.keys)
        made = current_app.extensions["slotproxy.sessions"] = Sessions(keys)
    assert isinstance(made, Sessions)
    return made


def signed_in() -> str | None:
    """Return the key name of the current request's session; "" if no key is needed."""
    if not sessions().needed:
        return ""
    session = current()
    return session.name if session else None


def current() -> Session | None:
    if "session" not in g:
        g.session = None  # also for the page that reports an unavailable store
        live, keys = current_services().sessions, current_services().keys
        session = sessions().read(request.cookies.get(SESSION, "")) if live else None
        if session and live and live.alive(session.id, session.name, time.time()):
            g.session = session if keys.is_valid(session.name) else None
    return cast("Session | None", g.session)


def require() -> None:
    """Raises Unauthorized without a session or a key. `Keys.check` then accepts the session."""
    name = signed_in()
    if name:
        request.environ[SIGNED_IN] = name
    if name != "":
        name = current_services().keys.check(request.environ)
    Record.of(request.environ).key = name or ""


def has_key() -> bool:
    """Whether the headers contain a valid key, which browsers never add by themselves."""
    return current_services().keys.has_key(request.environ)


def visit() -> str:
    """Return the text of the visitor's cookie, or a new one, which `keep` then sends."""
    cookie = request.cookies.get(VISIT, "")
    if len(cookie) >= 16:
        return cookie
    if "visit" not in g:
        g.visit = secrets.token_urlsafe(24)
    return str(g.visit)


def keep(response: Response) -> Response:
    """Send the cookie that `visit` created, if any."""
    if "visit" in g:
        set_cookie(response, VISIT, g.visit, "Lax", None)
    return response


def begin(response: Response, name: str) -> Response:
    """Sign in with the key of this name. Raises Forbidden if sessions cannot be stored."""
    live = current_services().sessions
    if live is None:
        raise Forbidden("signing in with --state needs the extra `knowledge`, not installed here")
    cookie, made = sessions().sign(name)
    agent = "".join(filter(str.isprintable, request.headers.get("User-Agent", "")))
    peer = Record.of(request.environ).peer
    live.begin(OpenSession(made.id, name, time.time(), agent[:LONGEST_AGENT], peer))
    set_cookie(response, SESSION, cookie, "Strict", LIFETIME)
    return response


def end(response: Response, *, everywhere: bool = False) -> Response:
    """Sign out: end this session, or all sessions of its key."""
    session, live = current(), current_services().sessions
    if session and live and everywhere:
        live.end_all(session.name)
    elif session and live:
        live.end(session.id)
    g.session = None
    set_cookie(response, SESSION, "", "Strict", 0)
    return response


def is_https() -> bool:
    """Whether the browser speaks HTTPS, also with a proxy; its header can be forged."""
    return request.is_secure or request.headers.get("X-Forwarded-Proto") == "https"


def set_cookie(
    response: Response, name: str, value: str, same_site: str, seconds: int | None
) -> None:
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        path=current_services().settings.api_prefix or "/",
        secure=is_https(),  # a forged header only makes the cookie stricter
        httponly=True,
        samesite=same_site,
    )
