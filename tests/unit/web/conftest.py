"""Fixtures of the tests of routes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import ScriptedDriver
from tests.unit.web.account_client import Http, keyed


@pytest.fixture
def http(tmp_path: Path) -> Http:
    return keyed(ScriptedDriver(), tmp_path, wrong_keys=3)
