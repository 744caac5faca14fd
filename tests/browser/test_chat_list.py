"""The list of conversations: days, pins, renaming in place, import and export."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit.apis.test_chat_exports import CHATGPT, OPEN_WEBUI

from .conftest import DESKTOP, OPENED, PHONE, Open
from .test_chat import answered, ask, until

DAY = 86400.0
ROWS = '[data-part="talks"] li'


def upload(page: Any, data: Any, name: str = "conversations.json") -> None:
    file = {"name": name, "mimeType": "application/json", "buffer": json.dumps(data).encode()}
    page.locator('[data-part="import"]').set_input_files([file])


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("language", ["en", "zh"])
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
    assert page.locator(".message.assistant .said").inner_text() == "The moon."


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
    assert rows.nth(1).inner_text() == "Second"
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
    assert sorted(one["title"] for one in exported) == ["Ships", "Tides and moons"]
    upload(page, exported)
    page.get_by_text("2 conversations imported.").wait_for()
    until(page, lambda: rows.count() == 4)
