"""The knowledge page in a browser: a base, an upload, its chunks, a search, the end of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tools.processes import Gateway

from .conftest import DESKTOP, PHONE, Open

TEXT = """# The lighthouse

The lighthouse of Ardnish was built in 1874. Its lamp burns whale oil.

# 港口

港口的灯塔建于一八七四年，灯用鲸油点燃。
"""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("documents") / "lighthouse.md"
    path.write_text(TEXT, encoding="utf-8")
    return path


def make_base(page: Any, name: str, label: str = "Name", button: str = "Create") -> None:
    page.get_by_label(label, exact=True).fill(name)
    page.get_by_role("button", name=button).click()
    page.locator("#base-name", has_text=name).wait_for()


def test_a_document_is_uploaded_looked_at_found_and_deleted(
    site: Gateway, visit: Open, accessible: Any, document: Path
) -> None:
    page = visit(f"{site.url}/knowledge")
    page.on("dialog", lambda dialog: dialog.accept())
    make_base(page, "Sea")
    page.locator('input[type="file"]').set_input_files(document)
    row = page.locator(".document", has_text="lighthouse.md")
    row.locator(".state", has_text="ready").wait_for()

    page.get_by_label("Question").fill("who burns whale oil?")
    page.get_by_role("button", name="Search").click()
    hit = page.locator(".hit").first
    hit.wait_for()
    assert "whale oil" in hit.locator(".text").inner_text()
    assert hit.locator("mark").count() > 0
    assert "by words: place 1" in hit.inner_text()
    accessible(page)

    row.get_by_role("button", name="Look at chunks").click()
    chunk = page.locator("dialog .chunks li").first
    chunk.get_by_role("button", name="Edit").click()
    chunk.locator("textarea").fill("The lighthouse keeper is called Morag.")
    chunk.get_by_role("button", name="Save").click()
    chunk.locator(".text", has_text="Morag").wait_for()
    accessible(page)
    page.get_by_role("button", name="Close").click()

    page.get_by_label("Question").fill("Morag")
    page.get_by_role("button", name="Search").click()
    page.locator(".hit", has_text="Morag").wait_for()

    row.get_by_role("button", name="Delete").click()
    row.wait_for(state="detached")
    page.locator('[data-part="delete-base"]').click()
    page.locator('[data-part="bases"] li', has_text="Sea").wait_for(state="detached")


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_works_in_chinese(
    site: Gateway, visit: Open, accessible: Any, document: Path, size: tuple[int, int]
) -> None:
    page = visit(f"{site.url}/knowledge", size=size, language="zh", dark=True)
    make_base(page, f"海 {size[0]}", "名称", "新建")
    page.locator('input[type="file"]').set_input_files(document)
    page.locator(".document .state", has_text="就绪").wait_for()
    page.get_by_label("问题").fill("灯塔用什么点燃？")
    page.get_by_role("button", name="搜索").click()
    assert "鲸油" in page.locator(".hit").first.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    accessible(page)
