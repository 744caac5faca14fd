"""Embedding vectors and rankings: plain numbers with a little arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

Vector = Sequence[float]


class Embedded(Struct, frozen=True):
    """A vector for each input, in order; `tokens` is the total number of input tokens."""

    vectors: tuple[Vector, ...]
    tokens: int


class Ranked(Struct, frozen=True):
    """A score for each document, in order; a higher one is closer to the query."""

    scores: tuple[float, ...]
    tokens: int


def normalised(vector: Vector) -> list[float]:
    """The vector scaled to length 1; a zero vector is unchanged."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    return [x / length for x in vector] if length else list(vector)
