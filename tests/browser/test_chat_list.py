"""The list of conversations: days, pins, renaming in place, import and export."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.browser.exported_chats import CHATGPT, OPEN_WEBUI

from .conftest import DESKTOP, OPENED, PHONE, Open
from .fed import fed_site
from .test_chat import answered, ask, until

DAY = 86400.0
ROWS = '[data-part="talks"] li'


def upload(page: Any, data: Any, name: str = "conversations.json") -> None:
    file = {"name": name, "mimeType": "application/json", "buffer": json.dumps(data).encode()}
    page.locator('[data-part="import"]').set_input_files([file])


@pytest.mark.parametrize(("size", "language"), [(PHONE, "zh"), (DESKTOP, "en")])
def test_exports_of_others_are_imported_by_day(
    start_site: Any, visit: Open, accessible: Any, size: tuple[int, int], language: str
) -> None:
    page = visit(f"{start_site().url}/", size=size, language=language)
    page.locator(OPENED).wait_for()
    if size == PHONE:
        page.locator('[data-part="fold"]').click()
    noon = datetime.now().replace(hour=12)  # while the test runs, no day ends
    page.clock.set_fixed_time(noon)
    yesterday = {**CHATGPT, "update_time": noon.timestamp() - DAY}
    upload(page, [yesterday, OPEN_WEBUI, {**CHATGPT, "title": "Old", "update_time": 1e9}])
    rows = page.locator(ROWS)
    until(page, lambda: rows.count() == 3)
    days = [rows.nth(n).get_attribute("data-day") for n in range(3)]
    pinned, last, month = {
        "en": ("Pinned", "Yesterday", "September 2001"),
        "zh": ("置顶", "昨天", "2001年9月"),
    }[language]
    assert days == [pinned, last, month]
    assert [rows.nth(n).inner_text() for n in range(3)] == ["Ships", "Tides and moons", "Old"]
    accessible(page)
    rows.nth(1).locator("button").first.click()
    page.get_by_text("2 / 2" if language == "zh" else "2 of 2").wait_for()  # a branch
    said = page.locator(".message.assistant .said")
    until(page, lambda: said.all_inner_texts() == ["The moon."])


def test_conversation_is_pinned_and_renamed_in_place(start_site: Any, visit: Open) -> None:
    page = visit(f"{start_site().url}/")
    page.locator(OPENED).wait_for()
    for text in ("First", "Second"):
        page.get_by_role("button", name="New conversation").first.click()
        ask(page, text)
        answered(page)
        page.locator("#talk-title", has_text=text).wait_for()
    rows = page.locator(ROWS)
    until(page, lambda: rows.count() == 2)
    rows.nth(1).hover()
    page.get_by_role("button", name="Pin “First”").click()
    until(page, lambda: rows.first.inner_text() == "First")
    assert rows.first.get_attribute("data-day") == "Pinned"
    rows.nth(1).hover()
    page.get_by_role("button", name="Rename “Second”").click()
    title = rows.nth(1).get_by_role("textbox")
    title.fill("Never")
    title.press("Escape")
    until(page, lambda: rows.nth(1).inner_text() == "Second")
    rows.nth(1).hover()
    page.get_by_role("button", name="Rename “Second”").click()
    title.fill("Better")
    title.press("Enter")
    page.locator("#talk-title", has_text="Better").wait_for()
    page.get_by_role("button", name="More actions").click()
    page.get_by_role("menuitem", name="Rename").click()
    page.locator("#talk-title input").fill("Best")
    page.locator("#talk-title input").press("Enter")
    page.locator("#talk-title", has_text=re.compile("^Best$")).wait_for()
    page.reload()
    until(page, lambda: [row.inner_text() for row in rows.all()] == ["First", "Best"])


def test_title_stays_readable_beside_the_buttons_of_its_row(start_site: Any, visit: Open) -> None:
    page = visit(f"{start_site().url}/")
    page.locator(OPENED).wait_for()
    upload(page, [{**CHATGPT, "title": "Here is a rich answer with two tables"}])
    row = page.locator(ROWS).first
    title = row.get_by_role("button").first
    title.wait_for()
    before = title.bounding_box()["height"]
    row.hover()
    row.get_by_role("button", name="Rename").wait_for()
    fits = "(box) => box.scrollHeight <= box.clientHeight && box.scrollWidth <= box.clientWidth"
    assert row.locator(".title").evaluate(fits)
    assert title.bounding_box()["height"] == before  # no row moves below the pointer


def test_all_conversations_are_exported_and_imported_again(start_site: Any, visit: Open) -> None:
    site = start_site()
    page = visit(f"{site.url}/")
    page.locator(OPENED).wait_for()
    upload(page, [CHATGPT, OPEN_WEBUI])
    rows = page.locator(ROWS)
    until(page, lambda: rows.count() == 2)
    with page.expect_download() as download:
        page.get_by_role("link", name="Export all").click()
    exported = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    tides, ships = sorted(exported, key=lambda talk: talk["title"], reverse=True)
    assert (ships["title"], tides["title"]) == ("Ships", "Tides and moons")
    assert ships["settings"]["pinned"] is True
    assert [message["content"] for message in ships["messages"]] == ["A ship?", "Yes."]
    said = ["Why?", "The moon\n\nand the sun.", "The moon."]
    assert [message["content"] for message in tides["messages"]] == said
    parents = [message["parent_id"] for message in tides["messages"]]
    assert parents == [None, tides["messages"][0]["id"], tides["messages"][0]["id"]]
    upload(page, exported)
    page.get_by_text("2 conversations imported.").wait_for()
    until(page, lambda: rows.count() == 4)


@pytest.mark.parametrize(("size", "language"), [(PHONE, "zh"), (DESKTOP, "en")])
def test_conversation_is_moved_to_a_folder(
    start_site: Any, visit: Open, accessible: Any, size: tuple[int, int], language: str
) -> None:
    en = language == "en"
    page = visit(f"{start_site().url}/", size=size, language=language)
    page.locator(OPENED).wait_for()
    if size == PHONE:
        page.locator('[data-part="fold"]').click()
    upload(page, [CHATGPT, {**CHATGPT, "title": "Stars", "update_time": 1e9}])
    rows = page.locator(ROWS)
    until(page, lambda: rows.count() == 2)
    moving = page.get_by_label("Move “Stars” to a folder" if en else "将“Stars”移到文件夹")
    moving.evaluate("(node) => node.click()")  # on a phone, only the open one shows its buttons
    dialog = page.locator("dialog.folders")
    accessible(page)
    dialog.locator("input").fill("Sky")
    dialog.locator("input").press("Enter")
    until(page, lambda: rows.all_inner_texts()[:2] == ["Sky", "Stars"])
    assert rows.first.get_attribute("data-day") == ("Folders" if en else "文件夹")
    assert rows.all_inner_texts() == ["Sky", "Stars", "Tides and moons"]
    accessible(page)
    fold = rows.first.locator("button").first
    fold.click()
    until(page, lambda: rows.count() == 2)
    page.reload()
    page.locator(OPENED).wait_for()
    if size == PHONE:
        page.locator('[data-part="fold"]').click()
    until(page, lambda: rows.all_inner_texts() == ["Sky", "Tides and moons"])
    page.locator('[data-part="find"]').fill("Stars")
    until(page, lambda: rows.all_inner_texts() == ["Stars"])
    page.locator('[data-part="find"]').fill("")
    until(page, lambda: rows.count() == 2)
    page.on("dialog", lambda dialog: dialog.accept())
    name = "Remove the folder “Sky”" if en else "移除文件夹“Sky”"
    page.get_by_label(name).evaluate("(node) => node.click()")
    until(page, lambda: rows.all_inner_texts() == ["Stars", "Tides and moons"])
    page.locator('[data-part="list-menu"] summary').click()
    accessible(page)
    page.locator('[data-part="clear"]').click()
    until(page, lambda: rows.count() == 0)


def test_model_writes_the_title_unless_the_user_turns_that_off(tmp_path: Path, visit: Open) -> None:
    with fed_site(tmp_path) as site:
        page = visit(f"{site.url}/", titles=True)
        page.locator(OPENED).wait_for()
        answer, title = site.feed(), site.feed()
        answer.say(content="Because of Rayleigh's law.")
        answer.end()
        title.say(content="Blue of the sky")
        title.end()
        ask(page, "Why is the sky blue?")
        answered(page)
        page.locator("#talk-title", has_text="Blue of the sky").wait_for()
        until(page, lambda: page.locator(ROWS).all_inner_texts() == ["Blue of the sky"])
        page.locator('[data-part="list-menu"] summary').click()
        page.get_by_label("Titles by the model").uncheck()
        page.reload()
        page.get_by_role("button", name="New conversation").first.click()
        ask(page, "What is rain?")
        answered(page)
        page.wait_for_timeout(2500)
        assert page.locator("#talk-title").inner_text() == "What is rain?"
