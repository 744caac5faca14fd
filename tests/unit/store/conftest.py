"""Databases: SQLite's, and PostgreSQL's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from proxy.store.database import Database


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    return empty_database(request.param, request, tmp_path)


@pytest.fixture
def unmade(url: str) -> Iterator[Database]:
    """A database without tables."""
    from proxy.store.database import Database

    made = Database(url)
    yield made
    made.close()


@pytest.fixture
def database(unmade: Database) -> Database:
    """An empty database with the current tables."""
    unmade.upgrade()
    return unmade


def empty_database(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    if kind == "sqlite":
        return f"sqlite:///{folder / 'kept.db'}"
    from sqlalchemy import create_engine, text

    address: str = request.getfixturevalue("postgres")
    engine = create_engine(address.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("drop schema public cascade; create schema public"))
    engine.dispose()
    return address
