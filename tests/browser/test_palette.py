"""The command palette of all pages (Ctrl+K): found and run with the keyboard alone."""

from __future__ import annotations

from typing import Any

import pytest

from tools.processes import Gateway

from .conftest import DESKTOP, OPENED, PHONE, Open
from .test_chat import answered, ask, until

INPUT = "dialog.palette input"
CHOSEN = 'dialog.palette [aria-selected="true"]'


def run(page: Any, words: str, chosen: str) -> None:
    """Open the palette, type, and press Enter once the first result is `chosen`."""
    page.wait_for_load_state()  # a page that has only begun does not listen yet
    page.keyboard.press("Control+k")
    page.locator(INPUT).fill(words)
    page.locator(CHOSEN, has_text=chosen).wait_for()
    page.keyboard.press("Enter")


@pytest.mark.parametrize(
    ("size", "language", "models", "none"),
    [(DESKTOP, "en", "Models", "No results."), (PHONE, "zh", "模型", "没有结果。")],
)
def test_palette_is_accessible_and_traps_the_focus(
    site: Gateway,
    visit: Open,
    accessible: Any,
    size: tuple[int, int],
    language: str,
    models: str,
    none: str,
) -> None:
    page = visit(f"{site.url}/status", size=size, language=language)
    before = page.locator(".brand")
    before.focus()
    page.keyboard.press("Control+k")
    page.locator(CHOSEN).wait_for()
    accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    for _ in range(3):
        page.keyboard.press("Tab")
        assert page.locator(INPUT).evaluate("node => node === document.activeElement")
    page.locator(INPUT).fill("nothing of that name")
    until(page, lambda: page.locator(".palette .none").inner_text() == none)
    page.keyboard.press("Escape")
    page.locator("dialog.palette").wait_for(state="detached")
    assert before.evaluate("node => node === document.activeElement")
    run(page, models, models)
    page.wait_for_url("**/models")


def test_palette_finds_conversations_by_their_text_from_every_page(
    site: Gateway, visit: Open
) -> None:
    page = visit(f"{site.url}/")
    page.locator(OPENED).wait_for()
    ask(page, "Tell me of the Zanzibar ferry.")
    answered(page)
    address = page.url
    page.goto(f"{site.url}/status")
    run(page, "zanzibar", "Tell me of the Zanzibar ferry.")
    page.wait_for_url(address)
    page.locator(".message.assistant").wait_for()
