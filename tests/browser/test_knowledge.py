"""The knowledge page in a browser: a base, an upload, its chunks, a search, its deletion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import documents
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
    page.locator('[data-part="bases"] li, [data-part="no-bases"]:not([hidden])').first.wait_for()
    fold = page.locator('[data-part="new-fold"]')
    if fold.get_attribute("open") is None:  # it is open while there is no base
        fold.locator("summary").click()
    page.get_by_label(label, exact=True).fill(name)
    page.get_by_role("button", name=button).click()
    page.locator("#base-name", has_text=name).wait_for()


def test_document_is_uploaded_viewed_found_and_deleted(
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
    assert {word.lower() for word in hit.locator("mark").all_inner_texts()} == {
        "burns",
        "whale",
        "oil",
    }
    assert hit.get_by_text("similarity").first.is_visible()
    assert "by words: rank 1" in hit.inner_text()
    accessible(page)

    row.get_by_role("button", name="View chunks").click()
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


@pytest.mark.parametrize(("language", "size"), [("en", DESKTOP), ("zh", PHONE)])
def test_pdf_is_read_rebuilt_found_with_its_page_and_deleted(
    site: Gateway, visit: Open, accessible: Any, language: str, size: tuple[int, int]
) -> None:
    say = {"en": 0, "zh": 1}[language]
    page = visit(f"{site.url}/knowledge", language=language, size=size)
    page.on("dialog", lambda dialog: dialog.accept())
    make_base(page, f"PDF {language}", ("Name", "名称")[say], ("Create", "新建")[say])
    note = "The lighthouse of Varn was lit in 1871 by Ada Moor."
    pdf = {
        "name": "varn.pdf",
        "mimeType": "application/pdf",
        "buffer": documents.pdf("A first page about ships.", note),
    }
    page.locator('input[type="file"]').set_input_files([pdf])
    row = page.locator(".document", has_text="varn.pdf")
    row.locator(".state", has_text=("ready", "就绪")[say]).wait_for(timeout=60_000)

    with page.expect_download() as download:
        row.get_by_role("link", name=("Download", "下载")[say]).click()
    assert Path(download.value.path()).read_bytes() == pdf["buffer"]

    page.get_by_role("button", name=("Rebuild", "重建")[say]).click()
    status = page.get_by_role("status").filter(has_text=("Rebuilt.", "重建完成。")[say])
    status.wait_for(timeout=60_000)
    page.get_by_role("progressbar").first.wait_for(state="hidden")

    page.get_by_label(("Question", "问题")[say]).fill("Who lit the lighthouse of Varn?")
    page.get_by_role("button", name=("Search", "搜索")[say]).click()
    hit = page.locator(".hit").first
    hit.wait_for()
    shown = hit.inner_text()
    assert "Ada Moor" in shown and "varn.pdf" in shown and ("page 2", "第 2 页")[say] in shown
    assert ("by words: rank 1", "关键词检索：第 1 名")[say] in shown
    accessible(page)

    row.get_by_role("button", name=("Delete", "删除")[say]).click()
    row.wait_for(state="detached")
    page.get_by_role("button", name=("Search", "搜索")[say]).click()
    page.get_by_text(("No results.", "没有找到结果。")[say]).wait_for()
    page.locator('[data-part="delete-base"]').click()
    bases = page.locator('[data-part="bases"] li', has_text=f"PDF {language}")
    bases.wait_for(state="detached")


def test_unreadable_document_shows_its_error(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/knowledge")
    make_base(page, "Broken")
    broken = {"name": "a.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7 no more"}
    page.locator('input[type="file"]').set_input_files([broken])
    row = page.locator(".document", has_text="a.pdf")
    row.locator(".state", has_text="failed").wait_for(timeout=60_000)
    assert row.locator(".error").inner_text().strip()


def test_question_of_common_words_marks_them_all_the_same(
    site: Gateway, visit: Open, document: Path
) -> None:
    page = visit(f"{site.url}/knowledge")
    make_base(page, "Common")
    page.locator('input[type="file"]').set_input_files(document)
    page.locator('.document .state[data-state="up"]').wait_for()
    for query, marks in (("the was", {"the", "was"}), ("was the lamp", {"lamp"})):
        page.get_by_label("Question").fill(query)
        page.get_by_role("button", name="Search").click()
        mark = page.locator(".hit mark", has_text=next(iter(marks)))
        mark.first.wait_for()
        shown = page.locator(".hit mark").all_inner_texts()
        assert {word.lower() for word in shown} == marks


def test_base_is_asked_in_the_chat(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/knowledge")
    make_base(page, "Asked")
    page.get_by_role("link", name="Ask in chat").click()
    page.locator('[name="base"] option:checked', has_text="Asked").wait_for(state="attached")
    page.locator('[name="kind"][value="knowledge"]:checked').wait_for(state="attached")


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_actions_of_many_documents_are_in_menus(
    site: Gateway, visit: Open, accessible: Any, size: tuple[int, int]
) -> None:
    page = visit(f"{site.url}/knowledge", size=size)
    page.on("dialog", lambda dialog: dialog.accept())
    make_base(page, f"Many {size[0]}")
    files = [
        {"name": f"{n}.md", "mimeType": "text/markdown", "buffer": f"# Note {n}".encode()}
        for n in range(6)
    ]
    page.locator('input[type="file"]').set_input_files(files[:5])
    page.locator('.document .state[data-state="up"]').nth(4).wait_for()
    row = page.locator(".document", has_text="3.md")
    away = row.get_by_role("button", name="Delete")
    assert away.is_visible()
    page.locator('input[type="file"]').set_input_files(files[5:])
    page.locator('.document .state[data-state="up"]').nth(5).wait_for()
    away.wait_for(state="hidden")
    menu = row.locator("summary")
    menu.click()
    away.wait_for()
    accessible(page)
    page.keyboard.press("Escape")
    away.wait_for(state="hidden")
    assert menu.evaluate("(node) => node === document.activeElement")
    menu.click()
    away.click()
    row.wait_for(state="detached")
    page.locator(".document").first.get_by_role("button", name="Delete").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
