"""Quotas of keys, the order in which documents are read, and complete deletion."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from proxy.errors import QuotaExceeded
from proxy.knowledge.index import Index
from proxy.knowledge.index.records import IndexEntry
from proxy.knowledge.index.sqlite import SqliteShelf
from proxy.knowledge.service import Knowledge
from proxy.store import file_store as stored_files
from proxy.store import knowledge as stored_knowledge
from proxy.store.database import Database
from proxy.store.file_store import Batch, FileStore, StoredFile
from proxy.store.knowledge import KnowledgeStore
from proxy.store.quota import UNLIMITED, Quota
from proxy.store.records import Base, Document


def nobody() -> None:
    """Wakes no reader of documents."""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'kept.db'}")
    database.upgrade()
    yield database
    database.close()


def knowledge_in(database: Database, folder: Path, quota: Quota = UNLIMITED) -> Knowledge:
    index = Index(SqliteShelf(folder / "index.db"))
    return Knowledge(KnowledgeStore(database, quota), index, nobody, 1 << 20)


def put(files: FileStore, owner: str, name: str, size: int) -> None:
    file = StoredFile(file_id=name, filename="a", purpose="p", size=size, created=1.0)
    files.put(owner, file, BytesIO(b"x" * size))


def test_document_quota_allows_replacement(database: Database, tmp_path: Path) -> None:
    knowledge = knowledge_in(database, tmp_path, Quota(documents=2))
    base = knowledge.create("ann", "b").id
    for name in ("1.txt", "2.txt"):
        knowledge.add("ann", base, name, b"words")
    with pytest.raises(QuotaExceeded, match=r"2 documents: delete some"):
        knowledge.add("ann", base, "3.txt", b"words")
    knowledge.add("ann", base, "2.txt", b"other words", replace=True)
    assert [text.filename for text in knowledge.documents("ann", base)] == ["1.txt", "2.txt"]
    other = knowledge.create("bob", "b").id
    knowledge.add("bob", other, "1.txt", b"words")


def test_number_of_files_is_bounded(database: Database) -> None:
    files = FileStore(database, Quota(files=2))
    for number in range(2):
        put(files, "ann", f"f{number}", 1)
    with pytest.raises(QuotaExceeded, match=r"2 files: delete some"):
        put(files, "ann", "f2", 1)
    put(files, "bob", "f3", 1)


def test_files_and_documents_share_one_byte_quota(database: Database, tmp_path: Path) -> None:
    quota = Quota(files=5, bytes=10)
    knowledge = knowledge_in(database, tmp_path, quota)
    files = FileStore(database, quota)
    put(files, "ann", "f1", 6)
    base = knowledge.create("ann", "b").id
    with pytest.raises(QuotaExceeded, match=r"10 bytes.*--quota-bytes"):
        knowledge.add("ann", base, "a.txt", b"12345")
    assert knowledge.documents("ann", base) == ()
    knowledge.add("ann", base, "a.txt", b"1234")
    with pytest.raises(QuotaExceeded):
        put(files, "ann", "f2", 1)
    assert [file.file_id for file in files.all("ann")] == ["f1"]


def test_documents_of_several_keys_are_indexed_in_turn(database: Database) -> None:
    store = KnowledgeStore(database)
    for owner, count in (("ann", 3), ("bob", 2)):
        store.add_base(owner, Base(id=owner, name=owner))
        for number in range(count):
            about = {"base_id": owner, "filename": "a.txt", "size": 1, "created": float(number)}
            document = Document(id=f"{owner}{number}", **about)  # type: ignore[arg-type]
            store.add_document(owner, document, BytesIO(b"x"))
    order = []
    for now in range(1, 6):
        claimed = store.claim("reader", float(now), 0.0)
        assert claimed is not None
        order.append(claimed[1].id)
    assert sorted(order[:2]) == ["ann0", "bob0"] and sorted(order[2:4]) == ["ann1", "bob1"]
    assert order[4] == "ann2"


def test_deleted_text_remains_in_no_file(database: Database, tmp_path: Path) -> None:
    knowledge = knowledge_in(database, tmp_path)
    index = knowledge._index
    for owner in ("ann", "bob"):
        base = knowledge.create(owner, "b").id
        document = knowledge.add(owner, base, "a.txt", b"zqxmarker" + owner.encode())
        index.add(base, [IndexEntry(f"c-{owner}", document.id, f"zqxmarker{owner}")])

    def is_on_disk(word: bytes) -> bool:
        return any(word in file.read_bytes() for file in tmp_path.iterdir())

    assert is_on_disk(b"zqxmarkerann")
    assert knowledge.delete_all("ann") == 1
    assert not is_on_disk(b"zqxmarkerann") and is_on_disk(b"zqxmarkerbob")


def test_bases_of_a_key_are_bounded(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_knowledge, "MOST_BASES", 2)
    knowledge = knowledge_in(database, tmp_path)
    first, _ = knowledge.create("ann", "a"), knowledge.create("ann", "b")
    with pytest.raises(QuotaExceeded, match="an API key may have at most 2 knowledge bases"):
        knowledge.create("ann", "c")
    knowledge.create("bob", "a")
    knowledge.delete("ann", first.id)
    knowledge.create("ann", "c")


@pytest.mark.parametrize("what", ["jobs", "batches"])
def test_oldest_jobs_and_batches_of_a_base_are_dropped_at_the_bound(
    database: Database, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(stored_knowledge, "MOST_JOBS", 2)
    monkeypatch.setattr(stored_files, "MOST_BATCHES", 2)
    store = KnowledgeStore(database)
    store.add_base("ann", Base(id="b", name="b"))
    files = FileStore(database)
    read = store.job if what == "jobs" else files.batch
    for number in range(3):
        if what == "jobs":
            store.rebuild("ann", "b", f"x{number}", float(number))
        else:
            files.put_batch("ann", Batch(f"x{number}", "b", float(number)))
    assert [read("ann", f"x{n}") is not None for n in range(3)] == [False, True, True]
