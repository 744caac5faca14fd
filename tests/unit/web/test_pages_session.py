"""Signing in, the session's cookie, CSRF, and pages of errors."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from msgspec.structs import replace
from werkzeug.test import TestResponse

from proxy.config import Secret
from proxy.store.live import MOST, MemorySessions, OpenSession
from proxy.web.pages import texts
from proxy.web.pages.guard import MAX_BYTES, MAX_FIELDS
from proxy.web.pages.session import LIFETIME, SESSION, VISIT, Sessions
from proxy.web.services import EXTENSION
from tests.fakes import ScriptedDriver, client, services_of

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
LOCKED = {"api_key": (Secret("sesame"), Secret("melon"))}


@pytest.fixture
def visitor() -> FlaskClient:
    """A browser before a gateway with two keys."""
    return client(**LOCKED)


def token_of(page: TestResponse) -> str:
    match = re.search(r'name="csrf_token" value="(\w+)"', page.get_data(as_text=True))
    assert match
    return match[1]


def sign_in(
    visitor: FlaskClient, key: str = "sesame", to: str = "/status", language: str = "en"
) -> TestResponse:
    headers = {**BROWSER, "Accept-Language": language}
    token = token_of(visitor.get("/signin", headers=headers))
    form = {"key": key, "to": to, "csrf_token": token}
    return visitor.post("/signin", data=form, headers=headers)


# the cookie


def test_tampered_or_foreign_cookie_is_ignored() -> None:
    ours = Sessions([("ann", "sesame")])
    cookie, _ = ours.sign("ann")
    for wrong in ("", "x", cookie[:-1], cookie + "a", "A" + cookie[1:], cookie.upper()):
        assert ours.read(wrong) is None
    assert Sessions([("ann", "other")]).read(cookie) is None
    assert Sessions([("ann", "sesame"), ("bob", "melon")]).read(cookie) is None
    assert Sessions([]).read(cookie) is None
    earlier = ours.signer("session").dumps("ann")  # as made by versions without session ids
    assert ours.read(earlier) is None


def test_cookie_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Sessions([("ann", "sesame")])
    cookie, _ = ours.sign("ann")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + LIFETIME + 2)
    assert ours.read(cookie) is None


# signing in


def test_page_redirects_to_sign_in_and_back(visitor: FlaskClient) -> None:
    refused = visitor.get("/status?a=b", headers=BROWSER)
    assert refused.status_code == 302
    assert refused.location == "/signin?to=/status?a%3Db"
    done = sign_in(visitor, to="/status?a=b")
    assert (done.status_code, done.location) == (303, "/status?a=b")
    (cookie,) = [line for line in done.headers.getlist("Set-Cookie") if line.startswith(SESSION)]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Max-Age=604800" in cookie
    assert "sesame" not in cookie
    assert visitor.get("/status", headers=BROWSER).status_code == 200
    assert visitor.get("/pages/api/status").status_code == 200


def test_cookie_is_secure_over_https(visitor: FlaskClient) -> None:
    page = visitor.get("/signin", base_url="https://localhost", headers=BROWSER)
    assert "; Secure" in page.headers["Set-Cookie"]


def test_wrong_key_shows_error_and_starts_no_session(visitor: FlaskClient) -> None:
    answer = sign_in(visitor, key="wrong")
    assert answer.status_code == 401
    assert "wrong" not in answer.get_data(as_text=True).split("<form", 1)[1].split("name=", 1)[0]
    assert not any(SESSION in line for line in answer.headers.getlist("Set-Cookie"))
    assert visitor.get("/status", headers=BROWSER).status_code == 302


@pytest.mark.parametrize(
    "to", ["https://evil.example/", "//evil.example", "/\\evil.example", "x", "/a\nb", ""]
)
def test_sign_in_redirects_only_to_own_pages(visitor: FlaskClient, to: str) -> None:
    assert sign_in(visitor, to=to).location == "/"


def cookies_of(visitor: FlaskClient) -> str:
    cookies = [visitor.get_cookie(name) for name in (SESSION, VISIT)]
    return "; ".join(f"{cookie.key}={cookie.value}" for cookie in cookies if cookie)


def seen_with(visitor: FlaskClient, cookies: str) -> int:
    """The answer to a browser that still has these cookies."""
    stolen = visitor.application.test_client(use_cookies=False)
    return stolen.get("/pages/api/status", headers={"Cookie": cookies}).status_code


def leave(visitor: FlaskClient, path: str) -> None:
    token = token_of(visitor.get("/status", headers=BROWSER))
    answer = visitor.post(path, data={"csrf_token": token}, headers=BROWSER)
    assert (answer.status_code, answer.location) == (303, "/signin")


def browser_of(app: Flask, key: str = "sesame") -> FlaskClient:
    visitor = app.test_client()
    assert sign_in(visitor, key).status_code == 303
    return visitor


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    ("path", "left"), [("/signout", [401, 200, 200]), ("/signout/everywhere", [401, 401, 200])]
)
def test_ended_sessions_are_over_for_every_copy_of_their_cookies(
    stored: bool, path: str, left: list[int], tmp_path: Path
) -> None:
    app = client(**LOCKED, data=str(tmp_path)).application
    if not stored:
        app.extensions[EXTENSION] = replace(services_of(app), sessions=MemorySessions())
    visitors = [browser_of(app), browser_of(app), browser_of(app, "melon")]
    copies = [cookies_of(browser) for browser in visitors]
    assert [seen_with(visitors[0], copy) for copy in copies] == [200, 200, 200]
    leave(visitors[0], path)
    assert [seen_with(visitors[0], copy) for copy in copies] == left


def test_session_end_is_shared_with_workers_and_survives_restart(tmp_path: Path) -> None:
    workers = [client(**LOCKED, data=str(tmp_path)).application for _ in range(2)]
    visitor = browser_of(workers[0])
    cookies = cookies_of(visitor)
    other = workers[1].test_client()
    assert seen_with(other, cookies) == 200
    leave(visitor, "/signout")
    assert seen_with(other, cookies) == 401


def test_open_sessions_of_a_key_are_bounded(tmp_path: Path) -> None:
    from proxy.store.database import Database
    from proxy.store.sessions import SessionStore

    database = Database(f"sqlite:///{tmp_path / 'kept.db'}")
    database.upgrade()
    for store in (MemorySessions(), SessionStore(database)):
        store.begin(OpenSession("other", "bob", 0.0))
        for i in range(MOST + 2):
            store.begin(OpenSession(f"s{i}", "ann", float(i)))
        now = float(MOST + 2)
        alive = [store.alive(f"s{i}", "ann", now) for i in range(MOST + 2)]
        assert alive == [False] * 2 + [True] * MOST
        assert not store.alive("s9", "bob", now) and store.alive("other", "bob", now)
        assert not store.alive(f"s{MOST}", "ann", MOST + LIFETIME + 1.0)
        assert [s.id for s in store.listed(None, now, 2)] == [f"s{MOST + 1}", f"s{MOST}"]
        assert len(store.listed("ann", now, 1000)) == MOST
        assert store.listed("ann", MOST + LIFETIME + 5.0, 1000) == []
        assert not store.end(f"s{MOST}", "bob") and store.alive(f"s{MOST}", "ann", now)
        assert store.end(f"s{MOST}") and not store.end(f"s{MOST}")
        assert not store.alive(f"s{MOST}", "ann", now)
        assert store.end_all("ann") == MOST - 1
    database.close()


def test_sign_in_is_refused_where_sessions_cannot_be_shared() -> None:
    app = client(**LOCKED).application
    app.extensions[EXTENSION] = replace(services_of(app), sessions=None)
    answer = sign_in(app.test_client())
    assert answer.status_code == 403 and "needs the extra `knowledge`" in answer.text


def test_session_cookie_is_not_accepted_by_the_api(visitor: FlaskClient) -> None:
    sign_in(visitor)
    assert visitor.get("/v1/models").status_code == 401


# CSRF


def test_form_without_the_token_of_its_visitor_is_refused(visitor: FlaskClient) -> None:
    other = visitor.application.test_client()
    others = token_of(other.get("/signin", headers=BROWSER))
    own = token_of(visitor.get("/signin", headers=BROWSER))
    foreign = {**BROWSER, "Sec-Fetch-Site": "cross-site"}
    tries = [(token, BROWSER) for token in ("", "0" * 64, "ключ", others)]
    for token, headers in [*tries, (own, foreign)]:
        form = {"key": "sesame", "csrf_token": token}
        answer = visitor.post("/signin", data=form, headers=headers)
        assert answer.status_code == 403
        assert not any(SESSION in line for line in answer.headers.getlist("Set-Cookie"))


# errors


def test_browser_gets_error_page_and_client_gets_json() -> None:
    with client() as visitor:
        page = visitor.get("/nothing/here", headers=BROWSER)
        assert (page.status_code, page.mimetype) == (404, "text/html")
        text = page.get_data(as_text=True)
        shown = [texts.words(code, "errors.status.404.title") in text for code in texts.LANGUAGES]
        assert shown == [True, False]  # in the language of the browser alone
        for accept in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
            answer = visitor.get("/nothing/here", headers=accept)
            assert (answer.status_code, answer.mimetype) == (404, "application/json")
            assert answer.json["error"]["type"] == "not_found_error"


def test_url_text_is_escaped_in_pages() -> None:
    with client() as visitor:
        text = visitor.get("/<script>alert(1)</script>", headers=BROWSER).get_data(as_text=True)
        assert "<script>alert" not in text


def test_unexpected_exception_page_has_no_details(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr("proxy.web.pages.status.render_template", broken)
    with client(ScriptedDriver()) as visitor:
        page = visitor.get("/status", headers=BROWSER)
    assert (page.status_code, page.mimetype) == (500, "text/html")
    assert "secret" not in page.get_data(as_text=True)
    assert texts.words("en", "errors.status.500.title") in page.get_data(as_text=True)


# bodies of unauthenticated requests


def form_of(size: int, token: str = "") -> bytes:
    text = f"csrf_token={token}&key=wrong&to="
    return (text + "/" * (size - len(text))).encode()


@pytest.mark.parametrize("path", ["/signin", "/signout"])
def test_form_has_a_bound(visitor: FlaskClient, path: str) -> None:
    token = token_of(visitor.get("/signin", headers=BROWSER))
    kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    fits = visitor.post(path, data=form_of(MAX_BYTES, token), headers=kind)
    assert fits.status_code in (401, 303)
    large = visitor.post(path, data=form_of(MAX_BYTES + 1, token), headers=kind)
    assert large.status_code == 413


def test_number_of_page_form_fields_is_bounded(visitor: FlaskClient) -> None:
    token = token_of(visitor.get("/signin", headers=BROWSER))
    kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    for more, status in ((MAX_FIELDS - 2, 401), (MAX_FIELDS - 1, 400)):
        text = f"csrf_token={token}&key=wrong" + "&a=b" * more
        assert visitor.post("/signin", data=text, headers=kind).status_code == status


def test_key_in_header_needs_no_form_token(visitor: FlaskClient) -> None:
    for header in ({"Authorization": "Bearer sesame"}, {"X-Api-Key": "sesame"}):
        headers = {**header, "Accept": "application/json"}
        answer = visitor.post("/signout", headers=headers)
        assert answer.status_code == 303
    basic = {"Authorization": "Basic OnNlc2FtZQ==", "Accept": "application/json"}
    assert visitor.post("/signout", headers=basic).status_code == 403


# an OpenID provider


@pytest.mark.parametrize("path", ["/signin/oidc", "/signin/oidc/callback?code=a&state=b"])
def test_gateway_without_an_openid_provider_needs_nothing_of_its_extra(path: str) -> None:
    program = f"""
import sys
sys.modules.update(authlib=None, joserfc=None)
from proxy.app import create_app
from proxy.config import load
client = create_app(load(["--llama-api", "http://127.0.0.1:9"], {{}})).test_client()
answer = client.get({path!r})
print(answer.status_code, answer.json["error"]["message"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("404 this gateway has no sign-in provider")
