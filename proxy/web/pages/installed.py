"""Makes the pages installable: a service worker, and the page that it shows without a connection.

The service worker keeps that page and its files, nothing of any user. It names its store by their
contents, so that browsers install a new one when they change.
"""

from __future__ import annotations

import hashlib
import json

from flask import Response, abort, make_response, render_template, url_for

from ..routes import Api
from . import errors, shell, texts, uploads

FILES = ("shell.css", "panels/panels.css", "shell.js", "offline.js", "icon.svg", "icons.svg")
SCRIPT = "worker.js"

blueprint = Api("installed", __name__, group="pages", ledger="pages")
blueprint.after_request(errors.add_security_headers)


@blueprint.get("/service-worker-<spoken>.js")
def worker(spoken: str) -> Response:
    """The service worker of the pages in a language. Raises werkzeug's NotFound."""
    files = [shell.address(name) for name in (*FILES, texts.file(_known(spoken)))]
    page = url_for("installed.offline", spoken=spoken)
    script = uploads.find(SCRIPT)
    assert script is not None
    made_of = json.dumps([files, page, _offline()]).encode() + script.data
    name = f"slotproxy-{hashlib.sha256(made_of).hexdigest()[:16]}"
    head = json.dumps({"name": name, "page": page, "files": files})
    response = make_response(f"self.SHELL = {head};\n".encode() + script.data)
    response.mimetype = "text/javascript"
    response.headers["Cache-Control"] = "no-cache"
    return response


@blueprint.get("/offline/<spoken>")
def offline(spoken: str) -> Response:
    """The page that says that the gateway cannot be reached. Raises werkzeug's NotFound."""
    _known(spoken)
    return make_response(_offline())


def _known(spoken: str) -> str:
    if spoken not in texts.LANGUAGES:
        abort(404)
    return spoken


def _offline() -> str:
    """The same for every user, whether signed in or not."""
    return render_template("offline.html", signed_in=None, administers=False, theme="system")
