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
from .test_chat import until


@pytest.fixture(scope="module")
def locked(start_module_site: Any) -> Gateway:
    site: Gateway = start_module_site("--api-key", "sesame-1234")
    return site


def test_key_opens_the_requested_page(locked: Gateway, visit: Open, accessible: Any) -> None:
    page = visit(f"{locked.url}/status")
    assert "/signin" in page.url
    assert page.get_by_role("navigation").count() == 0  # its links would lead back
    accessible(page)
    page.get_by_label("API key").fill("a wrong one")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("Invalid API key").wait_for()
    page.get_by_label("API key").fill("sesame-1234")
    page.keyboard.press("Enter")
    page.locator(".backend").wait_for()
    assert page.url == f"{locked.url}/status"
    (cookie,) = [entry for entry in page.context.cookies() if entry["name"] == "slotproxy_session"]
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
            cookies = {cookie["name"]: cookie for cookie in page.context.cookies()}
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
    mine = page.locator(".record").first
    assert mine.locator(".badge").count() == 1
    agent = mine.locator("p[title]")
    assert agent.inner_text() == ("Linux 上的 Chrome" if language == "zh" else "Chrome on Linux")
    assert agent.get_attribute("title") == page.evaluate("navigator.userAgent")
    name, badge = (mine.locator(selector).bounding_box() for selector in ("strong", ".badge"))
    assert badge["x"] > name["x"] + name["width"] + 5 or badge["y"] > name["y"]
    page.locator(".record").nth(1).get_by_role("button").get_by_text(end, exact=True).click()
    page.locator(".record").nth(1).wait_for(state="detached")
    other.reload()
    other.locator("#signin").wait_for()
    page.locator("main form button").click()
    page.locator("#signin").wait_for()


CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0"
AGENTS = {
    f"{CHROME} Safari/537.36": "Chrome on Linux",
    f"{CHROME} Safari/537.36 Edg/140.0.0.0".replace("X11; Linux x86_64", "Windows NT 10.0"): (
        "Edge on Windows"
    ),
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Version/18.0 Safari/605.1.15": "Safari on macOS",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like"
    " Gecko) CriOS/140.0.0.0 Mobile/15E148 Safari/604.1": "Chrome on iOS",
    "Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0": "Firefox on Android",
    "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0"
    " Mobile Safari/537.36": "Chrome on Android",
    "curl/8.5.0": "curl",
    "my-robot/1.0 (+https://example.org/about/this/robot/and/its/many/virtues)": (
        "my-robot/1.0 (+https://example.org/about/this/robot/and/its/"
    ),
    "": "Unknown browser",
}


def test_browsers_have_the_names_that_people_know(locked: Gateway, visit: Open) -> None:
    page = visit(f"{locked.url}/signin")
    names = page.evaluate(
        """async (agents) => {
          const { agentName } = await import("/static/panels/agents.js");
          return agents.map(agentName);
        }""",
        [*AGENTS],
    )
    assert dict(zip(AGENTS, names, strict=True)) == AGENTS


def test_settings_and_drafts_are_kept_for_each_key(
    start_site: Any, visit: Open, tmp_path: Path
) -> None:
    keys = key_file(tmp_path, "ann sk-ann-0123456789\nbob sk-bob-0123456789\n")
    site = start_site("--api-key-file", keys)
    page = visit(f"{site.url}/")

    system, text = page.locator('[name="system"]'), page.locator("#text")

    def sign_in(key: str, *values: str) -> None:
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        page.locator(OPENED).wait_for()
        until(page, lambda: (system.input_value(), text.input_value()) == values)

    sign_in("sk-ann-0123456789", "", "")
    text.fill("My draft")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("System prompt").fill("My secret")
    page.locator(".more summary").click()
    page.get_by_label("Seed").fill("7")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Sign out", exact=True).click()
    sign_in("sk-bob-0123456789", "", "")
    page.get_by_role("button", name="Sign out", exact=True).click()
    sign_in("sk-ann-0123456789", "My secret", "My draft")
