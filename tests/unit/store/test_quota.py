"""What a key may keep, whose document is read next, and that deleted words are gone."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `knowledge` is not installed")

from proxy.config import SettingsError, load
from proxy.errors import NoBackend, QuotaExceeded
from proxy.knowledge.index import Entry, Index
from proxy.knowledge.index.sqlite import SqliteShelf
from proxy.knowledge.service import Knowledge
from proxy.knowledge.values import Base, Document, Job
from proxy.store import files as stored_files
from proxy.store import knowledge as kept
from proxy.store.database import Database
from proxy.store.files import Batch, File, FileStore
from proxy.store.knowledge import KnowledgeStore
from proxy.store.quota import Quota


class Nobody:
    def wake(self) -> None:
        pass


def opened(folder: Path, quota: Quota = Quota()) -> tuple[Database, KnowledgeStore, Knowledge]:  # noqa: B008
    database = Database(f"sqlite:///{folder / 'kept.db'}")
    database.upgrade()
    store = KnowledgeStore(database, quota)
    index = Index(SqliteShelf(folder / "index.db"))
    return database, store, Knowledge(store, index, Nobody(), 1 << 20)


def test_documents_have_a_quota_and_a_replacement_needs_no_place(tmp_path: Path) -> None:
    database, _, knowledge = opened(tmp_path, Quota(documents=2))
    base = knowledge.create("ann", "b").id
    for name in ("1.txt", "2.txt"):
        knowledge.add("ann", base, name, b"words")
    with pytest.raises(QuotaExceeded, match=r"2 documents.*--quota-documents"):
        knowledge.add("ann", base, "3.txt", b"words")
    knowledge.add("ann", base, "2.txt", b"other words", replace=True)
    assert [one.filename for one in knowledge.documents("ann", base)] == ["1.txt", "2.txt"]
    other = knowledge.create("bob", "b").id
    knowledge.add("bob", other, "1.txt", b"words")
    database.close()


def test_files_have_a_quota(tmp_path: Path) -> None:
    database, _, _ = opened(tmp_path)
    files = FileStore(database.engine, Quota(files=2))
    for number in range(2):
        files.put("ann", File(f"f{number}", "a", "p", 1, 1.0), BytesIO(b"x"))
    with pytest.raises(QuotaExceeded, match=r"2 files.*--quota-files"):
        files.put("ann", File("f2", "a", "p", 1, 1.0), BytesIO(b"x"))
    files.put("bob", File("f3", "a", "p", 1, 1.0), BytesIO(b"x"))
    database.close()


def test_bytes_of_files_and_documents_are_one_quota(tmp_path: Path) -> None:
    quota = Quota(files=5, bytes=10)
    database, _, knowledge = opened(tmp_path, quota)
    files = FileStore(database.engine, quota)
    files.put("ann", File("f1", "a", "p", 6, 1.0), BytesIO(b"x" * 6))
    base = knowledge.create("ann", "b").id
    with pytest.raises(QuotaExceeded, match=r"10 bytes.*--quota-bytes"):
        knowledge.add("ann", base, "a.txt", b"12345")
    assert knowledge.documents("ann", base) == ()
    knowledge.add("ann", base, "a.txt", b"1234")
    with pytest.raises(QuotaExceeded):
        files.put("ann", File("f2", "a", "p", 1, 1.0), BytesIO(b"x"))
    assert [one.file_id for one in files.all("ann")] == ["f1"]
    database.close()


def test_documents_of_several_keys_are_read_in_turn(tmp_path: Path) -> None:
    database, store, _ = opened(tmp_path)
    for owner, count in (("ann", 3), ("bob", 2)):
        store.add_base(owner, Base(owner, owner))
        for number in range(count):
            document = Document(f"{owner}{number}", owner, "a.txt", 1, created=float(number))
            store.add_document(owner, document, BytesIO(b"x"))
    order = []
    for now in range(1, 6):
        claimed = store.claim("reader", float(now), 0.0)
        assert claimed is not None
        order.append(claimed[1].id)
    assert sorted(order[:2]) == ["ann0", "bob0"] and sorted(order[2:4]) == ["ann1", "bob1"]
    assert order[4] == "ann2"
    database.close()


def test_deleted_words_are_in_no_file(tmp_path: Path) -> None:
    database, _, knowledge = opened(tmp_path)
    index = knowledge._index
    for owner in ("ann", "bob"):
        base = knowledge.create(owner, "b").id
        document = knowledge.add(owner, base, "a.txt", b"zqxmarker" + owner.encode())
        index.add(base, [Entry(f"c-{owner}", document.id, f"zqxmarker{owner}")])

    def found(word: bytes) -> bool:
        return any(word in one.read_bytes() for one in tmp_path.iterdir())

    assert found(b"zqxmarkerann")
    assert knowledge.delete_all("ann") == 1
    assert not found(b"zqxmarkerann") and found(b"zqxmarkerbob")
    database.close()


def test_editing_a_chunk_does_not_wait_for_embeddings() -> None:
    def down(model: str, texts: object) -> list[list[float]]:
        raise NoBackend("no backend is up")

    index = Index(SqliteShelf(None), down, pause=lambda seconds: pytest.fail("it waited"))
    with pytest.raises(NoBackend):
        index.add("b", [Entry("c", "d", "words")], wait=False)
    index.close()


def test_home_is_expanded_and_a_kind_that_contradicts_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "slotproxy.toml"
    file.write_text('data = "~/d"\nresponse-store = "~/r"\n')
    settings = load(["--config", str(file)], {})
    assert settings.data == str(Path.home() / "d")
    assert settings.response_store == str(Path.home() / "r")
    file.write_text('[[backend]]\nurl = "http://127.0.0.1:1"\nkind = "chatglm"\n')
    with pytest.raises(SettingsError, match="backend 1: kind: a backend with a url is llamacpp"):
        load(["--config", str(file)], {})


def test_bases_of_a_key_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_BASES", 2)
    database, _, knowledge = opened(tmp_path)
    first, _ = knowledge.create("ann", "a"), knowledge.create("ann", "b")
    with pytest.raises(QuotaExceeded, match="a key may have 2 knowledge bases"):
        knowledge.create("ann", "c")
    knowledge.create("bob", "a")
    knowledge.delete("ann", first.id)
    knowledge.create("ann", "c")
    database.close()


def test_oldest_jobs_of_a_base_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_JOBS", 2)
    database, store, _ = opened(tmp_path)
    store.add_base("ann", Base("b", "b"))
    for number in range(3):
        store.requeue("ann", Job(f"j{number}", "b", "rebuild", "running", 0, 0, 0, float(number)))
    found = [store.job("ann", f"j{number}") is not None for number in range(3)]
    assert found == [False, True, True]
    database.close()


def test_oldest_batches_of_a_vector_store_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_files, "MOST_BATCHES", 2)
    database, store, _ = opened(tmp_path)
    store.add_base("ann", Base("b", "b"))
    files = FileStore(database.engine)
    for number in range(3):
        files.begin("ann", Batch(f"x{number}", "b", float(number)))
    found = [files.batch("ann", f"x{number}") is not None for number in range(3)]
    assert found == [False, True, True]
    database.close()
