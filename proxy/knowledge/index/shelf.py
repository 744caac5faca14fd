"""Where an index is kept: the seam that SQLite and PostgreSQL fill."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from .values import Near, Row, Size, Words


class Shelf(Protocol):
    """Rows by base. `documents` None means all; a base that is not known is empty."""

    def put(self, base: str, rows: Sequence[Row]) -> None:
        """Keep the rows, all or none; a chunk that is there is replaced."""
        ...

    def drop(
        self,
        *,
        base: str | None = None,
        document: str | None = None,
        chunks: Collection[str] = (),
    ) -> None:
        """Forget what any of these names."""
        ...

    def purge(self) -> None:
        """What was dropped leaves no trace in files. It may take a second for each ten thousand
        rows that are left."""
        ...

    def census(self) -> Mapping[str, tuple[int, int]]:
        """Of every document: its rows, and how many of them have vectors."""
        ...

    def size(self, base: str) -> Size: ...

    def having(self, base: str, terms: Collection[str]) -> Mapping[str, int]:
        """How many rows have a term; at most this many where the counting is cut short."""
        ...

    def matching(
        self,
        base: str,
        weighed: Mapping[str, float],
        documents: Collection[str] | None,
        most: int,
    ) -> list[Words]:
        """The rows with any of these terms (and what each counts), roughly the best ones first."""
        ...

    def nearest(
        self, base: str, vector: Sequence[float], documents: Collection[str] | None, most: int
    ) -> list[Near]:
        """The nearest first. Rows with vectors of another length are not seen."""
        ...

    def close(self) -> None: ...
