"""Copying and editing messages of the chat page."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tools.processes import Gateway

from .conftest import Open
from .test_chat import answered, ask, until
from .test_chat_messages import TALK, message

# A page on plain HTTP of another host has no clipboard for scripts.
PLAIN_HTTP = "Object.defineProperty(Navigator.prototype, 'clipboard', {get: () => undefined})"
CODE = "Use this:\n\n```python\nprint('arch')\n```\n"


def shown(site: Gateway, visit: Open, *, plain: bool) -> Any:
    page = visit(f"{site.url}/status")
    page.clock.install()
    if plain:
        page.add_init_script(PLAIN_HTTP)
    else:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    messages = [message(0, "user", "How many arches?"), message(1, "assistant", CODE)]
    page.route("**/conversations?*", lambda route: route.fulfill(json=[TALK]))
    page.route("**/c/messages", lambda route: route.fulfill(json=messages))
    page.goto(f"{site.url}/#c")
    page.locator(".message.assistant").wait_for()
    # Whether it is copied is said for a second and a half, and a busy machine looks later.
    page.clock.pause_at(time.time() + 3600)
    return page


def pasted(page: Any) -> str:
    box = page.locator("#text")
    box.fill("")
    box.press("Control+V")
    text: str = box.input_value()
    return text


@pytest.mark.parametrize("plain", [False, True], ids=["https", "http"])
def test_copy_buttons_copy(site: Gateway, visit: Open, plain: bool) -> None:
    page = shown(site, visit, plain=plain)
    page.locator(".message.user").get_by_role("button", name="Copy").click()
    page.locator('.message.user button[title="Copied"]').wait_for()
    assert pasted(page) == "How many arches?"
    page.locator(".code-bar button").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert pasted(page).strip() == "print('arch')"


def test_copy_button_says_so_when_nothing_is_copied(site: Gateway, visit: Open) -> None:
    page = shown(site, visit, plain=True)
    page.evaluate("document.execCommand = () => false")
    page.locator(".message.user").get_by_role("button", name="Copy").click()
    page.locator('.message.user button[title="Not copied"]').wait_for()
    page.locator(".code-bar button").click()
    page.get_by_role("button", name="Not copied").wait_for()


@pytest.mark.parametrize("how", ["Escape", "Cancel"])
def test_editing_a_question_is_cancelled(site: Gateway, visit: Open, how: str) -> None:
    page = visit(f"{site.url}/")
    ask(page, "Hello!")
    said = answered(page)
    page.get_by_role("button", name="Edit").click()
    area = page.locator(".message.user textarea")
    area.fill("Something else")
    if how == "Escape":
        area.press("Escape")
    else:
        page.get_by_role("button", name="Cancel").click()
    until(page, lambda: area.count() == 0)
    assert page.locator(".message.user .said").inner_text() == "Hello!"
    assert answered(page) == said
    page.get_by_role("button", name="Edit").click()
    assert area.input_value() == "Hello!"


def test_escape_in_an_edit_does_not_stop_the_answer(endless_site: Gateway, visit: Open) -> None:
    page = visit(f"{endless_site.url}/")
    ask(page, "Tell me everything.")
    said = page.locator(".message.assistant .said")
    until(page, lambda: said.count() == 1 and len(said.inner_text()) > 20)
    page.get_by_role("button", name="Edit").click()
    page.locator(".message.user textarea").press("Escape")
    before = len(said.inner_text())
    until(page, lambda: len(said.inner_text()) > before + 20)
    page.keyboard.press("Escape")
    page.locator('.message.assistant[data-status="stopped"]').wait_for()


def test_an_answer_whose_writer_died_is_looked_for_ever_more_rarely(
    site: Gateway, visit: Open
) -> None:
    page = visit(f"{site.url}/status")
    page.clock.install()
    looks: list[str] = []
    growing = {**message(1, "assistant", "Half"), "status": "growing"}

    def messages(route: Any) -> None:
        looks.append(route.request.url)
        route.fulfill(json=[message(0, "user", "Q"), growing])

    page.route("**/conversations?*", lambda route: route.fulfill(json=[TALK]))
    page.route("**/c/messages", messages)
    page.route("**/answers/m1/events", lambda route: route.fulfill(status=404))
    page.goto(f"{site.url}/#c")
    until(page, lambda: len(looks) >= 2)
    page.clock.pause_at(time.time() + 3600)  # the time that passes is what is run for
    for _ in range(200):
        page.clock.run_for(100)
    page.wait_for_timeout(500)
    assert 4 <= len(looks) <= 12, "in 20 seconds"
