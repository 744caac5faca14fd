"""What all pages have in common: templates, language, and the files they are made of."""

from __future__ import annotations

from typing import Any

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    make_response,
    redirect,
    request,
    url_for,
)
from jinja2 import FileSystemLoader

from ... import resources
from ..services import services
from . import files, guard

LANGUAGES = ("en", "zh")
LANGUAGE = "slotproxy_language"  # the cookie of who has chosen one

blueprint = Blueprint("pages", __name__)


def install(app: Flask, *others: Blueprint) -> None:
    """Serve these pages' blueprints, and what they stand on."""
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_loader = FileSystemLoader(resources.templates() / "pages")
    app.context_processor(_known)
    prefix = app.extensions["slotproxy"].settings.api_prefix
    for one in (blueprint, *others):
        app.register_blueprint(one, url_prefix=prefix)


def language() -> str:
    """Of the current request: the one chosen, else the browser's, else English."""
    chosen = request.cookies.get(LANGUAGE, "")
    return chosen if chosen in LANGUAGES else request.accept_languages.best_match(LANGUAGES, "en")


@blueprint.get("/static/<path:name>")
def static(name: str) -> Response:
    return files.response(name)


@blueprint.get("/language/<chosen>")
def choose(chosen: str) -> Response:
    """Remember a language, and go back to `?to=`. Raises werkzeug's NotFound."""
    if chosen not in LANGUAGES:
        abort(404)
    response = make_response(redirect(guard.local(request.args.get("to", "")) or home(), 303))
    response.set_cookie(LANGUAGE, chosen, max_age=files.FOREVER, path=home(), samesite="Lax")
    return response


def home() -> str:
    """The address of the first page."""
    return f"{services().settings.api_prefix}/"


def _address(name: str) -> str:
    found = files.find(name)
    return url_for("pages.static", name=name, v=found.digest if found else None)


def _known() -> dict[str, Any]:
    """What every template may use: `say(english, chinese)`, `static(file)`, `language`, `home`, and
    what the guard knows."""
    spoken = language()
    return {
        **guard.known(),
        "language": spoken,
        "say": lambda english, chinese: chinese if spoken == "zh" else english,
        "static": _address,
        "home": home(),
    }
