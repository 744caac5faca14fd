"""The knowledge page's own API; its contents are tested with the facade."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from msgspec.structs import replace

from proxy.web.services import EXTENSION
from tests.fakes import ScriptedDriver, make_app, services_of

from .test_pages_chat import KEYED

API = "/pages/api/knowledge"


@pytest.fixture
def without() -> FlaskClient:
    app = make_app(ScriptedDriver())
    app.extensions[EXTENSION] = replace(services_of(app), knowledge=None)
    return app.test_client()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", API),
        ("DELETE", f"{API}/b"),
        ("POST", f"{API}/b/documents?name=a.md"),
        ("DELETE", f"{API}/b/documents/d"),
        ("PUT", f"{API}/chunks/c"),
        ("POST", f"{API}/b/rebuild"),
        ("POST", f"{API}/b/search"),
        ("POST", "/signout"),
    ],
)
def test_changes_require_the_form_token(without: FlaskClient, method: str, path: str) -> None:
    answer = without.open(path, method=method, json={})
    assert (answer.status_code, answer.json["error"]["code"]) == (403, "csrf")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("", {"name": " "}),
        ("", {"name": 1}),
        ("/b/search", {"query": ""}),
        ("/b/search", {"query": "x", "top_k": 0}),
        ("/b/search", {"query": "x", "top_k": 51}),
        ("/b/search", {"query": "x", "score_threshold": 2}),
        ("/b/search", {"query": "x", "score_threshold": "1"}),
        ("/b/documents", {}),
    ],
)
def test_nonsensical_form_values_are_refused(visitor: FlaskClient, path: str, body: object) -> None:
    assert visitor.post(API + path, json=body, headers=KEYED).status_code == 400


def test_document_is_served_as_download(visitor: FlaskClient) -> None:
    base = visitor.post(API, json={"name": "Sea"}, headers=KEYED).json["id"]
    name = "a “b”.html"
    page = b"<script>alert(1)</script>"
    sent = visitor.post(
        f"{API}/{base}/documents", query_string={"name": name}, data=page, headers=KEYED
    )
    assert (sent.status_code, sent.json["filename"]) == (201, name)
    back = visitor.get(f"{API}/{base}/documents/{sent.json['id']}/original")
    assert (back.data, back.mimetype) == (page, "application/octet-stream")
    assert back.headers["Content-Disposition"].startswith("attachment; filename*=UTF-8''a%20")
    assert back.headers["X-Content-Type-Options"] == "nosniff"
