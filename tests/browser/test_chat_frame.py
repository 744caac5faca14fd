"""The frame of the chat page: name, model and its state, offers, settings and presets, theme."""

from __future__ import annotations

from typing import Any

import pytest

from tools.processes import Gateway

from .conftest import DESKTOP, OPENED, PHONE, Open
from .test_chat import answered, until

TABLET = (768, 1024)


@pytest.mark.parametrize(("size", "language"), [(PHONE, "zh"), (DESKTOP, "en")])
def test_empty_chat_names_the_model_and_its_offer_is_answered(
    site: Gateway, visit: Open, accessible: Any, size: tuple[int, int], language: str
) -> None:
    page = visit(f"{site.url}/", size=size, language=language)
    page.locator(OPENED).wait_for()
    assert page.get_by_role("link", name="slotproxy").is_visible()
    model = page.get_by_role("combobox", name={"en": "Model", "zh": "模型"}[language])
    page.locator("#model-state", has_text={"en": "Ready", "zh": "就绪"}[language]).wait_for()
    assert "tinychat" in model.input_value()
    until(page, lambda: page.locator("[data-offer]").count() == 4)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    accessible(page)
    # Not one of a knowledge base, which another test may have made: it only fills the input box.
    offer = page.locator('[data-offer="chat"][data-send]').first
    text = offer.get_attribute("data-text")
    offer.click()
    answered(page)
    assert page.locator(".message.user .said").inner_text() == text


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_settings_show_their_defaults_and_are_kept_as_presets(
    start_site: Any, visit: Open, accessible: Any, size: tuple[int, int]
) -> None:
    page = visit(f"{start_site('--sampling', 'temperature=0.4').url}/", size=size)
    page.get_by_role("button", name="Settings", exact=True).click()
    temperature, preset = page.get_by_label("Temperature"), page.get_by_label("Preset")
    until(page, lambda: temperature.get_attribute("placeholder") == "0.4")
    assert temperature.bounding_box()["x"] + 100 < size[0]
    accessible(page)
    preset.select_option("precise")
    assert temperature.input_value() == "0.1"
    page.get_by_label("System prompt").fill("Be kind.")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Seed").press("Tab")
    assert preset.input_value() == "custom"  # a seed belongs to no preset of ours
    page.once("dialog", lambda dialog: dialog.accept("Kind"))
    page.get_by_role("button", name="Save as preset").click()
    preset.select_option(label="Defaults")
    assert page.get_by_label("System prompt").input_value() == "Be kind."  # no sampling parameter
    page.get_by_role("button", name="Reset to defaults").click()
    assert temperature.input_value() == page.get_by_label("System prompt").input_value() == ""
    page.reload()
    page.get_by_role("button", name="Settings", exact=True).click()
    preset.select_option(label="Kind")
    assert page.get_by_label("Seed").input_value() == "7"
    page.keyboard.press("Escape")
    assert not temperature.is_visible()


def test_theme_is_chosen_and_kept(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/status")

    def dark() -> bool:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, colour.removeprefix("rgb(").rstrip(")").split(","))) < 200

    assert not dark()
    page.get_by_role("link", name="System theme").click()
    page.get_by_role("link", name="Light theme").click()
    page.get_by_role("link", name="Dark theme").wait_for()
    until(page, dark)  # its style sheets may come later than the link
    assert page.url.endswith("/status")
    page.goto(f"{site.url}/")
    until(page, dark)


@pytest.mark.parametrize("size", [PHONE, TABLET], ids=["phone", "tablet"])
def test_bar_has_one_row_and_shows_the_current_page(
    site: Gateway, visit: Open, accessible: Any, size: tuple[int, int]
) -> None:
    page = visit(f"{site.url}/status", size=size)
    box = page.get_by_role("button", name="Pages: Status").bounding_box()
    assert box["x"] > 0 and box["x"] + box["width"] < size[0]
    assert page.locator(".bar").bounding_box()["height"] < 60
    page.get_by_role("button", name="Theme, language and more").click()
    accessible(page)
    page.get_by_role("link", name="中文").click()
    page.locator("html[lang='zh-CN']").wait_for()


def test_phone_says_why_a_mode_is_off(site: Gateway, visit: Open, accessible: Any) -> None:
    page = visit(f"{site.url}/", size=PHONE)
    page.locator(OPENED).wait_for()
    agent = page.locator(".kinds label", has_text="Agent")
    box, send = agent.bounding_box(), page.get_by_role("button", name="Send").bounding_box()
    assert box["x"] + box["width"] <= send["x"]
    agent.click(force=True)
    page.get_by_text("Agent is off").wait_for()
    accessible(page)
