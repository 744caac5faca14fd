"""Documents from upload to search: real readers, real indexes, real crashes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from proxy.errors import NotFound, StoreUnavailable
from proxy.knowledge.index import Index, open_shelf
from proxy.knowledge.ingest import Ingester
from proxy.knowledge.reading import ReadingLimits
from proxy.knowledge.service import Knowledge
from proxy.store.database import Database
from proxy.store.knowledge import KnowledgeStore
from proxy.store.records import Document, Splitting
from tests.clients import openai
from tests.documents import pdf
from tests.fakes import wait_until
from tests.integration.asking import openai_client
from tests.integration.conftest import StartGateway

LIMITS = ReadingLimits()
NOBODY = "http://127.0.0.1:9"  # finding needs no model, so no server either


class Library:
    """Knowledge in a folder; `read` reads the queued documents."""

    def __init__(self, url: str, folder: Path, limits: ReadingLimits = LIMITS) -> None:
        self.database = Database(url)
        self.database.upgrade()
        self.store = KnowledgeStore(self.database)
        self.index = Index(open_shelf(self.database.engine, folder / "index.db"))
        self.ingester = Ingester(self.store, self.index, limits)
        self.knowledge = Knowledge(self.store, self.index, self.ingester.wake, most=8 << 20)

    def clear(self) -> None:
        """All tests share one PostgreSQL."""
        for base in self.knowledge.bases("ann"):
            self.knowledge.delete("ann", base.id)

    def read(self) -> None:
        while self.ingester.read_one():
            pass

    def add(self, name: str, data: bytes, splitting: Splitting | None = None) -> Document:
        bases = self.knowledge.bases("ann") or (self.knowledge.create("ann", "b"),)
        base = bases[0]
        document = self.knowledge.add("ann", base.id, name, data, splitting)
        self.read()
        return self.knowledge.document("ann", base.id, document.id)


@pytest.fixture(params=["sqlite", "postgres"])
def library(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Library]:
    url = f"sqlite:///{tmp_path / 'kept.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres")
    opened = Library(url, tmp_path)
    opened.clear()
    yield opened
    opened.clear()
    opened.index.shelf.close()
    opened.database.close()


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (ReadingLimits(seconds=1), "reading it takes too long"),
        (ReadingLimits(memory=1 << 26), "reading it needs too much memory"),
    ],
    ids=["time", "memory"],
)
def test_document_reader_is_limited(library: Library, limits: ReadingLimits, why: str) -> None:
    library.ingester = Ingester(library.store, library.index, limits)
    document = library.add("much.html", b"<p>The zebra runs.</p>\n" * 300_000)
    assert (document.status, document.error) == ("failed", why)
    assert library.knowledge.search("ann", [document.base_id], "zebra") == ()


def test_cancel_stops_a_running_reader(library: Library) -> None:
    base = library.knowledge.create("ann", "b")
    long = pdf(*["The zebra runs. " * 60] * 400)
    document = library.knowledge.add("ann", base.id, "a.pdf", long, Splitting(60, 30))
    reading = threading.Thread(target=library.ingester.read_one)
    reading.start()

    def now() -> Document:
        return library.knowledge.document("ann", base.id, document.id)

    wait_until(lambda: now().chunks > 0)
    assert now().status == "reading" and 0 < now().done < 1
    library.knowledge.cancel_document("ann", base.id, document.id)
    reading.join()
    assert now().status == "cancelled" and now().done < 1
    assert library.knowledge.search("ann", [base.id], "zebra") == ()


def test_rebuild_shows_progress(library: Library) -> None:
    for number in range(3):
        library.add(f"{number}.txt", b"The zebra runs.")
    (base,) = library.knowledge.bases("ann")
    job = library.knowledge.rebuild("ann", base.id)
    assert (job.status, job.total, job.done) == ("running", 3, 0)
    assert library.ingester.read_one()
    watched = library.knowledge.watch("ann", job.id)
    assert next(watched).done == 1
    library.read()
    *_, last = library.knowledge.watch("ann", job.id)
    assert (last.status, last.done, last.failed) == ("done", 3, 0)
    assert len(library.knowledge.search("ann", [base.id], "zebra", top_k=9)) == 3


def test_document_of_crashed_reader_is_read_again(library: Library) -> None:
    base = library.knowledge.create("ann", "b")
    document = library.knowledge.add("ann", base.id, "a.txt", b"The zebra runs.")
    taken = document.created
    assert library.store.claim("elsewhere:1:x", taken, taken - 60) is not None
    assert not library.ingester.read_one(), "it is another's"
    assert library.store.claim("ours", taken + 61, taken + 1) is not None, "it was silent"
    library.store.release(["ours"])
    library.read()
    assert library.knowledge.document("ann", base.id, document.id).status == "ready"


def test_chunk_is_edited_found_again_and_deleted(library: Library) -> None:
    document = library.add("a.txt", b"The zebra runs.")
    (chunk,) = library.knowledge.chunks("ann", document.id)
    library.knowledge.edit_chunk("ann", chunk.id, "The giraffe runs.")
    assert library.knowledge.search("ann", [document.base_id], "zebra") == ()
    (hit,) = library.knowledge.search("ann", [document.base_id], "giraffe")
    assert hit.text == "The giraffe runs."
    library.knowledge.edit_chunk("ann", chunk.id, "")
    assert library.knowledge.chunks("ann", document.id) == ()


@pytest.mark.parametrize("text", ["The giraffe runs.", ""])
@pytest.mark.parametrize("away", ["store", "index"])
def test_an_edit_that_fails_changes_neither_the_chunk_nor_the_search(
    library: Library, text: str, away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = library.add("a.txt", b"The zebra runs.")
    (chunk,) = library.knowledge.chunks("ann", document.id)

    def fail(*args: Any, **how: Any) -> None:
        statement = str(args[2]).lower() if args[2:] else ""
        if away == "index" or statement.startswith(("update chunk ", "delete from chunk ")):
            raise StoreUnavailable("it is away")

    with monkeypatch.context() as patch:
        if away == "store":
            event.listen(library.database.engine, "before_cursor_execute", fail)
        else:
            patch.setattr(library.index.shelf, "put", fail)
            patch.setattr(library.index.shelf, "drop", fail)
        with pytest.raises(StoreUnavailable):
            library.knowledge.edit_chunk("ann", chunk.id, text)
    if away == "store":
        event.remove(library.database.engine, "before_cursor_execute", fail)
    assert [row.text for row in library.knowledge.chunks("ann", document.id)] == ["The zebra runs."]
    (hit,) = library.knowledge.search("ann", [document.base_id], "zebra")
    assert hit.text == "The zebra runs."
    assert library.knowledge.search("ann", [document.base_id], "giraffe") == ()


def test_temporary_base_expires(library: Library) -> None:
    now = 1000.0
    knowledge = Knowledge(
        library.store, library.index, library.ingester.wake, most=1 << 20, clock=lambda: now
    )
    base = knowledge.create("ann", "", temporary=True)
    assert knowledge.base("ann", base.id).temporary
    now += 2 * 86_400
    with pytest.raises(NotFound):
        knowledge.base("ann", base.id)


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_kill_during_ingestion_loses_no_finished_document(
    request: pytest.FixtureRequest, database: str, gateway: StartGateway, tmp_path: Path
) -> None:
    flags = ["--llama-api", NOBODY, "--data", str(tmp_path / "data")]
    if database == "postgres":
        flags += ["--database", request.getfixturevalue("postgres")]
    first = gateway(*flags, ready=0)
    api = openai_client(first)
    store = api.vector_stores.create(name="b")
    names = [f"{number}.pdf" for number in range(10)]
    for number, name in enumerate(names):
        pages = [f"Animal{number} runs on page {page}. " * 20 for page in range(40)]
        file = api.files.create(file=(name, pdf(*pages)), purpose="assistants")
        api.vector_stores.files.create(store.id, file_id=file.id)

    def statuses(client: openai.OpenAI) -> dict[str, str]:
        listed = client.vector_stores.files.list(store.id, limit=100)
        return {file.id: file.status for file in listed}

    wait_until(lambda: list(statuses(api).values()).count("completed") >= 2)
    done = {file for file, status in statuses(api).items() if status == "completed"}
    assert len(done) < len(names), "it was over before it could be killed"
    first.kill()

    second = gateway(*flags, ready=0)
    again = openai_client(second)
    assert {file for file, status in statuses(again).items() if status == "completed"} >= done
    wait_until(lambda: not set(statuses(again).values()) - {"completed", "failed"})
    assert set(statuses(again).values()) == {"completed"}
    for number, name in enumerate(names):
        results = again.vector_stores.search(store.id, query=f"Animal{number}", max_num_results=1)
        assert [hit.filename for hit in results.data] == [name]
        assert "page" in str(results.data[0])
