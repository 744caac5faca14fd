"""Merges rankings by reciprocal rank fusion (Cormack, Clarke and Büttcher 2009).

It uses only ranks, since the scores of words and vectors have different scales. Pure.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

K = 60  # from the paper: how much a first rank outweighs a second


def fused(rankings: Iterable[Sequence[T]]) -> list[T]:
    """Merge the rankings, best first; among equals, the one seen first comes first."""
    points: dict[T, float] = {}
    for ranking in rankings:
        for place, one in enumerate(ranking, start=1):
            points[one] = points.get(one, 0.0) + 1.0 / (K + place)
    return sorted(points, key=lambda one: -points[one])
