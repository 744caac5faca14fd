"""Vectors of texts, through whatever the gateway embeds with: in batches, of length 1."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .values import Embed

BATCH = 64  # texts of one call


def unit(vector: Sequence[float]) -> tuple[float, ...]:
    """The vector with length 1; one of zeros, which no nearness can be told of, as ()."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    if not length or not math.isfinite(length):
        return ()
    return tuple(x / length for x in vector)


def embedded(embed: Embed, model: str, texts: Sequence[str]) -> list[tuple[float, ...]]:
    """A vector for each text; () where the text is blank. Raises what `embed` does."""
    known: dict[str, tuple[float, ...]] = {}
    asked = [one for one in dict.fromkeys(texts) if one.strip()]
    for i in range(0, len(asked), BATCH):
        part = asked[i : i + BATCH]
        known.update(zip(part, map(unit, embed(model, part)), strict=True))
    return [known.get(one, ()) for one in texts]
