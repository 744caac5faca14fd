"""Captures in a browser: an opened request shows both sides and the prompt, is exported, asked
again and deleted; people read that they are captured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tools.processes import Gateway

from .conftest import DESKTOP, PHONE, Open

CHAT = "/v1/chat/completions"
HOSTILE = "<img src=x onerror=alert(1)> ``` 'quoted'"
TURNED = "left \u202eright\u202c \u2066alone\u2069"


@pytest.fixture(scope="module")
def capturing(start_module_site: Any) -> Gateway:
    site: Gateway = start_module_site("--capture", "all")
    return site


def ask(site: Gateway, text: str, **fields: Any) -> str:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields}
    return httpx.post(f"{site.url}{CHAT}", json=body, timeout=90).headers["x-request-id"]


def opened(page: Any, row: int = 0) -> Any:
    """The section of the opened request, unfolded."""
    page.locator('[data-part="rows"] tr').nth(row).get_by_role("button").first.click()
    capture = page.locator('[data-part="capture"]')
    capture.wait_for()
    capture.locator("> summary").click()
    capture.locator("pre").first.wait_for(state="attached")
    return capture


def unfold(capture: Any, title: str) -> str:
    """The text of a part, unfolded."""
    part = capture.locator("details", has=capture.page.locator("summary", has_text=title)).first
    part.locator("> summary").click()
    return str(part.locator("pre").inner_text())


@pytest.mark.parametrize(("size", "language"), [(PHONE, "zh"), (DESKTOP, "en")])
def test_both_sides_and_the_prompt_are_read_as_text(
    capturing: Gateway, visit: Open, accessible: Any, size: tuple[int, int], language: str
) -> None:
    name = ask(capturing, HOSTILE, stream=True)
    page = visit(f"{capturing.url}/requests", size=size, language=language)
    note = "Your requests are captured" if language == "en" else "您的请求会被记录"
    page.locator(".note", has_text=note).wait_for()
    capture = opened(page)
    assert name in page.get_by_role("dialog").inner_text()
    titles = ("Request of the client", "Text of the answer", "Prompt", "Sent to the backend")
    if language == "zh":
        titles = ("客户端的请求", "回答的文字", "提示", "发送给后端")
    sent, text, prompt, backend = (unfold(capture, title) for title in titles)
    assert HOSTILE in json.loads(sent)["messages"][0]["content"]
    assert text and "data:" not in text
    assert f"<|im_start|>user\n{HOSTILE}" in prompt
    assert json.loads(backend)["prompt"] == prompt
    assert page.locator("dialog img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    accessible(page)


def test_controls_of_direction_are_read_as_escapes(capturing: Gateway, visit: Open) -> None:
    ask(capturing, TURNED)
    capture = opened(visit(f"{capturing.url}/requests"))
    shown = "left \\u202eright\\u202c \\u2066alone\\u2069"
    for title in ("Request of the client", "Prompt", "Sent to the backend"):
        assert shown in unfold(capture, title)
    for kind in ("Markdown", "JSON"):
        with capture.page.expect_download() as started:
            capture.get_by_role("button", name=kind).click()
        text = Path(started.value.path()).read_text(encoding="utf-8")
        if kind == "Markdown":
            assert shown in text and "\u202e" not in text
        else:
            assert TURNED in json.loads(json.loads(text)["sent"]["text"])["messages"][0]["content"]


def test_capture_is_exported(capturing: Gateway, visit: Open) -> None:
    name = ask(capturing, HOSTILE)
    page = visit(f"{capturing.url}/requests")
    capture = opened(page)
    for kind in ("Markdown", "JSON"):
        with page.expect_download() as started:
            capture.get_by_role("button", name=kind).click()
        text = Path(started.value.path()).read_text(encoding="utf-8")
        if kind == "JSON":
            assert json.loads(text)["id"] == name
        else:
            assert text.startswith(f"# POST {CHAT}") and "\n````\n" in text
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    capture.get_by_role("button", name="curl").click()
    capture.get_by_text("Put your API key").wait_for()
    command = page.evaluate("navigator.clipboard.readText()")
    assert "Bearer YOUR_KEY" in command and f"{capturing.url}{CHAT}" in command
    assert re.search(r"'\\''quoted'\\''", command)


def test_captured_request_is_asked_again_and_deleted(
    capturing: Gateway, visit: Open, accessible: Any
) -> None:
    ask(capturing, "Say something about the sea.")
    page = visit(f"{capturing.url}/requests")
    capture = opened(page)
    capture.get_by_role("button", name="Ask again").click()
    now = capture.locator(".beside section").nth(1).locator("pre")
    now.filter(has_not_text="Waiting").wait_for()
    before, after = (box.inner_text() for box in capture.locator(".beside pre").all())
    assert before and after and "{" not in after
    accessible(page)
    rows = page.locator('[data-part="rows"] tr')
    page.wait_for_function("document.querySelectorAll('[data-part=rows] tr').length > 1")
    assert rows.count() > 1
    capture.get_by_role("button", name="Delete the capture").click()
    capture.get_by_text("Deleted.").wait_for()


def test_chat_page_says_that_it_is_captured(capturing: Gateway, site: Gateway, visit: Open) -> None:
    note = visit(capturing.url).locator(".captured")
    note.wait_for()
    assert "up to 7 days" in note.inner_text()
    page = visit(f"{site.url}/requests")
    page.locator('[data-part="live"][data-state="up"]').wait_for()
    assert "captured" not in page.locator("main").inner_text()
