"""Signing in, the session's cookie, CSRF, and pages of errors."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from proxy.config import Secret
from proxy.store.live import MOST, MemorySessions
from proxy.web.pages.errors import WORDS
from proxy.web.pages.fields import MAX_BYTES, MAX_FIELDS
from proxy.web.pages.session import LIFETIME, SESSION, VISIT, Sessions
from proxy.web.services import EXTENSION
from tests.fakes import ScriptedDriver, client, services_of

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
LOCKED = {"api_key": (Secret("sesame"), Secret("melon"))}


def token_of(page: TestResponse) -> str:
    found = re.search(r'name="csrf_token" value="(\w+)"', page.get_data(as_text=True))
    assert found
    return found[1]


def sign_in(visitor: FlaskClient, key: str = "sesame", to: str = "/status") -> TestResponse:
    token = token_of(visitor.get("/signin", headers=BROWSER))
    form = {"key": key, "to": to, "csrf_token": token}
    return visitor.post("/signin", data=form, headers=BROWSER)


# the cookie


def test_a_cookie_names_its_key_and_does_not_hold_it() -> None:
    keys = [("ann", "sesame"), ("bob", "melon")]
    cookie, made = Sessions(keys).sign("bob")
    assert Sessions(keys).read(cookie) == made  # another process, the same keys
    assert made.name == "bob" and made.id not in cookie
    assert "melon" not in cookie


def test_a_cookie_that_was_touched_or_is_of_other_keys_is_nobodys() -> None:
    ours = Sessions([("ann", "sesame")])
    cookie, _ = ours.sign("ann")
    for wrong in ("", "x", cookie[:-1], cookie + "a", "A" + cookie[1:], cookie.upper()):
        assert ours.read(wrong) is None
    assert Sessions([("ann", "other")]).read(cookie) is None
    assert Sessions([("ann", "sesame"), ("bob", "melon")]).read(cookie) is None
    assert Sessions([]).read(cookie) is None
    earlier = ours._signer.dumps("ann")  # as versions before ids made it
    assert isinstance(earlier, str) and ours.read(earlier) is None


def test_a_cookie_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    import itsdangerous.timed as timed

    ours = Sessions([("ann", "sesame")])
    cookie, _ = ours.sign("ann")
    now = timed.time.time()
    monkeypatch.setattr(timed.time, "time", lambda: now + LIFETIME + 2)
    assert ours.read(cookie) is None


# signing in


def test_a_page_leads_to_the_form_and_the_key_back_to_the_page() -> None:
    with client(**LOCKED) as visitor:
        refused = visitor.get("/status?a=b", headers=BROWSER)
        assert refused.status_code == 302
        assert refused.location == "/signin?to=/status?a%3Db"
        done = sign_in(visitor, to="/status?a=b")
        assert (done.status_code, done.location) == (303, "/status?a=b")
        (cookie,) = [one for one in done.headers.getlist("Set-Cookie") if one.startswith(SESSION)]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Max-Age=604800" in cookie
        assert "sesame" not in cookie
        assert visitor.get("/status", headers=BROWSER).status_code == 200
        assert visitor.get("/pages/api/status").status_code == 200


def test_over_https_the_cookie_stays_there() -> None:
    with client(**LOCKED) as visitor:
        page = visitor.get("/signin", base_url="https://localhost", headers=BROWSER)
        assert "; Secure" in page.headers["Set-Cookie"]


def test_a_wrong_key_is_told_and_starts_nothing() -> None:
    with client(**LOCKED) as visitor:
        answer = sign_in(visitor, key="wrong")
        assert answer.status_code == 401
        assert (
            "wrong" not in answer.get_data(as_text=True).split("<form", 1)[1].split("name=", 1)[0]
        )
        assert not any(SESSION in one for one in answer.headers.getlist("Set-Cookie"))
        assert visitor.get("/status", headers=BROWSER).status_code == 302


@pytest.mark.parametrize(
    "to", ["https://evil.example/", "//evil.example", "/\\evil.example", "x", "/a\nb", ""]
)
def test_signing_in_leads_nowhere_else(to: str) -> None:
    with client(**LOCKED) as visitor:
        assert sign_in(visitor, to=to).location == "/"


def test_signing_out_ends_it() -> None:
    with client(**LOCKED) as visitor:
        sign_in(visitor)
        token = token_of(visitor.get("/status", headers=BROWSER))
        visitor.post("/signout", data={"csrf_token": token}, headers=BROWSER)
        assert visitor.get("/pages/api/status").status_code == 401


def cookies_of(visitor: FlaskClient) -> str:
    found = [visitor.get_cookie(name) for name in (SESSION, VISIT)]
    return "; ".join(f"{one.key}={one.value}" for one in found if one)


def seen_with(visitor: FlaskClient, cookies: str) -> int:
    """What a browser gets that still has these cookies."""
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


@pytest.mark.parametrize("kept", [True, False])
def test_a_session_that_was_ended_is_over_for_every_copy_of_its_cookie(
    kept: bool, tmp_path: Path
) -> None:
    app = client(**LOCKED, data=str(tmp_path)).application
    if not kept:
        app.extensions[EXTENSION] = replace(services_of(app), sessions=MemorySessions())
    first, second = browser_of(app), browser_of(app)
    copies = [cookies_of(first), cookies_of(second)]
    assert [seen_with(first, one) for one in copies] == [200, 200]
    leave(first, "/signout")
    assert [seen_with(first, one) for one in copies] == [401, 200]


@pytest.mark.parametrize("kept", [True, False])
def test_all_sessions_of_a_key_are_ended_together(kept: bool, tmp_path: Path) -> None:
    app = client(**LOCKED, data=str(tmp_path)).application
    if not kept:
        app.extensions[EXTENSION] = replace(services_of(app), sessions=MemorySessions())
    visitors = [browser_of(app), browser_of(app), browser_of(app, "melon")]
    copies = [cookies_of(one) for one in visitors]
    leave(visitors[0], "/signout/everywhere")
    assert [seen_with(visitors[0], one) for one in copies] == [401, 401, 200]


def test_an_end_is_known_to_other_workers_and_after_a_restart(tmp_path: Path) -> None:
    workers = [client(**LOCKED, data=str(tmp_path)).application for _ in range(2)]
    visitor = browser_of(workers[0])
    cookies = cookies_of(visitor)
    other = workers[1].test_client()
    assert seen_with(other, cookies) == 200
    leave(visitor, "/signout")
    assert seen_with(other, cookies) == 401


def test_open_sessions_of_a_key_are_bounded(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")
    from proxy.store.database import Database
    from proxy.store.sessions import SessionStore

    database = Database(f"sqlite:///{tmp_path / 'kept.db'}")
    database.upgrade()
    for store in (MemorySessions(), SessionStore(database.engine)):
        store.begin("other", "bob", 0.0)
        for i in range(MOST + 2):
            store.begin(f"s{i}", "ann", float(i))
        now = float(MOST + 2)
        alive = [store.alive(f"s{i}", "ann", now) for i in range(MOST + 2)]
        assert alive == [False] * 2 + [True] * MOST
        assert not store.alive("s9", "bob", now) and store.alive("other", "bob", now)
        assert not store.alive(f"s{MOST}", "ann", MOST + LIFETIME + 1.0)
        store.end(f"s{MOST}")
        assert not store.alive(f"s{MOST}", "ann", now)
        assert store.end_all("ann") == MOST - 1
    database.close()


def test_where_sessions_cannot_be_shared_signing_in_says_so() -> None:
    app = client(**LOCKED).application
    app.extensions[EXTENSION] = replace(services_of(app), sessions=None)
    answer = sign_in(app.test_client())
    assert answer.status_code == 403 and "slotproxy[knowledge]" in answer.text.replace("&#39;", "")


def test_without_keys_nobody_has_to_sign_in() -> None:
    with client() as visitor:
        assert visitor.get("/status", headers=BROWSER).status_code == 200
        assert visitor.get("/signin", headers=BROWSER).status_code == 303


def test_a_session_is_no_key_for_the_api() -> None:
    with client(**LOCKED) as visitor:
        sign_in(visitor)
        assert visitor.get("/v1/models").status_code == 401


def test_a_script_may_show_the_key_itself() -> None:
    with client(**LOCKED) as visitor:
        for key, status in (("melon", 200), ("wrong", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            assert visitor.get("/pages/api/status", headers=headers).status_code == status


# CSRF


def test_a_form_without_its_token_is_refused() -> None:
    with client(**LOCKED) as visitor:
        visitor.get("/signin", headers=BROWSER)
        for token in ("", "0" * 64, "ключ"):
            form = {"key": "sesame", "csrf_token": token}
            answer = visitor.post("/signin", data=form, headers=BROWSER)
            assert answer.status_code == 403
            assert not any(SESSION in one for one in answer.headers.getlist("Set-Cookie"))


def test_a_token_is_of_one_visitor() -> None:
    one = client(**LOCKED)
    other = one.application.test_client()
    token = token_of(one.get("/signin", headers=BROWSER))
    other.get("/signin", headers=BROWSER)
    form = {"key": "sesame", "csrf_token": token}
    assert other.post("/signin", data=form, headers=BROWSER).status_code == 403


def test_another_site_is_refused_whatever_it_shows() -> None:
    with client(**LOCKED) as visitor:
        token = token_of(visitor.get("/signin", headers=BROWSER))
        form = {"key": "sesame", "csrf_token": token}
        headers = {**BROWSER, "Sec-Fetch-Site": "cross-site"}
        assert visitor.post("/signin", data=form, headers=headers).status_code == 403


# errors


def test_a_browser_gets_a_page_and_a_client_its_json() -> None:
    with client() as visitor:
        page = visitor.get("/nothing/here", headers=BROWSER)
        assert (page.status_code, page.mimetype) == (404, "text/html")
        text = page.get_data(as_text=True)
        assert WORDS[404].en.title in text and WORDS[404].zh.title in text
        for accept in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
            answer = visitor.get("/nothing/here", headers=accept)
            assert (answer.status_code, answer.mimetype) == (404, "application/json")
            assert answer.json["error"]["type"] == "not_found_error"


def test_what_an_address_says_is_no_markup() -> None:
    with client() as visitor:
        text = visitor.get("/<script>alert(1)</script>", headers=BROWSER).get_data(as_text=True)
        assert "<script>alert" not in text


def test_a_defect_has_a_page_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr("proxy.web.pages.status.render_template", broken)
    with client(ScriptedDriver()) as visitor:
        page = visitor.get("/status", headers=BROWSER)
    assert (page.status_code, page.mimetype) == (500, "text/html")
    assert "secret" not in page.get_data(as_text=True)
    assert WORDS[500].zh.title in page.get_data(as_text=True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 502, 503, 504])
def test_each_error_is_said_in_both_languages(status: int) -> None:
    said = WORDS[status]
    assert said.en.title.isascii() and said.en.advice.isascii()
    assert not said.zh.title.isascii() and not said.zh.advice.isascii()


# what is read of who is not known


def form_of(size: int, token: str = "") -> bytes:
    text = f"csrf_token={token}&key=wrong&to="
    return (text + "/" * (size - len(text))).encode()


@pytest.mark.parametrize("path", ["/signin", "/signout"])
def test_a_form_has_a_bound(path: str) -> None:
    with client(**LOCKED) as visitor:
        token = token_of(visitor.get("/signin", headers=BROWSER))
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        fits = visitor.post(path, data=form_of(MAX_BYTES, token), headers=kind)
        assert fits.status_code in (401, 303)
        large = visitor.post(path, data=form_of(MAX_BYTES + 1, token), headers=kind)
        assert large.status_code == 413


def test_a_form_has_a_bound_of_fields() -> None:
    with client(**LOCKED) as visitor:
        token = token_of(visitor.get("/signin", headers=BROWSER))
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        for more, status in ((MAX_FIELDS - 2, 401), (MAX_FIELDS - 1, 400)):
            text = f"csrf_token={token}&key=wrong" + "&a=b" * more
            assert visitor.post("/signin", data=text, headers=kind).status_code == status


@pytest.mark.parametrize("key", ["", "wrong"])
@pytest.mark.parametrize("path", ["/pages/api/chat/conversations", "/signin"])
def test_a_wrong_key_is_no_reason_to_read_a_form(path: str, key: str) -> None:
    """The token of the other forms is shown in a header: their bodies are not looked into."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    class Unread(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert path == "/signin" and size is not None and 0 <= size <= MAX_BYTES + 1
            return super().read(size)

    with client(**LOCKED) as visitor:
        answer = visitor.post(
            path,
            input_stream=Unread(b"a=" + b"b" * 100_000),
            headers={**headers, "Accept": "application/json"},
            content_type="application/x-www-form-urlencoded",
            environ_overrides={"wsgi.input_terminated": True},
        )
    assert answer.status_code == (413 if path == "/signin" else 403)


def test_a_right_key_in_a_header_needs_no_token() -> None:
    with client(**LOCKED) as visitor:
        for header in ({"Authorization": "Bearer sesame"}, {"X-Api-Key": "sesame"}):
            headers = {**header, "Accept": "application/json"}
            answer = visitor.post("/signout", headers=headers)
            assert answer.status_code == 303
        basic = {"Authorization": "Basic OnNlc2FtZQ==", "Accept": "application/json"}
        assert visitor.post("/signout", headers=basic).status_code == 403


@pytest.mark.parametrize("to", ["//[", "http://[", "/\\[", "//[::1", "http://[/"])
@pytest.mark.parametrize("page", ["/signin", "/language/en"])
def test_addresses_that_are_none_lead_nowhere(page: str, to: str) -> None:
    with client() as visitor:
        answer = visitor.get(page, query_string={"to": to})
        assert answer.location == "/"


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 5000, "\0", "x\0y", "..%2f" * 400])
def test_files_whose_names_are_none_are_not_there(name: str) -> None:
    with client() as visitor:
        assert visitor.get(f"/static/{name}").status_code == 404
