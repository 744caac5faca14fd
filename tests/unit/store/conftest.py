"""Databases: SQLite's, and PostgreSQL's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Thread
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


def at_once(work: Callable[[int], object], workers: int) -> None:
    """Run `work` of each number, all begun at the same moment. Raises what one of them raised."""
    start, faults = Barrier(workers), list[BaseException]()

    def run(number: int) -> None:
        start.wait(10)
        try:
            work(number)
        except BaseException as error:
            faults.append(error)

    threads = [Thread(target=run, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if faults:
        raise faults[0]


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
