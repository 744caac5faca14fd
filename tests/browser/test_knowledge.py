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
    assert hit.locator("mark").count() > 0
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
    told = page.get_by_role("status").filter(has_text=("Rebuilt.", "重建完成。")[say])
    told.wait_for(timeout=60_000)
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
