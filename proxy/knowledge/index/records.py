"""Records of the index: entries, rows and hits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

# (model name, texts) -> one vector per text. Raises GatewayError if no backend can embed.
Embed = Callable[[str, Sequence[str]], list[list[float]]]
# (query, texts) -> one score per text, higher is nearer, on any scale.
Rank = Callable[[str, Sequence[str]], Sequence[float]]


class IndexEntry(Struct, frozen=True):
    """A chunk to index. An existing chunk with this id is replaced."""

    chunk_id: str
    document_id: str
    text: str


class IndexRow(Struct, frozen=True):
    """An entry in storage: its `terms`, each between two blanks, their number, and its vector."""

    chunk_id: str
    document_id: str
    terms: str
    length: int
    vector: tuple[float, ...] = ()


class IndexHit(Struct, frozen=True, kw_only=True):
    """A chunk that matches a query. `score` is from 0 to 1, as in OpenAI's API. `lexical_rank` and
    `vector_rank` are its ranks by words and by meaning: 1 is the best, 0 is none."""

    chunk_id: str
    document_id: str
    base_id: str
    score: float
    lexical_rank: int = 0
    vector_rank: int = 0

    @property
    def distance(self) -> float:
        """From 0 to 2, as in Chatchat's API: the squared distance of vectors of length 1."""
        return 2.0 * (1.0 - self.score)


class Hit(IndexHit, frozen=True, kw_only=True):
    """A chunk that matches a query, with its text."""

    filename: str
    text: str
    place: str


def hit_of(chunk: str, document: str, base: str, score: float) -> IndexHit:
    score = max(0.0, min(1.0, score))
    return IndexHit(chunk_id=chunk, document_id=document, base_id=base, score=score)
