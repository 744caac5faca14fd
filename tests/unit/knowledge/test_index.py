"""The index on both databases: matches, misses, and hostile queries."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.errors import NoBackend, UpstreamTimeout
from proxy.knowledge.index import Index, IndexBackend
from proxy.knowledge.index.postgres import PostgresShelf
from proxy.knowledge.index.records import IndexEntry, IndexRow
from proxy.knowledge.index.sqlite import SqliteShelf
from tests.fakes import at_once


@pytest.fixture(scope="module")
def engine(postgres: str) -> Iterator[Any]:
    """The engine of a PostgreSQL with pgvector."""
    sqlalchemy = pytest.importorskip("sqlalchemy", reason="no extra `knowledge`")
    made = sqlalchemy.create_engine(postgres.replace("postgresql://", "postgresql+psycopg://", 1))
    yield made
    made.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IndexBackend]:
    if request.param == "sqlite":
        file = SqliteShelf(tmp_path / "index.sqlite")
        yield file
        file.close()
        return
    postgres = PostgresShelf(request.getfixturevalue("engine"))
    yield postgres
    for base in ("b", "other"):
        postgres.drop(base=base)


TEXTS = {
    "wall-zh": "长城全长21196千米,始建于春秋战国时期。",
    "panda": "熊猫喜欢吃竹子。",
    "cat": "我家里养了一只猫。",
    "wall-en": "The Great Wall of China is 21196 kilometres long.",
    "boxes": "Two boxes of stories about the café stood in the house.",
    "code": "def read_settings(path): return load_file(path)",
    "mixed": "我们用Flask写了一个网关,用来转发请求。",
    "wide": "ABC123型号的产品",
}


def filled(shelf: IndexBackend) -> Index:
    index = Index(shelf)
    index.add("b", [IndexEntry(name, f"doc-{name}", text) for name, text in TEXTS.items()])
    return index


def names(index: Index, query: str, count: int = 5, base: str = "b") -> list[str]:
    return [hit.chunk_id for hit in index.search([base], query, count)]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("长城有多长?", "wall-zh"),
        ("竹", "panda"),
        ("竹子", "panda"),
        ("养猫", "cat"),
        ("网关", "mixed"),
        ("flask", "mixed"),
        ("How long is the Great Wall?", "wall-en"),
        ("CAFE", "boxes"),
        ("box", "boxes"),
        ("story", "boxes"),
        ("read settings", "code"),
        ("abc123", "wide"),
    ],
)
def test_search_finds_the_matching_passage(shelf: IndexBackend, query: str, first: str) -> None:
    assert names(filled(shelf), query)[0] == first


@pytest.mark.parametrize(
    "query",
    [
        'wall" OR "cat',
        "terms : wall",
        "NEAR(wall china, 5)",
        "wall*",
        "^wall",
        "wall AND NOT china",
        "'; drop table entry; --",
        "wall & ! | ( ) : * <-> \\ '",
        "wall %s %(x)s {0} :name $1 ?",
        "wall\x00cat",
        "wall " * 10_000,
        "\ud800 wall",
    ],
)
def test_query_is_never_parsed_as_syntax(shelf: IndexBackend, query: str) -> None:
    index = filled(shelf)
    assert ("wall-en" in names(index, query)) == ("wall" in query)
    assert names(index, "Great Wall")[0] == "wall-en"


def test_every_character_and_bigram_of_chinese_text_is_found(shelf: IndexBackend) -> None:
    """Recall, measured: all of them, where an index of threes (FTS5's trigram) finds none."""
    text = "北京是中华人民共和国的首都,位于华北平原北部"
    runs = text.split(",")
    queries = [run[i : i + n] for run in runs for n in (1, 2) for i in range(len(run) - n + 1)]
    index = Index(shelf)
    index.add(
        "b",
        [IndexEntry("it", "d", text), *(IndexEntry(f"n{i}", "d", "填充内容") for i in range(20))],
    )
    assert [query for query in queries if names(index, query, 1) != ["it"]] == []


def test_base_does_not_find_documents_of_another(shelf: IndexBackend) -> None:
    index = filled(shelf)
    before = index.search(["b"], "Great Wall of Rome", 5)
    index.add("other", [IndexEntry(f"o{i}", "d", "the Great Wall of Rome") for i in range(50)])
    assert index.search(["b"], "Great Wall of Rome", 5) == before
    assert {hit.base_id for hit in index.search(["b", "other"], "Great Wall", 60)} == {"b", "other"}
    assert index.search(["nobody's"], "Great Wall", 5) == ()


def test_search_is_limited_to_named_documents(shelf: IndexBackend) -> None:
    index = filled(shelf)
    only = index.search(["b"], "猫 竹子 Wall", 5, documents=["doc-cat", "doc-boxes"])
    assert [hit.chunk_id for hit in only] == ["cat"]
    assert index.search(["b"], "猫", 5, documents=[]) == ()


def test_chunk_is_replaced_and_removed(shelf: IndexBackend) -> None:
    index = filled(shelf)
    index.add("b", [IndexEntry("cat", "doc-cat", "一条狗")])
    assert names(index, "狗") == ["cat"]
    assert names(index, "家里") == []
    index.shelf.drop(document="doc-cat")
    assert names(index, "狗") == []
    index.shelf.drop(chunks=["panda"])
    assert names(index, "竹子") == []
    index.shelf.drop(base="b")
    assert names(index, "长城") == []
    assert shelf.size("b")[0] == 0


# -- vectors ---------------------------------------------------------------------------------------

MEANINGS = {
    "a feline": (1.0, 0.1, 0.0),
    "a dog": (0.9, 0.5, 0.0),
    "a car": (0.0, 0.1, 1.0),
    "kitty": (3.0, 0.2, 0.0),
}


def by_meaning(model: str, texts: Sequence[str]) -> list[list[float]]:
    assert model == "m"
    return [list(MEANINGS.get(text, (0.0, 1.0, 0.0))) for text in texts]


def test_vectors_find_passages_without_common_words(shelf: IndexBackend) -> None:
    index = Index(shelf, by_meaning)
    index.add("b", [IndexEntry(text, "d", text) for text in ("a feline", "a dog", "a car")], "m")
    hits = index.search(["b"], "kitty", 2, models=["m"])
    assert [hit.chunk_id for hit in hits] == ["a feline", "a dog"]
    # Of unit vectors: the squared distance, as Chatchat's index has it, is 2 - 2 cos.
    assert hits[0].score == pytest.approx(0.9994, abs=1e-3)
    assert hits[0].distance == pytest.approx(2 - 2 * hits[0].score)
    assert hits[1].score == pytest.approx(0.9045, abs=1e-3)


def test_words_and_vectors_are_fused(shelf: IndexBackend) -> None:
    """A passage that both rank well beats one that only one ranks well."""
    index = Index(shelf, by_meaning)
    texts = ["a feline", "kitty", "a dog", "kitty litter for a car"]
    index.add("b", [IndexEntry(text, "d", text) for text in texts], "m")
    hits = index.search(["b"], "kitty", 4, models=["m"])
    ids = [hit.chunk_id for hit in hits]
    assert ids[0] == "kitty"
    assert set(ids) == set(texts)
    ranks = {hit.chunk_id: (hit.lexical_rank, hit.vector_rank) for hit in hits}
    assert ranks == {
        "kitty": (1, 1),
        "a feline": (0, 2),
        "a dog": (0, 3),
        "kitty litter for a car": (2, 4),
    }


def test_search_uses_words_when_embeddings_are_down(shelf: IndexBackend) -> None:
    def gone(model: str, texts: Sequence[str]) -> list[list[float]]:
        raise NoBackend("no backend for this model is available")

    pauses: list[float] = []
    filled(shelf)
    index = Index(shelf, gone, pauses.append)
    assert names(index, "竹子") == ["panda"]
    assert pauses == []  # a search does not wait
    with pytest.raises(NoBackend):
        index.add("b", [IndexEntry("new", "d", "新的")])
    assert sum(pauses) >= 30  # new documents wait for their vectors
    assert names(Index(shelf), "新的") == []


def test_new_documents_survive_a_timeout_but_not_many(shelf: IndexBackend) -> None:
    sizes: list[int] = []

    def slow(model: str, texts: Sequence[str]) -> list[list[float]]:
        sizes.append(len(texts))
        if len(sizes) == 2:
            return [[1.0, 0.0] for _ in texts]
        raise UpstreamTimeout("timed out after 30 seconds")

    index = Index(shelf, slow, lambda seconds: None)
    index.add("b", [IndexEntry("new", "d", "新的")])
    assert index.shelf.census() == {"d": (1, 1)}
    sizes[:] = [0, 0]
    with pytest.raises(UpstreamTimeout):
        index.add("b", [IndexEntry("newer", "d", "更新的")])
    assert len(sizes) < 9


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_index_of_another_version_is_dropped(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = request.getfixturevalue("engine") if kind == "postgres" else None

    def opened() -> IndexBackend:
        return PostgresShelf(engine) if engine else SqliteShelf(tmp_path / "index.db")

    first = opened()
    Index(first, by_meaning).add("b", [IndexEntry("one", "d", "a dog")], "m")
    first.close()
    same = opened()
    assert same.census() == {"d": (1, 1)}
    same.close()
    monkeypatch.setattr(f"proxy.knowledge.index.{kind}.VERSION", -1)
    other = opened()
    assert other.census() == {}
    index = Index(other, by_meaning)
    index.add("b", [IndexEntry("one", "d", "a dog")], "m")
    assert index.search(["b"], "dog", 1, models=["m"])[0].chunk_id == "one"
    other.drop(base="b")
    other.close()


def test_concurrent_writers_and_readers_agree(shelf: IndexBackend) -> None:
    index = filled(shelf)

    def write(number: int) -> None:
        for i in range(5):
            index.add("b", [IndexEntry(f"{number}-{i}", f"w{number}", f"字{number} thing{i}")])
            assert names(index, "竹子") == ["panda"]

    at_once(write, 4)
    assert shelf.size("b")[0] == len(TEXTS) + 20


def test_common_words_keep_search_fast(shelf: IndexBackend) -> None:
    """The rows examined are bounded: a word of all chunks is ignored beside rarer ones."""
    draw = random.Random(1)
    rows = [f"common {draw.randrange(10**6)} words in every row" for _ in range(300)]
    index = Index(shelf)
    index.add("b", [IndexEntry(f"c{i}", "d", text) for i, text in enumerate(rows)])
    index.add("b", [IndexEntry("it", "d", "common words in every row and a needle")])
    assert names(index, "common words every row needle")[0] == "it"
    assert len(names(index, "common", 400)) == 301


class Broken(str):
    __slots__ = ()

    def split(self, *_: object) -> list[str]:
        raise ZeroDivisionError


def test_rows_are_inserted_all_or_none(shelf: IndexBackend) -> None:
    """Several batches, the last of which is broken: no document is found in part."""
    index = filled(shelf)
    before = shelf.census()
    entries = [IndexEntry(f"n{i}", "doc-new", f"walls of the city {i}") for i in range(450)]
    put = shelf.put

    def broken(base: str, rows: Sequence[IndexRow]) -> None:
        put(base, [*rows[:-1], msgspec.structs.replace(rows[-1], terms=Broken("wall"))])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "put", broken)
        with pytest.raises(ZeroDivisionError):
            index.add("b", entries)
    assert shelf.census() == before
    index.add("b", entries)
    assert shelf.census()["doc-new"] == (450, 0)
