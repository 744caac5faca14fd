"""Late answers must not overwrite newer input: drafts, choices, edits, lists, in a browser.

Answers of the gateway are held back here, and let through when something else has been done.
"""

from __future__ import annotations

from typing import Any

from tools.processes import Gateway

from .conftest import Open
from .test_chat import DONE, answered, ask, until
from .test_knowledge import make_base


class Held:
    """Holds the first `count` matching requests until they are released."""

    def __init__(self, page: Any, pattern: str, count: int = 1, method: str = "GET") -> None:
        self.routes: list[Any] = []
        self._left = count
        self._method = method
        page.route(pattern, self._take)

    def _take(self, route: Any) -> None:
        if self._left and route.request.method == self._method:
            self._left -= 1
            self.routes.append(route)
        else:
            route.fallback()

    def go(self) -> None:
        for route in self.routes:
            route.continue_()


def markdown(name: str, text: bytes = b"# A\n\nSome words.") -> dict[str, Any]:
    return {"name": f"{name}.md", "mimeType": "text/markdown", "buffer": text}


def talk_about(page: Any, what: str) -> None:
    page.get_by_role("button", name="New conversation").first.click()
    page.locator("#talk-title", has_text="Chat").wait_for()
    ask(page, what)
    page.locator("#talk-title", has_text=what).wait_for()
    answered(page)


def choose(page: Any, title: str) -> None:
    page.locator('[data-part="talks"] button', has_text=title).first.click()


