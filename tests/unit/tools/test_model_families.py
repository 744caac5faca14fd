"""The pages about model families are generated, and nobody has written in them since."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import model_families
from tools.model_families import FAMILIES, SHIPPED


@pytest.fixture(scope="module")
def folder() -> Path:
    path = model_families.found()
    if path is None:
        pytest.skip("llama-2026 is not built: python -m tools.servers build llama-2026")
    return path


@pytest.mark.slow
def test_pages_are_up_to_date(folder: Path) -> None:
    made = model_families.pages(folder)
    assert made == model_families.written(), "run: python -m tools.model_families"


def test_every_template_is_on_one_page(folder: Path) -> None:
    names = [path.stem for path in folder.glob("*.jinja")]
    text = "".join(model_families.written().values())
    for family in FAMILIES:
        assert not family.templates or any(name.startswith(family.templates) for name in names)
    for name in names:
        assert sum(name.startswith(family.templates) for family in FAMILIES) <= 1
        assert name in text


def test_shipped_templates_of_the_page_exist() -> None:
    for family in FAMILIES:
        assert all((SHIPPED / f"{name}.jinja").is_file() for name in family.shipped)
