"""A second, slower look at the best few: a backend's ranking model reads query and text together.

Whatever goes wrong there leaves the order as it was: a search is not to fail for it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from ...errors import Cancelled, GatewayError
from .values import Rank

log = logging.getLogger("slotproxy.knowledge")

T = TypeVar("T")

DEPTH = 20  # hits that are looked at, at least as many as are wanted
MOST = 4000  # characters of a text that are shown


def reranked(
    rank: Rank | None, query: str, hits: Sequence[T], text: Callable[[T], str]
) -> list[tuple[T, float | None]]:
    """The hits anew, best first, each with the score (0 to 1) it got; None without a ranker."""
    if rank is None or not hits:
        return [(hit, None) for hit in hits]
    try:
        scores = rank(query, [text(hit)[:MOST] for hit in hits])
    except Cancelled:
        raise
    except GatewayError as error:
        log.warning("no ranking of what was found: %s", error.message)
        return [(hit, None) for hit in hits]
    shares = [share(score) for score in scores]
    order = sorted(range(len(hits)), key=lambda i: -shares[i])
    return [(hits[i], shares[i]) for i in order]


def share(score: float) -> float:
    """A ranking model's score, which is a logit, as a share from 0 to 1."""
    return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, score))))
