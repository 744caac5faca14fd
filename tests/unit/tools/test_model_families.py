"""The page about model families is generated, and nobody has written in it since."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import model_families
from tools.model_families import FAMILIES, PAGE, SHIPPED


@pytest.fixture(scope="module")
def folder() -> Path:
    path = model_families.found()
    if path is None:
        pytest.skip("llama-2026 is not built: python -m tools.servers build llama-2026")
    return path


@pytest.mark.slow
def test_page_is_up_to_date(folder: Path) -> None:
    page = model_families.page(folder)
    assert page == PAGE.read_text("utf-8"), "run: python -m tools.model_families"


def test_every_template_is_in_one_section(folder: Path) -> None:
    names = [path.stem for path in folder.glob("*.jinja")]
    for family in FAMILIES:
        assert not family.templates or any(name.startswith(family.templates) for name in names)
    for name in names:
        assert sum(name.startswith(family.templates) for family in FAMILIES) <= 1
        assert name in PAGE.read_text("utf-8")


def test_shipped_templates_of_the_page_exist() -> None:
    for family in FAMILIES:
        assert all((SHIPPED / f"{name}.jinja").is_file() for name in family.shipped)
