"""The chat page in a browser, on the bundled model: asking, streaming, stopping, branching."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.processes import Gateway

from .conftest import DESKTOP, OPENED, PHONE, Open
from .test_knowledge import make_base
from .wire import Wire

DONE = '.message.assistant[data-status="done"]'


def ask(page: Any, text: str) -> None:
    page.locator("#text").fill(text)
    page.locator("#text").press("Enter")


def until(page: Any, condition: Callable[[], bool], seconds: float = 60) -> None:
    """The page's policy forbids what playwright's own waiting does with a text of code."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        page.wait_for_timeout(50)


def answered(page: Any) -> str:
    last = page.locator(".message.assistant").last
    until(page, lambda: last.get_attribute("data-status") != "growing", 100)
    assert last.get_attribute("data-status") == "done", last.inner_text()
    said = page.locator(f"{DONE} .said").last
    until(page, lambda: bool(said.inner_text().strip()))  # the last words are drawn a frame later
    text: str = said.inner_text()
    return text


@pytest.mark.parametrize(("size", "language"), [(PHONE, "zh"), (DESKTOP, "en")])
def test_question_is_answered_and_stored(
    site: Gateway, visit: Open, accessible: Any, size: tuple[int, int], language: str
) -> None:
    page = visit(f"{site.url}/", size=size, language=language, dark=language == "zh")
    ask(page, "Hello!")
    said = answered(page)
    assert said.strip()
    assert page.locator(".foot").last.inner_text().strip()
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    accessible(page)
    page.reload()
    assert answered(page) == said


