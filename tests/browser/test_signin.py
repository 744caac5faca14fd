"""Signing in with a browser, and pages of errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes import key_file
from tools import oidc_provider
from tools.oidc_provider import Provider
from tools.processes import Gateway, held_port

from .conftest import DESKTOP, OPENED, PHONE, Open


@pytest.fixture(scope="module")
def locked(start_site: Any) -> Gateway:
    site: Gateway = start_site("--api-key", "sesame-1234")
    return site


def test_key_opens_the_requested_page(locked: Gateway, visit: Open, accessible: Any) -> None:
    page = visit(f"{locked.url}/status")
    assert "/signin" in page.url
    assert page.get_by_role("navigation").count() == 0  # its links would lead back
    accessible(page)
    page.get_by_label("API key").fill("a wrong one")
    page.keyboard.press("Enter")
    assert "Invalid API key" in page.get_by_role("alert").inner_text()
    page.get_by_label("API key").fill("sesame-1234")
    page.keyboard.press("Enter")
    page.locator(".backend").wait_for()
    assert page.url == f"{locked.url}/status"
    (cookie,) = [one for one in page.context.cookies() if one["name"] == "slotproxy_session"]
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Sign out", exact=True).click()
    page.get_by_label("API key").wait_for()
    page.goto(f"{locked.url}/status")
    assert "/signin" in page.url


def test_person_comes_back_from_the_openid_provider_to_the_requested_page(
    tmp_path: Path, visit: Open, accessible: Any
) -> None:
    script = oidc_provider.find()
    if script is None:
        pytest.skip("no OpenID provider here: python -m tools.oidc_provider says why")
    port = held_port()
    callback = f"http://127.0.0.1:{port}/signin/oidc/callback"
    provider = Provider(script, held_port(), callback, tmp_path / "provider.log")
    (tmp_path / "keys").write_text("ops sk-ops\n")
    flags = ["--llama-api", "http://127.0.0.1:9", "--api-key-file", str(tmp_path / "keys")]
    flags += ["--admins", "ops", "--data", str(tmp_path / "data")]
    env = {
        "SLOTPROXY_OIDC_CLIENT_ID": "public",
        "SLOTPROXY_OIDC_ISSUER": provider.issuer,
        "SLOTPROXY_OIDC_NAME": "the lab",
        "SLOTPROXY_OIDC_ALLOW": "groups=staff",
    }
    gateway = Gateway(flags, tmp_path / "gateway.log", port=port, env=env)
    try:
        provider.start()
        gateway.start(ready=0)
        for name, language, link in (("carol", "en", "Sign in with"), ("eve", "zh", "使用")):
            page = visit(f"{gateway.url}/usage", size=PHONE, language=language)
            accessible(page)
            page.get_by_role("link", name=link).click()
            page.locator('input[name="login"]').fill(name)
            page.locator('input[name="password"]').fill("any")
            page.locator("button[type=submit]").click()
            page.locator("button[type=submit]").click()  # consent
            if name == "eve":
                page.get_by_role("alert").get_by_text("登录失败").wait_for()
                accessible(page)
                continue
            page.locator("#usage").wait_for()
            assert page.url == f"{gateway.url}/usage"
            cookies = {one["name"]: one for one in page.context.cookies()}
            assert cookies["slotproxy_session"]["sameSite"] == "Strict"
            assert "slotproxy_sign_in" not in cookies
    finally:
        gateway.kill()
        provider.kill()


@pytest.mark.parametrize(
    ("size", "language", "title", "end"),
    [(PHONE, "zh", "登录会话", "结束"), (DESKTOP, "en", "Sessions", "End")],
    ids=["phone", "desktop"],
)
def test_sessions_are_listed_and_ended(
    locked: Gateway,
    visit: Open,
    accessible: Any,
    size: tuple[int, int],
    language: str,
    title: str,
    end: str,
) -> None:
    def signed_in(to: str) -> Any:
        page = visit(f"{locked.url}/signin?to={to}", size=size, language=language)
        page.locator('input[type="password"]').fill("sesame-1234")
        page.keyboard.press("Enter")
        page.locator(".panel h1").wait_for()
        return page

    other = signed_in("/usage")
    page = signed_in("/sessions")
    page.locator(".record").nth(1).wait_for()
    assert page.locator("h1").inner_text() == title
    assert page.locator(".bar [aria-current]").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    accessible(page)
    assert page.locator(".record").first.locator(".badge").count() == 1
    page.locator(".record").nth(1).get_by_role("button").get_by_text(end, exact=True).click()
    page.locator(".record").nth(1).wait_for(state="detached")
    other.reload()
    other.locator("#signin").wait_for()
    page.locator("main form button").click()
    page.locator("#signin").wait_for()


def test_settings_and_drafts_are_kept_for_each_key(
    start_site: Any, visit: Open, tmp_path: Path
) -> None:
    keys = key_file(tmp_path, "ann sk-ann-0123456789\nbob sk-bob-0123456789\n")
    site = start_site("--api-key-file", keys)
    page = visit(f"{site.url}/")

    def sign_in(key: str) -> tuple[str, str]:
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        page.locator(OPENED).wait_for()
        return page.locator('[name="system"]').input_value(), page.locator("#text").input_value()

    assert sign_in("sk-ann-0123456789") == ("", "")
    page.locator("#text").fill("My draft")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("System prompt").fill("My secret")
    page.locator(".more summary").click()
    page.get_by_label("Seed").fill("7")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Sign out", exact=True).click()
    assert sign_in("sk-bob-0123456789") == ("", "")
    page.get_by_role("button", name="Sign out", exact=True).click()
    assert sign_in("sk-ann-0123456789") == ("My secret", "My draft")
