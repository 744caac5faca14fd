"""Copying and editing messages of the chat page."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tools.processes import Gateway

from .conftest import Open
from .test_chat import DONE, ask, until
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


def test_escape_in_an_edit_does_not_stop_the_answer(endless_site: Gateway, visit: Open) -> None:
    page = visit(f"{endless_site.url}/")
    ask(page, "Tell me everything.")
    said = page.locator(".message.assistant .said:not(:has(> .wait))")
    until(page, lambda: said.count() == 1 and len(said.inner_text()) > 20)
    page.get_by_role("button", name="Edit").click()
    page.locator(".message.user textarea").press("Escape")
    before = len(said.inner_text())
    until(page, lambda: len(said.inner_text()) > before + 20)
    page.keyboard.press("Escape")
    page.locator('.message.assistant[data-status="stopped"]').wait_for()


def test_deleted_question_goes_with_its_answer_and_the_rest_stays(
    site: Gateway, visit: Open, accessible: Any
) -> None:
    page = visit(f"{site.url}/")
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.accept()))
    questions = page.locator(".message.user .said")
    for n, text in enumerate(("One", "Two", "Three")):
        ask(page, text)
        page.locator(DONE).nth(n).wait_for()
    questions.nth(1).hover()
    page.get_by_role("button", name="Remove this message").nth(2).click()
    until(page, lambda: questions.all_inner_texts() == ["One", "Three"])
    assert page.locator(".message.assistant").count() == 2
    page.get_by_role("button", name="Remove this message").nth(1).click()
    until(page, lambda: page.locator(".message").count() == 1)
    page.reload()
    until(page, lambda: questions.all_inner_texts() == ["One"])
    accessible(page)
    page.get_by_role("button", name="Answer again").click()
    page.locator(DONE).wait_for()
    page.get_by_role("button", name="Answer again").wait_for(state="detached")
    assert questions.all_inner_texts() == ["One"]
    assert [re.sub(r"\W+", " ", text) for text in dialogs] == [
        "Remove this question and its answer The rest of the conversation stays ",
        "Remove this answer and the 2 messages after it ",
    ]
