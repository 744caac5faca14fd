"""The page of requests in a browser: live rows, one opened, and cancelling."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import proxy.web
from proxy.config.data_folder import DATABASE
from proxy.store.database import Database
from proxy.store.ledger import Ledger
from tests.unit.store.test_ledger import row
from tools.processes import Gateway

from .conftest import DESKTOP, PHONE, TABLET, Open
from .test_chat import until

CHAT = "/v1/chat/completions"
TEXTS = Path(proxy.web.__file__).parent / "static" / "texts"


def ask(site: Gateway, text: str, tokens: int) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    return httpx.post(f"{site.url}{CHAT}", json=body, timeout=300)


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
    # It comes without a reload.
    row.filter(has_text="Answered" if language == "en" else "已回答").wait_for()
    nothing.wait_for(state="hidden")
    row.get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(name).wait_for()
    first = "This is the first request" if language == "en" else "这是一个对话的第一个请求"
    dialog.get_by_text(first).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    accessible(page)
    page.keyboard.press("Escape")
    page.locator('select[name="outcome"]').select_option("ok")
    row.wait_for()


VALUES = {
    "prompt": 911,
    "cached": 12,
    "expected": 850,
    "backend": "gpu-1",
    "kept": "gpu-2",
    "slot": 3,
    "slots": 4,
    "messages": 5,
    "message": 6,
    "unit": "character",
    "begin": 712,
    "end": 744,
    "token": 178,
    "evaluated": 899,
    "times": 7,
    "prompts": 8,
    "seconds": 40,
}
CAUSES = (
    "evicted_key context template head swapped restarted side_job evicted_own off elsewhere".split()
)


@pytest.mark.parametrize(("size", "language"), [(PHONE, "zh"), (TABLET, "en")])
def test_each_cause_is_said_in_words(
    site: Gateway, visit: Open, size: tuple[int, int], language: str
) -> None:
    """The causes that tests/integration/test_explain.py stages on real servers."""
    texts = json.loads((TEXTS / f"{language}.json").read_bytes())["requests"]["why"]
    name = ask(site, "Which sails are red?", 4).headers["x-request-id"]
    request = httpx.get(f"{site.url}/v1/requests/{name}").json()
    page = visit(f"{site.url}/requests", size=size, language=language)
    page.route(f"**/requests/{name}", lambda route: route.fulfill(json=request))
    row = page.locator('[data-part="rows"] tr').first
    for cause in CAUSES:
        request["decision"]["reason"] |= {"cause": cause, "values": VALUES}
        row.get_by_role("button").first.click()
        said = page.get_by_role("dialog").locator('[data-part="why"]')
        words, *rest = re.split(r"{(\w+)}", texts[cause])
        said.filter(has_text=words.strip() or "gpu").wait_for()
        sentence = said.inner_text()
        for value, words in zip(rest[::2], rest[1::2], strict=True):
            shown = "" if value in ("unit", "time") else str(VALUES[value])
            assert shown in sentence and words.strip() in sentence, cause
        assert not {*"{}"} & {*sentence} and "undefined" not in sentence
        page.keyboard.press("Escape")
        said.wait_for(state="hidden")


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_request_in_line_and_one_that_runs_are_cancelled(
    endless_site: Gateway, visit: Open, accessible: Any, size: tuple[int, int]
) -> None:
    page = visit(f"{endless_site.url}/requests", size=size, dark=size == PHONE)
    rows = page.locator('[data-part="rows"] tr')
    with ThreadPoolExecutor(3) as pool:
        texts = (f"Number {n}: go on for ever." for n in range(3))
        answers = [pool.submit(ask, endless_site, text, 100_000) for text in texts]
        waiting, running = rows.filter(has_text="Waiting"), rows.filter(has_text="Writing")
        waiting.wait_for()
        running.nth(1).wait_for()
        accessible(page)
        waiting.get_by_role("button").first.click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("its place in line is 1.").wait_for()
        dialog.get_by_text("Queue").first.wait_for()
        dialog.get_by_role("button", name="Cancel this request").click()
        dialog.get_by_text("Cancelled").wait_for()
        page.keyboard.press("Escape")
        for left in (1, 0):
            button = running.first.get_by_role("button", name="Cancel the request")
            right = button.evaluate("(node) => node.getBoundingClientRect().right")
            assert right <= size[0]  # beside the columns, at any width
            button.click()
            running.nth(left).wait_for(state="detached")
        responses = [answer.result(60) for answer in answers]
    assert {response.status_code for response in responses} == {409}
    assert responses[0].json()["error"]["code"] == "request_cancelled"
    until(page, lambda: rows.filter(has_text="Cancelled").count() == 3)
    until(page, lambda: httpx.get(f"{endless_site.url}/v1/slots").json()["running"] == 0)


def test_older_ones_of_a_thousand_requests_are_shown_on_demand(
    endless_site: Gateway, visit: Open, tmp_path: Path
) -> None:
    database, now = Database(f"sqlite:///{tmp_path / 'data' / DATABASE}"), int(time.time())
    rows = [row(ended=1000 * (now - n), request=f"r{n}", key="") for n in range(10, 1010)]
    database.upgrade()
    Ledger(database).write("test", 1, rows)
    database.close()
    page = visit(f"{endless_site.url}/requests", size=TABLET)
    shown = page.locator('[data-part="rows"] tr')
    older = page.get_by_role("button", name="Show older requests")
    for count in (200, 400, 600, 800, 1000):
        shown.nth(count - 5).wait_for()
        assert shown.count() <= count
        older.click()
    older.wait_for(state="hidden")
    shown.nth(999).wait_for()
    assert shown.count() == 1000
