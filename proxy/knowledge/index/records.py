"""Records of the index: entries and rows."""

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
    """An entry in storage: its `terms`, each between two blanks, their number, and its vector of
    length 1 or none."""

    chunk_id: str
    document_id: str
    terms: str
    length: int
    vector: tuple[float, ...] = ()


class Near(Struct, frozen=True):
    """A row near a vector, by cosine."""

    chunk_id: str
    document_id: str
    cosine: float


class QueryTerms(Struct, frozen=True):
    """A row that contains words of a query."""

    chunk_id: str
    document_id: str
    terms: str
    length: int


class Size(Struct, frozen=True):
    """The number of rows in a base, and of terms in all rows."""

    rows: int
    terms: int
