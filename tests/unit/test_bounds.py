"""The table of bounds has the values of the code."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from proxy.config import Settings
from tests.docs_pages import has_test

HOME = Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip().strip("`") for cell in line.strip("|\n").split("|")]
    for line in (HOME / "docs" / "bounds.md")
    .read_text("utf-8")
    .partition("\n## Confinement of helper processes")[0]
    .splitlines()
    if line.startswith("| ") and "`" in line
]


def _held(name: str) -> object:
    """The value of a row: a setting's default, a module's constant, or a default of a tuple's."""
    if name.startswith("--"):
        return getattr(Settings(), name[2:].replace("-", "_"))
    owner, _, last = name.rpartition(".")
    try:
        return getattr(import_module(owner), last)
    except ModuleNotFoundError:
        module, _, kind = owner.rpartition(".")
        struct = getattr(import_module(module), kind)
        if issubclass(struct, tuple):
            return struct._field_defaults[last]
        return getattr(struct(), last)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_bound_equals_its_table_row(row: list[str]) -> None:
    _, held, value, _, _, test = row
    assert _held(held) == int(value)
    assert has_test(test)


LIMITING = re.compile(r"^(max_|quota_|wrong_)|_(timeout|queue|body|document)$")


def test_every_bounding_setting_has_a_row() -> None:
    settings = {name for name in Settings.__struct_fields__ if LIMITING.search(name)}
    assert "quota_bytes" in settings
    assert settings <= {row[1][2:].replace("-", "_") for row in ROWS}
