"""The storage interface of the index, implemented for SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from .records import IndexRow, Near, QueryTerms, Size


class IndexBackend(Protocol):
    """Stores rows by base. `documents` None means all; an unknown base is empty."""

    def put(self, base: str, rows: Sequence[IndexRow]) -> None:
        """Store all rows or none. Existing chunks are replaced."""

    def drop(
        self,
        *,
        base: str | None = None,
        document: str | None = None,
        chunks: Collection[str] = (),
    ) -> None:
        """Remove the rows that match any of these arguments."""

    def purge(self) -> None:
        """Remove all traces of dropped rows from files. May take a second per ten thousand
        remaining rows."""

    def census(self) -> Mapping[str, tuple[int, int]]:
        """Return, for each document, the number of its rows and how many of them have vectors."""

    def size(self, base: str) -> Size: ...

    def having(self, base: str, terms: Collection[str]) -> Mapping[str, int]:
        """Return how many rows contain each term; a lower number if counting is cut short."""

    def matching(
        self,
        base: str,
        weighed: Mapping[str, float],
        documents: Collection[str] | None,
        most: int,
    ) -> list[QueryTerms]:
        """Return rows with any of these terms and the count of each term, roughly the best
        first."""

    def nearest(
        self, base: str, vector: Sequence[float], documents: Collection[str] | None, most: int
    ) -> list[Near]:
        """Return the nearest rows, the nearest first. Vectors of another length are ignored."""

    def close(self) -> None: ...
