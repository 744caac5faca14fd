"""What is done all the time leaves few cycles, and the garbage collector has little to look at: a
worker's memory grows by the garbage that waits for it."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import create_server

import pytest

from proxy.backends.http import ConnectionPool
from proxy.errors import BackendDown
from proxy.store.responses import Stored

pytest.importorskip("sqlalchemy", reason="the extra knowledge is not installed")
ROOT = Path(__file__).resolve().parents[3]
TIMES = 20


@pytest.fixture
def work(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], object]]:
    from proxy.store.database import Database
    from proxy.store.database_responses import DatabaseResponses
    from proxy.store.knowledge import KnowledgeStore

    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    database.upgrade()
    responses, documents = DatabaseResponses(database, 3), KnowledgeStore(database)
    with create_server(("127.0.0.1", 0)) as server:
        pool = ConnectionPool(f"http://127.0.0.1:{server.getsockname()[1]}")

    def connect() -> None:
        with pytest.raises(BackendDown):
            pool.ask("GET", "/health")

    yield {
        "storing a response": lambda: responses.put("ann", "x", 1.0, Stored(b"x", b"y")),
        "looking for a document": lambda: documents.claim("reader", 1.0, 0.0),
        "a backend that refuses": connect,
    }[request.param]
    database.close()


@pytest.mark.parametrize(
    "work",
    ["storing a response", "looking for a document", "a backend that refuses"],
    indirect=True,
)
def test_what_is_done_all_the_time_leaves_few_cycles(work: Callable[[], object]) -> None:
    """Fifteen objects each time, at most: some of SQLAlchemy's are small cycles."""
    work()
    gc.collect()
    gc.disable()
    try:
        for _ in range(TIMES):
            work()
        assert gc.collect() < 15 * TIMES
    finally:
        gc.enable()


PROGRAM = """
import gc, sys
from tests.fakes import client

gc.collect()
gc.freeze()  # as a server does after its start
api = client(data=sys.argv[1])
assert api.post("/v1/responses", json={"input": "Hi"}).status_code == 200
assert "sqlalchemy" in sys.modules
gc.collect()
print(len(gc.get_objects()))
"""


def test_modules_of_the_database_are_not_looked_at_again_and_again(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert int(done.stdout.split()[-1]) < 20_000
