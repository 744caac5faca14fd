"""Signing in with a browser, and pages of errors."""

from __future__ import annotations

from typing import Any

import pytest

from tools.processes import Gateway

from .conftest import PHONE, Open


@pytest.fixture(scope="module")
def locked(start_site: Any) -> Gateway:
    site: Gateway = start_site("--api-key", "sesame-1234")
    return site


def test_key_opens_the_requested_page(locked: Gateway, visit: Open, accessible: Any) -> None:
    page = visit(f"{locked.url}/status")
    assert "/signin" in page.url
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


def test_error_page_exists_in_both_languages(site: Gateway, visit: Open, accessible: Any) -> None:
    page = visit(f"{site.url}/nowhere", size=PHONE, language="zh")
    assert page.locator("h1").inner_text() == "页面不存在"
    assert "Page not found" in page.locator("main").inner_text()
    accessible(page)
