"""What goes into an index and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

# (model's name, texts) -> a vector each. Raises GatewayError where no backend gives them.
Embed = Callable[[str, Sequence[str]], list[list[float]]]
# (query, texts) -> a score each, the higher the nearer, of any scale.
Rank = Callable[[str, Sequence[str]], Sequence[float]]


class Entry(Struct, frozen=True):
    """A chunk as the index takes it. An id that is there already is replaced."""

    chunk_id: str
    document_id: str
    text: str


class Found(Struct, frozen=True):
    """A chunk that was found. `score` is from 0 to 1, larger is nearer (OpenAI's meaning);
    `distance` from 0 to 2, smaller is nearer (Chatchat's: the squared distance of vectors of
    length 1). They say the same: distance = 2 * (1 - score).

    `lexical_rank` and `vector_rank` are its places by words and by meaning, which made it found: 1
    is the best, 0 is none."""

    chunk_id: str
    document_id: str
    base_id: str
    score: float
    lexical_rank: int = 0
    vector_rank: int = 0

    @property
    def distance(self) -> float:
        return distance(self.score)


def distance(score: float) -> float:
    return 2.0 * (1.0 - score)


class Row(Struct, frozen=True):
    """An entry as a shelf keeps it: its `terms`, each between two blanks of its own, how many they
    are, and its vector of length 1, or none."""

    chunk_id: str
    document_id: str
    terms: str
    length: int
    vector: tuple[float, ...] = ()


class Near(Struct, frozen=True):
    """A row that is near a vector, by the cosine of both."""

    chunk_id: str
    document_id: str
    cosine: float


class Words(Struct, frozen=True):
    """A row that has words of a query."""

    chunk_id: str
    document_id: str
    terms: str
    length: int


class Size(Struct, frozen=True):
    """How much a base holds: rows, and terms of all rows."""

    rows: int
    terms: int
