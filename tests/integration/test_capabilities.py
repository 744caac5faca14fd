"""The table of capabilities in the documentation equals the behaviour of real backends."""

from __future__ import annotations

import pytest

from tests.thorough import FEW
from tools import capabilities


@pytest.mark.parametrize("name", capabilities.BACKENDS)
def test_capabilities_table_equals_measured_capabilities(name: str) -> None:
    if FEW and name not in ("`server` of 2023", "chatglm_cpp"):
        pytest.skip("make test-all runs it")
    table = capabilities.written(capabilities.PAGE.read_text(encoding="utf-8"))
    if not table:
        pytest.skip("the page holds no table yet: python -m tools.capabilities")
    measured = capabilities.measure(name)
    if measured is None:
        pytest.skip(f"{name} is not to be had here")
    assert table[name] == {
        row: capabilities.YES if holds else capabilities.NO for row, holds in measured.items()
    }
