"""Fixtures of the tests of routes."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from tests.fakes import ScriptedDriver, make_app, services_of
from tests.unit.web.account_client import Http, keyed


@pytest.fixture
def http(tmp_path: Path) -> Http:
    return keyed(ScriptedDriver(), tmp_path, wrong_keys=3)


@pytest.fixture
def visitor(tmp_path: Path) -> FlaskClient:
    """A browser before a gateway with knowledge bases."""
    app = make_app(ScriptedDriver(), data=str(tmp_path))
    if services_of(app).knowledge is None:
        pytest.skip("the extra knowledge is not installed")
    return app.test_client()
