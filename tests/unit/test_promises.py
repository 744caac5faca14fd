"""The table of promises quotes its pages and names tests that exist."""

from __future__ import annotations

import re

import pytest

from tests.docs_pages import ROOT, has_test

DOCS = ROOT / "docs"
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split(" | ")]
    for line in (DOCS / "promises.md").read_text("utf-8").splitlines()
    if "::test_" in line
]


def _plain(page: str) -> str:
    """The text of a page in one line, with links as their texts."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", (DOCS / page).read_text("utf-8"))
    return " ".join(text.split())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_promise_is_on_its_page_and_has_its_tests(row: list[str]) -> None:
    promise, page, tests = row
    assert promise in _plain(page[page.index("(") + 1 : -1])
    for test in tests.split(", "):
        assert has_test(test.strip("`")), test


def test_table_of_promises_has_rows() -> None:
    assert len(ROWS) >= 90
    assert len({row[0] for row in ROWS}) == len(ROWS)
