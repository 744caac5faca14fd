"""Common parts of all pages: templates, language, theme and static files."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Flask, Response, abort, make_response, redirect, request, url_for
from jinja2 import FileSystemLoader

from ...runtime import resources
from ...runtime.installation import install as install_command
from ..routes import Api
from ..services import current_services
from . import guard, session, texts, uploads

LANGUAGE = "slotproxy_language"  # the cookie with the chosen language
THEMES = ("system", "light", "dark")
THEME = "slotproxy_theme"  # the cookie with the chosen theme

blueprint = Api("pages", __name__, group="pages", ledger="pages")


def install(app: Flask) -> None:
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_loader = FileSystemLoader(resources.templates() / "pages")
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
    return uploads.response(name)


@blueprint.get("/<any(language, theme):what>/<chosen>")
def choose(what: str, chosen: str) -> Response:
    """Set the language or theme and redirect to `?to=`. Raises werkzeug's NotFound."""
    cookie, values = {"language": (LANGUAGE, texts.LANGUAGES), "theme": (THEME, THEMES)}[what]
    if chosen not in values:
        abort(404)
    response = make_response(redirect(guard.local_path(request.args.get("to", "")) or home(), 303))
    response.set_cookie(cookie, chosen, max_age=uploads.FOREVER, path=home(), samesite="Lax")
    return response


def home() -> str:
    return f"{current_services().settings.api_prefix}/"


def address(name: str) -> str:
    """Return the address of a static file, with the digest of its content."""
    file = uploads.find(name)
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
