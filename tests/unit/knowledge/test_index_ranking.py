"""Fusion, reranking, and unit vectors: pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from proxy.errors import BadRequest, Cancelled, NoBackend, Unsupported
from proxy.knowledge.index import BATCH, embedded, reranked, unit
from proxy.knowledge.index.records import Hit


def hit(text: str) -> Hit:
    return Hit(
        chunk_id=text, document_id="d", base_id="b", score=0.0, filename="f", text=text, place=""
    )


def test_results_are_reranked() -> None:
    def by_length(query: str, texts: Sequence[str]) -> list[float]:
        return [float(len(text)) for text in texts]

    ordered = reranked(by_length, "q", [hit("a"), hit("ccc"), hit("bb")])
    assert [passage.text for passage in ordered] == ["ccc", "bb", "a"]
    (only,) = reranked(lambda query, texts: [0.0], "q", [hit("a")])
    assert only.score == 0.5
    assert reranked(None, "q", [hit("a"), hit("b")]) == [hit("a"), hit("b")]


def test_failing_reranker_keeps_the_order() -> None:
    def gone(query: str, texts: Sequence[str]) -> list[float]:
        raise NoBackend("none is up")

    def cancelled(query: str, texts: Sequence[str]) -> list[float]:
        raise Cancelled("the client is gone")

    assert reranked(gone, "q", [hit("b"), hit("a")]) == [hit("b"), hit("a")]
    with pytest.raises(Cancelled):
        reranked(cancelled, "q", [hit("b"), hit("a")])


def test_texts_are_embedded_once_in_batches_and_blank_ones_skipped() -> None:
    calls: list[list[str]] = []

    def embed(model: str, texts: Sequence[str]) -> list[list[float]]:
        calls.append(list(texts))
        return [[float(len(text)), 0.0] for text in texts]

    texts = [str(i) for i in range(BATCH + 1)]
    vectors = embedded(embed, "m", [*texts, "0", " "])
    assert [len(call) for call in calls] == [BATCH, 1]
    assert vectors[-2:] == [(1.0, 0.0), ()] and len(vectors) == BATCH + 3


def test_overlong_text_is_embedded_by_its_beginning() -> None:
    def embed(model: str, texts: Sequence[str]) -> list[list[float]]:
        if any(len(text) > 50 for text in texts):
            raise BadRequest("an input exceeds the backend's maximum embedding length")
        return [[float(ord(text[0])), float(len(text))] for text in texts]

    short, long = embedded(embed, "m", ["ab", "a" * 150])
    assert short == unit([97.0, 2.0]) and long == unit([97.0, 37.0])


def test_other_refusals_of_embeddings_are_raised() -> None:
    def refuses(model: str, texts: Sequence[str]) -> list[list[float]]:
        raise BadRequest("no")

    def cannot(model: str, texts: Sequence[str]) -> list[list[float]]:
        raise Unsupported("this model's backend does not support embeddings")

    with pytest.raises(BadRequest):
        embedded(refuses, "m", ["a" * 1000])
    with pytest.raises(Unsupported):
        embedded(cannot, "m", ["a", "b"])
