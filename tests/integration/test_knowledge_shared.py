"""Two gateways on one PostgreSQL share the documents that wait to be read: none is read twice, and
what one of them was reading when it was killed, the other reads."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.clients import openai
from tests.documents import pdf
from tests.integration.asking import openai_client
from tests.integration.child_processes import descendants
from tests.integration.conftest import StartGateway
from tools.processes import Gateway

NOBODY = "http://127.0.0.1:9"  # reading needs no model
FILES, PAGES = 8, 60


class Readers:
    """Which process was seen reading which document, and every state a document was seen in."""

    def __init__(self, url: str, base: str) -> None:
        self._base = base
        self._engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
        self.of: dict[str, list[int]] = {}
        self.states: dict[str, str] = {}
        self.done: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        sql = text("select filename, reader, status, done from document where base_id = :base")
        while not self._over.wait(0.01):
            with self._engine.connect() as db:
                rows = db.execute(sql, {"base": self._base}).all()
            for name, reader, status, done in rows:
                self.states[name], self.done[name] = status, done
                seen = self.of.setdefault(name, [])
                if reader and int(reader.split(":")[1]) not in seen[-1:]:
                    seen.append(int(reader.split(":")[1]))

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._engine.dispose()


@pytest.mark.slow
def test_gateways_read_each_document_once_and_take_over_after_a_crash(
    gateway: StartGateway, postgres: str, tmp_path: Path
) -> None:
    def start(name: str) -> tuple[Gateway, openai.OpenAI]:
        flags = ["--llama-api", NOBODY, "--data", str(tmp_path / name), "--database", postgres]
        running = gateway(*flags, ready=0)
        return running, openai_client(running)

    (first, api), (_, other) = start("one"), start("two")
    for each in (api, other):
        each.vector_stores.list()  # both are open
    store = api.vector_stores.create(name="shared")
    readers = Readers(postgres, store.id)
    try:
        for number in range(FILES):
            pages = [f"Animal{number} runs on page {page}. " * 30 for page in range(PAGES)]
            file = api.files.create(file=(f"{number}.pdf", pdf(*pages)), purpose="assistants")
            # Each is notified of some documents, and polls for the others.
            (api, other)[number % 2].vector_stores.files.create(store.id, file_id=file.id)

        def until(true: Callable[[], Any], seconds: float = 90) -> Any:
            end = time.monotonic() + seconds
            while not (value := true()):
                assert time.monotonic() < end, (readers.states, readers.of)
                time.sleep(0.01)
            return value

        def reads(pid: int) -> list[str]:
            """What this gateway's worker reads now, and has not read half of."""
            return [
                name
                for name, seen in list(readers.of.items())
                if readers.states[name] == "reading"
                and readers.done[name] < 0.5
                and _below(seen[-1:], pid)
            ]

        (left,) = until(
            lambda: list(readers.states.values()).count("ready") >= 2 and reads(first.pid)
        )
        for pid in (readers.of[left][-1], first.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # the worker too, which would end in good order
        first.kill()
        until(lambda: set(readers.states.values()) == {"ready"})
    finally:
        readers.close()
    states = {row.id: row.status for row in other.vector_stores.files.list(store.id, limit=100)}
    assert list(states.values()) == ["completed"] * FILES
    assert len(readers.of[left]) == 2, "it was taken over"
    workers = {pid for seen in readers.of.values() for pid in seen}
    assert len(workers) == 2, "both have read"
    for name, seen in readers.of.items():
        assert len(seen) == 1 or name == left, (name, seen)
    for number in range(FILES):
        results = other.vector_stores.search(store.id, query=f"Animal{number}", max_num_results=50)
        texts = Counter(hit.content[0].text for hit in results.data)
        assert {hit.filename for hit in results.data} == {f"{number}.pdf"}
        assert set(texts.values()) == {1}, "each chunk is there once"
    other.vector_stores.delete(store.id)


def _below(pids: list[int], pid: int) -> bool:
    """Whether any of `pids` is this process or a child of it."""
    return not {pid, *descendants(pid)}.isdisjoint(pids)
