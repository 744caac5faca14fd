"""The table of bounds says what the code says."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from proxy.config import Settings

HOME = Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip().strip("`") for cell in line.strip("|\n").split("|")]
    for line in (HOME / "docs" / "bounds.md").read_text("utf-8").partition("\n## ")[0].splitlines()
    if line.startswith("| ") and "`" in line
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_bound_is_as_the_table_says(row: list[str]) -> None:
    _, held, value, _, _, test = row
    if held.startswith("--"):
        real = getattr(Settings(), held[2:].replace("-", "_"))
    else:
        module, _, name = held.rpartition(".")
        real = getattr(import_module(module), name)
    assert real == int(value)
    path, _, function = test.partition("::")
    assert re.search(rf"^def {function}\(", (HOME / path).read_text("utf-8"), re.M)


def test_there_are_rows() -> None:
    assert len(ROWS) >= 15
