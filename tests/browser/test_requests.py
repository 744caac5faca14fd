"""The page of requests in a browser: live rows, one opened, and cancelling."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tools.processes import Gateway

from .conftest import DESKTOP, PHONE, Open

CHAT = "/v1/chat/completions"


def ask(site: Gateway, text: str, tokens: int) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    return httpx.post(f"{site.url}{CHAT}", json=body, timeout=90)


@pytest.mark.parametrize(("size", "language"), [(PHONE, "zh"), (DESKTOP, "en")])
def test_request_is_opened_with_the_reason_for_its_evaluation(
    start_site: Any, visit: Open, accessible: Any, size: tuple[int, int], language: str
) -> None:
    site = start_site()
    page = visit(f"{site.url}/requests", size=size, language=language)
    nothing = page.locator('[data-part="nothing"]')
    nothing.wait_for()
    name = ask(site, f"{language}: which of all these sails are red, and why? " * 4, 8).headers[
        "x-request-id"
    ]
    row = page.locator('[data-part="rows"] tr')
    row.wait_for()  # it comes without a reload
    assert nothing.is_hidden()
    assert ("Answered" if language == "en" else "已回答") in row.inner_text()
    row.get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    text = dialog.inner_text()
    assert name in text
    first = "This is the first request" if language == "en" else "这是一个对话的第一个请求"
    assert first in text
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    accessible(page)
    page.keyboard.press("Escape")
    page.locator('select[name="outcome"]').select_option("ok")
    row.wait_for()


def test_running_request_is_cancelled_and_its_client_reads_it(
    endless_site: Gateway, visit: Open, accessible: Any
) -> None:
    page = visit(f"{endless_site.url}/requests", size=DESKTOP)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, endless_site, "Go on for ever.", 4000)
        cancel = page.get_by_role("button", name="Cancel the request")
        cancel.wait_for()
        accessible(page)
        cancel.click()
        found = answer.result(60)
    assert found.status_code == 409
    assert found.json()["error"]["code"] == "request_cancelled"
    page.locator('[data-part="rows"] tr', has_text="Cancelled").wait_for()
    assert httpx.get(f"{endless_site.url}/v1/slots").json()["running"] == 0
