"""Search results from knowledge bases."""

from __future__ import annotations

from msgspec import Struct


class Hit(Struct, frozen=True, kw_only=True):
    """A chunk that matches a query. `score` is from 0 to 1, larger is nearer (as in OpenAI's API);
    `distance` is from 0 to 2, smaller is nearer (as in Chatchat's). `lexical_rank` and
    `vector_rank` are its ranks by words and by meaning before fusion: 1 is the best, 0 is none."""

    chunk_id: str
    document_id: str
    base_id: str
    filename: str
    text: str
    place: str
    score: float
    distance: float
    lexical_rank: int = 0
    vector_rank: int = 0
