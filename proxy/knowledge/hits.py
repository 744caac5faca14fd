"""Search results from knowledge bases."""

from __future__ import annotations

from msgspec import Struct


class IndexHit(Struct, frozen=True, kw_only=True):
    """A chunk that matches a query, as the index knows it. `score` is from 0 to 1, larger is nearer
    (as in OpenAI's API). `lexical_rank` and `vector_rank` are its ranks by words and by meaning
    before fusion: 1 is the best, 0 is none."""

    chunk_id: str
    document_id: str
    base_id: str
    score: float
    lexical_rank: int = 0
    vector_rank: int = 0

    @property
    def distance(self) -> float:
        """From 0 to 2, smaller is nearer, as in Chatchat's API: the squared distance of vectors of
        length 1."""
        return 2.0 * (1.0 - self.score)


class Hit(IndexHit, frozen=True, kw_only=True):
    """A chunk that matches a query, with its text."""

    filename: str
    text: str
    place: str
