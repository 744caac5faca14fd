"""Messages of the chat page: raw text, numbers, folds, passages of sources, shortcuts."""

from __future__ import annotations

from typing import Any

import pytest

from tools.processes import Gateway

from .conftest import DESKTOP, OPENED, PHONE, Open
from .test_chat import ask, letters, until

TALK = {"id": "c", "title": "Sources", "settings": {}, "created": 0, "changed": 0}
LONG = "The lighthouse of Varn has 214 steps. " * 20


def message(number: int, role: str, content: str, **extra: Any) -> dict[str, Any]:
    parent = f"m{number - 1}" if number else None
    return {
        "id": f"m{number}", "conversation_id": "c", "parent_id": parent,
        "number": number, "role": role, "reasoning": "", "content": content, "status": "done",
        "extra": extra, "created": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("size", "language", "shows", "raw", "close"),
    [
        (DESKTOP, "en", "Show the passage", "Show the raw text", "Close"),
        (PHONE, "zh", "查看引用段落", "显示原文", "关闭"),
    ],
    ids=["en", "zh"],
)
def test_sources_are_cards_that_open_the_passage_and_answers_have_a_raw_view(
    site: Gateway,
    visit: Open,
    accessible: Any,
    size: tuple[int, int],
    language: str,
    shows: str,
    raw: str,
    close: str,
) -> None:
    sources = [
        {"number": n, "title": f"varn-{n}.pdf", "url": "", "text": LONG, "place": "page 2"}
        for n in (1, 2)
    ]
    messages = [
        message(0, "user", "Q"),
        message(1, "assistant", "It has **214**.", sources=sources),
    ]
    page = visit(f"{site.url}/status", size=size, language=language)
    page.route("**/conversations?*", lambda route: route.fulfill(json=[TALK]))
    page.route("**/c/messages", lambda route: route.fulfill(json=messages))
    page.goto(f"{site.url}/#c")
    page.locator('details[data-name="sources"] summary').click()
    card = page.locator(".source").nth(1)
    assert card.bounding_box()["height"] < 250  # the passage is shortened
    accessible(page)
    card.get_by_role("button", name=shows).click()
    passage = page.locator("dialog.passage")
    assert LONG.strip() in passage.inner_text() and "varn-2.pdf" in passage.inner_text()
    accessible(page)
    passage.get_by_role("button", name=close).click()
    until(page, lambda: passage.count() == 0)
    page.get_by_role("button", name=raw).click()
    said = page.locator(".message.assistant .said")
    until(page, lambda: said.inner_text() == "It has **214**.")
    page.get_by_role("button", name=raw).click()
    until(page, lambda: said.inner_text() == "It has 214.")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_escape_stops_the_answer_and_a_button_continues_it(
    endless_site: Gateway, visit: Open
) -> None:
    page = visit(f"{endless_site.url}/")
    page.locator(OPENED).wait_for()
    ask(page, "Tell me everything.")
    said = page.locator(".message.assistant .said")
    until(page, lambda: said.locator("> div").count() > 0 and len(said.inner_text()) > 20)
    page.keyboard.press("Escape")
    stopped = page.locator('.message.assistant[data-status="stopped"]')
    stopped.wait_for()
    before = said.inner_text()
    stopped.get_by_role("button", name="Continue").click()
    until(page, lambda: len(said.inner_text()) > len(before) + 20)
    assert letters(said.inner_text()).startswith(letters(before)[:20]) and said.count() == 1
    page.keyboard.press("Escape")
    stopped.wait_for()
