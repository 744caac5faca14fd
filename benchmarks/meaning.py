"""Measures search by meaning: python -m benchmarks.meaning

The questions of tests/cases/meaning share no content word with their passage. Each is asked in a
base of all passages of its language, whose index has words, vectors of the local embedding model,
or both. Prints for how many questions the passage is the first hit, or among the first five.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from proxy.backends.local_embeddings import LocalEmbeddings
from proxy.knowledge.index import Index
from proxy.knowledge.index.records import Embed, IndexEntry
from proxy.knowledge.index.sqlite import SqliteShelf
from proxy.runtime.cancel import Cancel

CASES = Path(__file__).resolve().parents[1] / "tests" / "cases" / "meaning"
LANGUAGES = ("en", "zh")
FIRST = 5
# Words without content: a question may share them with its passage.
EMPTY = frozenset(
    """a an and are as at be been being by can do does for from have has how i if in is it its my no
    not of on one or our so should that the their them there they this to up we what when where
    which while who why will with your must may much more all each every before after over out about
    than too such need needs""".split()
)


class Case(msgspec.Struct, frozen=True):
    passage: str
    question: str


def cases(language: str) -> list[Case]:
    lines = (CASES / f"{language}.jsonl").read_text("utf-8").splitlines()
    return [msgspec.convert(json.loads(line), Case) for line in lines]


def shared(case: Case, language: str) -> set[str]:
    """The parts that a passage and its question share: beginnings of English content words, pairs
    of Chinese characters."""

    def parts(text: str) -> set[str]:
        if language == "zh":
            return {text[i : i + 2] for i in range(len(text) - 1)}
        return {word[:5] for word in re.findall(r"[a-z]{3,}", text.lower()) if word not in EMPTY}

    return parts(case.passage) & parts(case.question)


def ranks(known: Sequence[Case], embed: Embed | None) -> list[int]:
    """The place of each question's passage among the hits, 0 if it is not among the first."""
    with tempfile.TemporaryDirectory() as folder:
        index = Index(SqliteShelf(Path(folder, "index.db")), embed)
        try:
            entries = [IndexEntry(str(n), "document", case.passage) for n, case in enumerate(known)]
            index.add("base", entries)
            results = [
                [hit.chunk_id for hit in index.search(["base"], case.question, FIRST)]
                for case in known
            ]
        finally:
            index.shelf.close()
    return [hits.index(str(n)) + 1 if str(n) in hits else 0 for n, hits in enumerate(results)]


def main() -> None:
    model = LocalEmbeddings()
    caps = model.probe(1.0)

    def embed(name: str, texts: Sequence[str]) -> list[list[float]]:
        return [list(vector) for vector in model.embed(texts, caps, Cancel()).vectors]

    try:
        for language in LANGUAGES:
            known = cases(language)
            for name, wanted in (("words", None), ("words and vectors", embed)):
                places = ranks(known, wanted)
                first, among = places.count(1), len(places) - places.count(0)
                print(f"{language}, {name}: {first} first, {among} of {len(known)} in {FIRST}")
    finally:
        model.close()


if __name__ == "__main__":
    main()
