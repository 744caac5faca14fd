"""Vectors of texts, through whatever the gateway embeds with: in batches, of length 1.

A text longer than the model can take is embedded by its beginning: better found by that than not
taken in at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...errors import BadRequest, Unsupported
from .values import Embed

BATCH = 64  # texts of one call
SHORTEST = 32  # characters: what is refused at this length is not too long


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
        known.update(zip(part, map(unit, _whole(embed, model, part)), strict=True))
    return [known.get(one, ()) for one in texts]


def _whole(embed: Embed, model: str, part: Sequence[str]) -> Sequence[Sequence[float]]:
    try:
        return embed(model, part)
    except Unsupported:
        raise
    except BadRequest:
        if len(part) > 1:  # one of them is too long
            return [_whole(embed, model, [one])[0] for one in part]
        (text,) = part
        if len(text) <= SHORTEST:
            raise
        return _whole(embed, model, [text[: len(text) // 2]])
