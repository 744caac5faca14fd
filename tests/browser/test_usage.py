"""The usage page in a browser: sums, plots, the choice of keys, and accessibility."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fakes import key_file
from tools.processes import Gateway

from .conftest import DESKTOP, PHONE, Open
from .test_chat import until

KEYS = "root sk-root-0123456789\nann sk-ann-0123456789\n"


def chat(site: Gateway, key: str = "") -> dict[str, Any]:
    connection = http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=60)
    body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
    headers = {"Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    reply: dict[str, Any] = json.loads(answer.read())
    connection.close()
    assert answer.status == 200
    return reply


def shown_after(page: Any, name: str, least: int) -> None:
    """Reload until the number is there: rows are stored twice a second."""
    number = page.locator(f'[data-part="numbers"] [data-key="{name}"] .number')
    drawn = page.locator('[data-part="nothing"]:not([hidden])').or_(number)
    drawn.first.wait_for()
    while not number.is_visible() or int(number.inner_text()) < least:  # ended by the time limit
        page.wait_for_timeout(100)
        page.reload()
        drawn.first.wait_for()


def test_admin_sees_own_usage_and_that_of_all_keys(
    start_site: Any, visit: Open, accessible: Any, tmp_path: Path
) -> None:
    own = start_site("--api-key-file", key_file(tmp_path, KEYS), "--admins", "root")
    chat(own, "sk-ann-0123456789")
    chat(own, "sk-root-0123456789")
    page = visit(f"{own.url}/usage")
    page.locator('input[type="password"]').fill("sk-root-0123456789")
    page.locator("main button").first.click()
    shown_after(page, "requests", 2)  # it opens on all keys
    page.locator('[data-part="keys"] tbody tr').nth(1).wait_for()
    names = page.locator('[data-part="keys"] tbody th').all_inner_texts()
    assert sorted(names) == ["ann", "root"]
    accessible(page)
    days = page.locator('[data-part="days"] .plot').first
    over = days.locator(".u-over").bounding_box()
    page.mouse.move(over["x"] + over["width"] - 2, over["y"] + 40)  # today
    pointed = days.locator("figcaption .note")
    until(page, lambda: int("0" + pointed.inner_text().rpartition(" ")[2]) > 0)
    with page.expect_download() as file:
        page.get_by_role("link", name="Download as CSV").click()
    lines = Path(file.value.path()).read_text().splitlines()
    assert lines[0].startswith("time,") and len(lines) == 3
    page.locator('select[name="scope"]').select_option("own")
    page.locator('[data-part="keys"]').wait_for(state="hidden")
    number = page.locator('[data-part="numbers"] [data-key="requests"] .number')
    until(page, lambda: number.inner_text() == "1")


def test_nothing_used_is_said_without_empty_tables(
    start_site: Any, visit: Open, accessible: Any
) -> None:
    page = visit(f"{start_site().url}/usage")
    page.get_by_text("No requests in this time.").wait_for()
    assert page.locator("table:visible, .plot:visible, .numbers:visible").count() == 0
    accessible(page)


@pytest.mark.parametrize(("size", "language"), [(PHONE, "zh"), (DESKTOP, "en")])
def test_own_use_is_shown_against_the_limits(
    start_site: Any,
    visit: Open,
    accessible: Any,
    tmp_path: Path,
    size: tuple[int, int],
    language: str,
) -> None:
    own = start_site("--api-key-file", key_file(tmp_path, KEYS), "--admins", "root")
    headers = {"Authorization": "Bearer sk-root-0123456789"}
    limits = {
        "limits": {"requests": {"hour": 5}, "tokens": {"day": 10_000}},
        "model_limits": {"*": {"requests": {"day": 9}}},
    }
    made = httpx.post(f"{own.url}/key/generate", json=limits, headers=headers, timeout=60).json()
    chat(own, made["key"])
    page = visit(f"{own.url}/usage", size=size, language=language)
    page.locator('input[type="password"]').fill(made["key"])
    page.keyboard.press("Enter")
    first = page.locator(".limits li").first
    first.wait_for()
    assert ("1 of 5 requests an hour" if language == "en" else "已用 1 / 5") in first.inner_text()
    model = page.locator(".limits li", has_text="*").inner_text()
    assert ("1 of 9 requests a day of *" if language == "en" else "*：每天已用 1 / 9") in model
    assert page.locator(".limits meter").first.evaluate("(node) => node.value / node.max") == 0.2
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    accessible(page)
