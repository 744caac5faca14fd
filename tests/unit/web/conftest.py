"""Fixtures of the tests of routes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import ScriptedDriver, make_app
from tests.unit.web.account_client import KEYS, Http


@pytest.fixture
def http(tmp_path: Path) -> Http:
    settings = {"file_keys": KEYS, "admins": ("ops",), "data": str(tmp_path), "wrong_keys": 3}
    return Http(make_app(ScriptedDriver(), **settings))
