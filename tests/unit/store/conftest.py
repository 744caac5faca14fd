"""Databases: SQLite's, and a PostgreSQL that is started for the session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import running


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory) as address:
        yield address


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'kept.db'}"
    from sqlalchemy import create_engine, text

    address: str = request.getfixturevalue("postgres_url")
    engine = create_engine(address.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("drop schema public cascade; create schema public"))
    engine.dispose()
    return address