def test_draft_survives_reload_in_its_conversation(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/")
    page.on("dialog", lambda dialog: dialog.accept())
    box = page.locator("#text")
    talk_about(page, "Draft one")
    box.fill("Not asked yet")
    page.reload()
    until(page, lambda: box.input_value() == "Not asked yet")
    talk_about(page, "Draft two")
    until(page, lambda: box.input_value() == "")
    choose(page, "Draft one")
    page.locator("#talk-title", has_text="Draft one").wait_for()
    until(page, lambda: box.input_value() == "Not asked yet")
    box.press("Enter")
    until(page, lambda: page.locator(DONE).count() == 2)
    page.reload()
    until(page, lambda: page.locator(DONE).count() == 2)
    assert box.input_value() == ""
    box.fill("Of no use")
    page.get_by_role("button", name="More actions").click()
    page.get_by_role("menuitem", name="Delete").click()
    page.locator("#talk-title", has_text="Chat").wait_for()
    until(page, lambda: box.input_value() == "")
    drafts = "Object.keys(sessionStorage).filter((k) => k.includes('draft'))"
    until(page, lambda: page.evaluate(drafts) == [])


def test_later_of_two_selected_conversations_is_shown(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/")
    talk_about(page, "Slow one")
    slow = page.url.partition("#")[2]
    talk_about(page, "Quick one")
    talk_about(page, "Third one")
    held = Held(page, f"**/{slow}/messages")
    choose(page, "Slow one")
    until(page, lambda: len(held.routes) == 1)
    assert page.locator(".message.user .said").inner_text() == "Third one"
    choose(page, "Quick one")
    page.locator(".message.user .said", has_text="Quick one").wait_for()
    with page.expect_response(f"**/{slow}/messages"):
        held.go()
    page.wait_for_timeout(200)
    assert page.locator(".message.user .said").inner_text() == "Quick one"
    assert page.locator("#talk-title").inner_text() == "Quick one"


def test_pin_survives_a_stale_list_of_pins(start_site: Any, visit: Open) -> None:
    page = visit(f"{start_site().url}/")
    talk_about(page, "Keep me")
    search = page.get_by_label("Search conversations")
    search.fill("Keep")
    row = page.locator('[data-part="talks"] li')
    row.wait_for()
    pins = "**/conversations?pinned=1"
    held = Held(page, pins)
    search.fill("")
    until(page, lambda: len(held.routes) == 1)
    old = held.routes[0].fetch()  # as it is now
    row.hover()
    page.get_by_role("button", name="Pin “Keep me”").click()
    page.locator('[data-part="talks"] li[data-day="Pinned"]').wait_for()
    with page.expect_response(pins):
        held.routes[0].fulfill(response=old)
    page.wait_for_timeout(200)
    assert row.get_attribute("data-day") == "Pinned"


def test_question_asked_during_load_stays_in_its_conversation(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/")
    talk_about(page, "Known from before")
    address = page.url
    page.goto("about:blank")
    held = Held(page, "**/conversations?*")
    page.goto(address)
    until(page, lambda: len(held.routes) == 1)
    ask(page, "And early?")
    held.go()
    until(page, lambda: page.locator(DONE).count() == 2)
    assert page.locator(".message.user .said").all_inner_texts() == [
        "Known from before",
        "And early?",
    ]
    assert page.url == address


def test_text_typed_while_sending_is_kept(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/")
    held = Held(page, "**/ask", method="POST")
    ask(page, "The first")
    until(page, lambda: len(held.routes) == 1)
    page.locator("#text").press("Enter")  # again: it is asked once
    page.locator("#text").fill("The second")
    held.go()
    answered(page)
    assert page.locator("#text").input_value() == "The second"
    assert page.locator(".message.user").count() == 1


def test_edit_started_during_an_answer_survives_its_end(endless_site: Gateway, visit: Open) -> None:
    page = visit(f"{endless_site.url}/")
    ask(page, "Tell me everything.")
    said = page.locator(".message.assistant .said")
    until(page, lambda: said.locator("> div").count() > 0 and len(said.inner_text()) > 20)
    page.get_by_role("button", name="Edit").click()
    area = page.locator(".message.user textarea")
    area.fill("Tell me less")
    page.locator("#text").press("ArrowUp")  # again: the text stays
    page.get_by_role("button", name="Stop").click()
    page.locator('.message.assistant[data-status="stopped"]').wait_for()
    assert area.input_value() == "Tell me less"


def test_regenerating_twice_gives_one_answer(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/")
    ask(page, "Hello!")
    answered(page)
    held = Held(page, "**/conversations?*")  # the list is slow, the button is still there
    page.get_by_role("button", name="Regenerate").dblclick()
    page.get_by_text("2 of 2").wait_for()
    answered(page)
    assert page.get_by_text("3 of 3").count() == 0
    held.go()


def test_removed_file_does_not_return_with_a_stale_list(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/")
    chip = page.locator(".file")
    files = [markdown(name) for name in ("a", "b")]
    put = page.locator('[data-part="attach"]')
    put.set_input_files(files[:1])
    page.locator('.file[data-status="ready"]').wait_for(timeout=60_000)
    with page.expect_response("**/files") as looked:
        page.reload()
    old = looked.value.json()
    page.locator('.file[data-status="ready"]').wait_for()
    held = Held(page, "**/files")
    put.set_input_files(files[1:])
    until(page, lambda: chip.count() == 2 and len(held.routes) == 1)
    page.get_by_role("button", name="Remove a.md").click()
    until(page, lambda: chip.count() == 1)
    held.routes[0].fulfill(json=old)
    page.wait_for_timeout(100)
    page.locator('.file[data-status="ready"]').wait_for(timeout=60_000)
    assert chip.all_inner_texts()[0].startswith("b.md") and chip.count() == 1


def test_error_of_one_file_stays_when_the_next_succeeds(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/knowledge")
    make_base(page, "Mixed")
    refused = {"error": {"code": "bad", "message": "it is no document"}}
    page.route("**/documents?name=a.md*", lambda route: route.fulfill(status=400, json=refused))
    files = [markdown(name) for name in ("a", "b")]
    page.locator('input[type="file"]').set_input_files(files)
    page.locator(".document", has_text="b.md").wait_for()
    message = page.locator('[data-part="told"]')
    until(page, lambda: message.inner_text() == "a.md: it is no document")


def test_base_is_created_once_and_shown_despite_a_stale_list(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/knowledge")
    page.locator("#base-name").wait_for(state="attached")
    api = "**/pages/api/knowledge"
    held = Held(page, api)
    made = Held(page, api, method="POST")
    page.reload()
    until(page, lambda: len(held.routes) == 1)
    page.locator('[data-part="new-fold"] summary').click()
    page.get_by_label("Name", exact=True).fill("Once only")
    page.get_by_label("Name", exact=True).press("Enter")
    until(page, lambda: len(made.routes) == 1)
    page.get_by_label("Name", exact=True).press("Enter")
    page.wait_for_timeout(100)
    made.go()
    page.locator("#base-name", has_text="Once only").wait_for()
    held.go()
    page.wait_for_timeout(300)
    assert page.locator("#base-name").inner_text() == "Once only"
    assert page.locator('[data-part="bases"] .name', has_text="Once only").count() == 1


def test_later_of_two_searches_is_shown(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/knowledge")
    make_base(page, "Whales")
    file = markdown("c", b"# A\n\nA whale is large.")
    page.locator('input[type="file"]').set_input_files([file])
    page.locator(".document .state", has_text="ready").wait_for()
    held = Held(page, "**/search", method="POST")
    page.get_by_label("Question").fill("whale")
    page.get_by_role("button", name="Search").click()
    until(page, lambda: len(held.routes) == 1)
    page.get_by_label("Question").fill("large")
    page.get_by_role("button", name="Search").click()
    page.locator(".hit mark", has_text="large").wait_for()
    held.go()
    page.wait_for_timeout(300)
    assert page.locator(".hit mark").all_inner_texts() == ["large"]
