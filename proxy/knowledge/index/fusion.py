"""Several rankings into one: reciprocal rank fusion (Cormack, Clarke and Büttcher 2009).

It needs only the places, not the scores, which words and vectors give in scales of their own.
Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

K = 60  # the paper's: how little a first place weighs more than a second


def fused(rankings: Iterable[Sequence[T]]) -> list[T]:
    """Best first; of equals, the one that was seen first."""
    points: dict[T, float] = {}
    for ranking in rankings:
        for place, one in enumerate(ranking, start=1):
            points[one] = points.get(one, 0.0) + 1.0 / (K + place)
    return sorted(points, key=lambda one: -points[one])
