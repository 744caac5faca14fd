"""The bar on top of every page: all pages are one step away, on a telephone too."""

from __future__ import annotations

from typing import Any

import pytest

from tools.processes import Gateway

from .conftest import DESKTOP, PHONE, TABLET, Open

LINKS = "#bar-pages a"
EN = {"Chat", "Knowledge", "Models", "Connect", "Usage", "Status"}  # of those without keys
IN_VIEW = """(all) => all.every((node) => {
  const { left, top, right, bottom, height } = node.getBoundingClientRect();
  return node.checkVisibility() && height >= 40 && left >= 0 && top >= 0
    && right <= innerWidth && bottom <= innerHeight;
})"""


@pytest.mark.parametrize(
    ("size", "language", "dark", "label", "name"),
    [
        (PHONE, "en", True, "Pages: Models", "Usage"),
        (PHONE, "zh", False, "页面：模型", "用量"),
        (TABLET, "en", False, "Pages: Models", "Usage"),
    ],
)
def test_menu_shows_all_pages_and_opens_them(
    site: Gateway,
    visit: Open,
    accessible: Any,
    size: tuple[int, int],
    language: str,
    dark: bool,
    label: str,
    name: str,
) -> None:
    page = visit(f"{site.url}/models", size=size, language=language, dark=dark)
    page.wait_for_load_state()  # a page that has only begun does not listen yet
    button = page.get_by_role("button", name=label)
    assert button.get_attribute("aria-expanded") == "false"
    assert page.get_by_role("navigation").count() == 0
    button.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    links = page.locator(LINKS)
    if language == "en":
        assert {*links.all_inner_texts()} >= EN
    assert links.evaluate_all(IN_VIEW)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    accessible(page)
    assert links.first.evaluate("node => node === document.activeElement")
    page.keyboard.press("ArrowUp")
    assert links.last.evaluate("node => node === document.activeElement")
    page.keyboard.press("Escape")
    assert button.evaluate("node => node === document.activeElement")
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    page.get_by_role("link", name=name).click()
    page.wait_for_url("**/usage")


def test_wide_window_shows_the_pages_in_a_row(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/models", size=DESKTOP)
    assert {*page.locator(LINKS).all_inner_texts()} >= EN
    assert page.locator(LINKS).evaluate_all(IN_VIEW)
    assert page.get_by_role("button", name="Pages").count() == 0
