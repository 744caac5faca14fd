"""Each bound on documents and their contents, at its limit."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.errors import BadRequest
from proxy.knowledge import extract, ingest, reading
from proxy.knowledge.index import Index
from proxy.knowledge.index.lexical import MOST_QUERY, MOST_TERMS, question
from proxy.knowledge.index.sqlite import SqliteShelf
from proxy.knowledge.ingest import Ingester
from proxy.knowledge.reading import DocumentReader, ReadingFailed, ReadingLimits
from proxy.knowledge.service import LARGEST, LONGEST, SMALLEST, Knowledge
from proxy.runtime import subprocesses
from proxy.store.database import Database
from proxy.store.knowledge import KnowledgeStore
from proxy.store.records import Splitting
from tests.extras import need

need("knowledge", "markitdown")


def nobody() -> None:
    """Wakes no reader of documents."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    database = Database(f"sqlite:///{tmp_path / 'kept.db'}")
    database.upgrade()
    yield KnowledgeStore(database)
    database.close()


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(SqliteShelf(tmp_path / "index.db"))


@pytest.fixture
def knowledge(store: KnowledgeStore, index: Index) -> Knowledge:
    return Knowledge(store, index, nobody, 1 << 20)


def archive(*sizes: int, level: int = zipfile.ZIP_STORED) -> io.BytesIO:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", level) as file:
        for number, size in enumerate(sizes):
            file.writestr(f"{number}", b" " * size)
    return made


def test_size_and_compression_of_archives_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "MEMBERS", 5)
    packed, most = zipfile.ZIP_DEFLATED, extract.RATIO << 16  # of archives with at most 64 kB
    monkeypatch.setattr(extract, "UNPACKED", most)
    for fits in (archive(*[1] * 5), archive(most), archive(most, level=packed)):
        extract._weigh(fits)
    monkeypatch.setattr(extract, "UNPACKED", most + 9)
    for large in (archive(*[1] * 6), archive(most, 10), archive(most + 1, level=packed)):
        with pytest.raises(ReadingFailed, match="expands to far more"):
            extract._weigh(large)


@pytest.mark.parametrize(
    ("fits", "not_fits", "param"),
    [
        (Splitting(SMALLEST, 0), Splitting(SMALLEST - 1, 0), "chunk_size"),
        (Splitting(LARGEST, 0), Splitting(LARGEST + 1, 0), "chunk_size"),
        (Splitting(100, 50), Splitting(100, 51), "chunk_overlap"),
    ],
)
def test_chunk_size_and_overlap_are_bounded(
    knowledge: Knowledge, fits: Splitting, not_fits: Splitting, param: str
) -> None:
    base = knowledge.create("ann", "b").id
    knowledge.add("ann", base, "a.txt", b"text", fits)
    with pytest.raises(BadRequest) as refused:
        knowledge.add("ann", base, "b.txt", b"text", not_fits)
    assert refused.value.param == param


def test_length_of_names_is_bounded(knowledge: Knowledge) -> None:
    knowledge.create("ann", "x" * LONGEST)
    with pytest.raises(BadRequest, match=f"1 to {LONGEST} characters"):
        knowledge.create("ann", "x" * (LONGEST + 1))


def test_size_of_a_document_is_bounded(knowledge: Knowledge) -> None:
    base = knowledge.create("ann", "b").id
    knowledge.add("ann", base, "a.txt", b"x" * (1 << 20))
    with pytest.raises(BadRequest):
        knowledge.add("ann", base, "b.txt", b"x" * ((1 << 20) + 1))


def test_number_of_chunks_is_bounded(
    knowledge: Knowledge, store: KnowledgeStore, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "MOST_CHUNKS", 3)
    base = knowledge.create("ann", "b").id
    ingester = Ingester(store, index, ReadingLimits())
    for text, status in (("word " * 12, "ready"), ("word " * 16, "failed")):
        made = knowledge.add("ann", base, f"{len(text)}.txt", text.encode(), Splitting(20, 0))
        assert ingester.read_one()
        document = store.document("ann", made.id)
        assert document is not None and document.status == status, document
    assert document.error == "it has more than 3 chunks: increase the chunk size"


@pytest.mark.parametrize(
    ("said", "fails"),
    [
        ({"place": "", "text": "x" * 40, "done": 1.0}, False),
        ({"place": "", "text": "x" * 41, "done": 1.0}, True),
        ({"place": "x" * reading.LONGEST, "text": "x", "done": 1.0}, True),
    ],
    ids=["a piece", "a larger piece than asked for", "a line without end"],
)
def test_reader_output_is_bounded(
    said: dict[str, object], fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has read an untrusted document, so its output is untrusted too."""
    program = "import sys, time; sys.stdin.readline(); print(sys.argv[1], flush=True);"
    program += "print('{\"over\": true}', flush=True); time.sleep(60)"
    (tmp_path / "said").write_text(json.dumps(said))
    program = program.replace("sys.argv[1]", f"open({str(tmp_path / 'said')!r}).read()")
    monkeypatch.setattr(subprocesses, "command", lambda module: [sys.executable, "-c", program])
    read = DocumentReader("a.txt", 1, [b"x"], Splitting(40, 0), ReadingLimits())
    try:
        if fails:
            with pytest.raises(ReadingFailed, match="crashed the reader"):
                list(read)
        else:
            assert [piece.text for _, piece in read] == ["x" * 40]
    finally:
        read.close()


def test_number_of_query_words_is_bounded() -> None:
    words = " ".join(f"w{number}" for number in range(MOST_TERMS + 9))
    assert len(question(words)) == MOST_TERMS
    assert len(question("wall " * (MOST_QUERY // 5) + "river")) == 1