def test_edited_question_and_regenerated_answer_are_branches(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/")
    ask(page, "Hello!")
    answered(page)
    page.get_by_role("button", name="Regenerate").click()
    page.get_by_text("2 of 2").wait_for()
    answered(page)
    page.get_by_role("button", name="Previous version").click()
    page.get_by_text("1 of 2").wait_for()
    page.get_by_role("button", name="Edit").click()
    page.locator(".message.user textarea").fill("Good morning!")
    page.locator(".editing").get_by_role("button", name="Send").click()
    page.locator(".message.user .said", has_text="Good morning!").wait_for()
    answered(page)
    page.get_by_text("2 of 2").wait_for()


def test_conversation_is_found_and_deleted(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/")
    page.on("dialog", lambda dialog: dialog.accept())
    ask(page, "Hello zanzibar!")
    answered(page)
    page.get_by_label("Search conversations").fill("zanzibar")
    match = page.locator('[data-part="talks"] li', has_text="zanzibar")
    match.wait_for()
    talks = page.locator('[data-part="talks"] li')
    until(page, lambda: bool(talks.count() == 1))
    page.get_by_role("button", name="More actions").click()
    page.get_by_role("menuitem", name="Delete").click()
    match.wait_for(state="detached")


def test_document_answer_shows_its_sources(site: Gateway, visit: Open, tmp_path: Path) -> None:
    document = tmp_path / "ship.md"
    document.write_text("# The ship\n\nThe ship Morning Star has a red sail.\n", encoding="utf-8")
    page = visit(f"{site.url}/knowledge")
    make_base(page, "Ships")
    page.locator('input[type="file"]').set_input_files(document)
    page.locator(".document .state", has_text="ready").wait_for()
    page.goto(f"{site.url}/")
    page.locator(".kinds span", has_text="Knowledge").click()
    page.get_by_label("Knowledge base").select_option(label="Ships")
    ask(page, "What colour is the sail of the Morning Star?")
    answered(page)
    page.locator('details[data-name="sources"] summary').click()
    source = page.locator(".source").first.inner_text()
    assert "ship.md" in source and "red sail" in source and "The ship" in source


def test_agent_answers(start_site: Any, visit: Open) -> None:
    page = visit(f"{start_site('--tools', 'calculator').url}/")
    page.locator(".kinds span", has_text="Agent").click()
    ask(page, "Hello!")
    answered(page)


def test_given_settings_are_sent_and_kept(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/")

    answers = page.locator(".message.assistant")

    def sent() -> Any:
        before = answers.count()
        page.locator("#text").fill("Hello!")
        with page.expect_request("**/ask") as asking:
            page.locator("#text").press("Enter")
        until(page, lambda: answers.count() > before)  # the last answer may be the one before it
        answered(page)
        return asking.value.post_data_json["options"]

    assert sent()["sampling"] == {}
    page.get_by_role("button", name="Settings", exact=True).click()
    page.locator(".more summary").click()
    page.get_by_role("combobox", name="Prompt template").select_option("with_history")
    page.get_by_label("min_p").fill("0.05")
    page.get_by_label("Presence penalty").fill("0.5")
    page.get_by_label("Frequency penalty").fill("-0.5")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Maximum length").fill("5")
    wanted = {"min_p": 0.05, "presence_penalty": 0.5, "frequency_penalty": -0.5, "seed": 7}
    body = sent()
    assert body["sampling"] == wanted
    assert (body["template"], body["max_tokens"]) == ("with_history", 5)
    page.reload()
    page.locator(OPENED).wait_for()
    assert sent() == body


def test_reload_and_stop_lose_no_text(endless_site: Gateway, visit: Open) -> None:
    page = visit(f"{endless_site.url}/")
    ask(page, "Tell me everything.")
    said = page.locator(".message.assistant .said")
    said.wait_for()
    until(page, lambda: len(said.inner_text()) > 40)
    before = said.inner_text().strip()
    page.reload()
    said.wait_for()
    until(page, lambda: len(said.inner_text()) > len(before))
    page.get_by_role("button", name="Stop").click()
    page.locator('.message.assistant[data-status="stopped"]').wait_for()
    assert len(said.inner_text()) >= len(before)


def test_gateway_killed_during_an_answer_loses_no_text(endless_site: Gateway, visit: Open) -> None:
    page = visit(f"{endless_site.url}/")
    ask(page, "Tell me everything.")
    said = page.locator(".message.assistant .said")
    until(page, lambda: said.count() == 1 and len(said.inner_text()) > 200)
    os.killpg(endless_site.pid, signal.SIGKILL)  # its own group: master and worker, no goodbye
    endless_site.kill()
    alert = page.locator('[data-part="told"]')
    until(page, lambda: "Cannot reach the server" in alert.inner_text())
    shown = said.inner_text()
    assert len(letters(shown)) > 50
    endless_site.start()
    page.locator('.message.assistant[data-status="interrupted"]').wait_for()
    until(page, lambda: alert.inner_text() == "")
    assert letters(said.inner_text()).startswith(letters(shown))
    page.reload()
    said.wait_for()
    until(page, lambda: letters(said.inner_text()).startswith(letters(shown)))
    page.get_by_role("button", name="Regenerate").click()
    until(page, lambda: len(said.inner_text()) > 20)
    page.get_by_role("button", name="Stop").click()
    page.locator('.message.assistant[data-status="stopped"]').wait_for()


def test_lost_connection_resumes_where_it_was(endless_site: Gateway, visit: Open) -> None:
    wire = Wire(endless_site.port)
    try:
        page = visit(f"{wire.url}/")
        ask(page, "Tell me everything.")
        said = page.locator(".message.assistant .said")
        until(page, lambda: said.count() == 1 and len(said.inner_text()) > 100)
        alert = page.locator('[data-part="told"]')
        for _ in range(2):
            wire.cut()
            until(page, lambda: "Cannot reach the server" in alert.inner_text())
            shown = letters(said.inner_text())
            wire.mend()
            until(page, lambda: alert.inner_text() == "")
            length = len(said.inner_text())
            until(page, lambda length=length: len(said.inner_text()) > length + 20)  # type: ignore[misc]
            assert letters(said.inner_text()).startswith(shown)
        assert len(re.findall(rb"(?i)last-event-id: [1-9]\d*\.\d+\r", wire.sent)) >= 2
        page.get_by_role("button", name="Stop").click()
        page.locator('.message.assistant[data-status="stopped"]').wait_for()
        grown = letters(said.inner_text())
        page.reload()  # as it is kept: nothing twice, nothing left out
        said.wait_for()
        until(page, lambda: letters(said.inner_text()) == grown)
    finally:
        wire.close()


def letters(text: str) -> str:
    """The letters of a text, whose Markdown may have another layout."""
    return "".join(filter(str.isalnum, text))
