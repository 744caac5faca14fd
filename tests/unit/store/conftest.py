"""Databases: SQLite's, and PostgreSQL's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'kept.db'}"
    from sqlalchemy import create_engine, text

    address: str = request.getfixturevalue("postgres")
    engine = create_engine(address.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("drop schema public cascade; create schema public"))
    engine.dispose()
    return address
