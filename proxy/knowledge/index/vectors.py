"""Embeds texts in batches, as vectors of length 1.

For a text that is too long for the model, only the beginning is embedded: better than not to index
the text at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...errors import BadRequest, Unsupported
from .records import Embed

BATCH = 64  # texts per call
SHORTEST = 32  # characters; an error at this length is not about length


def unit(vector: Sequence[float]) -> tuple[float, ...]:
    """Scale a vector to length 1. A vector of zeros, which has no direction, becomes ()."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    if not length or not math.isfinite(length):
        return ()
    return tuple(x / length for x in vector)


def embedded(embed: Embed, model: str, texts: Sequence[str]) -> list[tuple[float, ...]]:
    """Return a vector for each text; () for blank texts. Raises what `embed` raises."""
    known: dict[str, tuple[float, ...]] = {}
    asked = [one for one in dict.fromkeys(texts) if one.strip()]
    for i in range(0, len(asked), BATCH):
        part = asked[i : i + BATCH]
        known.update(zip(part, map(unit, _whole(embed, model, part)), strict=True))
    return [known.get(one, ()) for one in texts]


def _whole(embed: Embed, model: str, part: Sequence[str]) -> Sequence[Sequence[float]]:
    try:
        return embed(model, part)
    except Unsupported:
        raise
    except BadRequest:
        if len(part) > 1:  # one of them may be too long
            return [_whole(embed, model, [one])[0] for one in part]
        (text,) = part
        if len(text) <= SHORTEST:
            raise
        return _whole(embed, model, [text[: len(text) // 2]])
