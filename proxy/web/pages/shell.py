"""Common parts of all pages: templates, language, theme and static files.

Static files are compressed once. Pages add a digest to a file's address (`?v=`), so that browsers
may cache it for good; imports of modules are requested again.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import mimetypes
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flask import Flask, Response, abort, make_response, redirect, request, url_for
from jinja2 import FileSystemLoader
from werkzeug.security import safe_join

from ...runtime import installation
from ...runtime.installation import install as install_command
from ..routes import Api
from ..services import current_services
from . import guard, session, texts

FOREVER = 365 * 24 * 3600
KINDS = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".webmanifest": "application/manifest+json",
}
PACKED = ("text/", "application/javascript", "application/json", "image/svg+xml")


class PageFile(NamedTuple):
    """`packed` is the gzip-compressed data, or None if compression saves nothing."""

    kind: str
    digest: str
    data: bytes
    packed: bytes | None


def find(name: str) -> PageFile | None:
    """Return a static file, or None if it does not exist or is outside the folder."""
    path = safe_join(str(texts.STATIC), name)
    with suppress(OSError):  # the name is too long for a file
        if path is not None and Path(path).is_file():
            return _read(Path(path), Path(path).stat().st_mtime_ns)
    return None


@functools.lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> PageFile:
    data = path.read_bytes()
    # Do not use this machine's MIME table for scripts: browsers only run modules sent as
    # JavaScript.
    media_type = KINDS.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    kind = media_type or "application/octet-stream"
    packed = gzip.compress(data, 9, mtime=0) if kind.startswith(PACKED) else data
    digest = hashlib.sha256(data).hexdigest()[:16]
    return PageFile(kind, digest, data, packed if len(packed) < len(data) else None)


LANGUAGE = "slotproxy_language"  # the cookie with the chosen language
THEMES = ("system", "light", "dark")
THEME = "slotproxy_theme"  # the cookie with the chosen theme

blueprint = Api("pages", __name__, group="pages", ledger="pages")


def install(app: Flask) -> None:
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_loader = FileSystemLoader(installation.templates() / "pages")
    app.context_processor(_known)


def language() -> str:
    """Return the current request's language: the chosen one, or the browser's."""
    chosen = request.cookies.get(LANGUAGE, "")
    if chosen in texts.LANGUAGES:
        return chosen
    return request.accept_languages.best_match(texts.LANGUAGES, "en")


def theme() -> str:
    """Return the current request's theme; "system" follows the browser's setting."""
    chosen = request.cookies.get(THEME, "")
    return chosen if chosen in THEMES else "system"


@blueprint.get("/static/<path:name>", quiet=True)
def static(name: str) -> Response:
    """Raises werkzeug's NotFound."""
    file = find(name)
    if file is None:
        abort(404)
    packed = file.packed if request.accept_encodings.quality("gzip") else None
    answer = Response(packed or file.data, mimetype=file.kind)
    if packed:
        answer.headers["Content-Encoding"] = "gzip"
    answer.headers["Vary"] = "Accept-Encoding"
    answer.set_etag(file.digest)
    if request.args.get("v") == file.digest:
        answer.cache_control.max_age = FOREVER
        answer.cache_control.immutable = True
    else:
        answer.cache_control.no_cache = True
    answer.make_conditional(request.environ)
    return answer


@blueprint.get("/<any(language, theme):what>/<chosen>")
def choose(what: str, chosen: str) -> Response:
    """Set the language or theme and redirect to `?to=`. Raises werkzeug's NotFound."""
    cookie, values = {"language": (LANGUAGE, texts.LANGUAGES), "theme": (THEME, THEMES)}[what]
    if chosen not in values:
        abort(404)
    response = make_response(redirect(guard.local_path(request.args.get("to", "")) or home(), 303))
    response.set_cookie(cookie, chosen, max_age=FOREVER, path=home(), samesite="Lax")
    return response


def home() -> str:
    return f"{current_services().settings.api_prefix}/"


def address(name: str) -> str:
    """Return the address of a static file, with the digest of its content."""
    file = find(name)
    return url_for("pages.static", name=name, v=file.digest if file else None)


def _known() -> dict[str, Any]:
    spoken, shown, name = language(), theme(), session.signed_in()
    captures, bounds = current_services().captures, current_services().settings.captures
    return {
        "capture": captures.mode(name or "") if captures is not None else "off",
        "capture_days": f"{bounds.days:g}",
        "csrf_token": guard.token,
        "signed_in": name,
        "administers": bool(name) and current_services().keys.is_admin(str(name)),
        "sign_in_needed": session.sessions().needed,
        "language": spoken,
        "theme": shown,
        "next_theme": THEMES[(THEMES.index(shown) + 1) % len(THEMES)],
        "words": partial(texts.words, spoken),
        "texts": address(texts.file(spoken)),
        "static": address,
        "home": home(),
        "install": install_command,
    }
