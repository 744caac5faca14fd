"""Orders of hits: several rankings merged into one, and the order of a ranking model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from ...errors import Cancelled, GatewayError
from .records import Rank

log = logging.getLogger("slotproxy.knowledge")

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)

K = 60  # from the paper: how much a first rank outweighs a second
DEPTH = 20  # hits to rerank, and at least as many as are requested
MOST = 4000  # characters of a text sent to the model


def fused(rankings: Iterable[Sequence[H]]) -> list[H]:
    """Merge rankings by reciprocal rank fusion (Cormack, Clarke and Büttcher 2009), best first;
    among equals, the one seen first comes first. It uses only ranks, since the scores of words and
    vectors have different scales."""
    points: dict[H, float] = {}
    for ranking in rankings:
        for place, one in enumerate(ranking, start=1):
            points[one] = points.get(one, 0.0) + 1.0 / (K + place)
    return sorted(points, key=lambda one: -points[one])


def reranked(
    rank: Rank | None, query: str, hits: Sequence[T], text: Callable[[T], str]
) -> list[tuple[T, float | None]]:
    """Order the hits by a backend's ranking model, which reads query and text together: best first,
    each with its score (0 to 1), None without a ranker.

    If anything fails, the order stays unchanged: a search must not fail because of reranking."""
    if rank is None or not hits:
        return [(hit, None) for hit in hits]
    try:
        scores = rank(query, [text(hit)[:MOST] for hit in hits])
    except Cancelled:
        raise
    except GatewayError as error:
        log.warning("results are not reranked: %s", error.message)
        return [(hit, None) for hit in hits]
    shares = [share(score) for score in scores]
    order = sorted(range(len(hits)), key=lambda i: -shares[i])
    return [(hits[i], shares[i]) for i in order]


def share(score: float) -> float:
    """Convert a ranking model's score, a logit, to a value from 0 to 1."""
    return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, score))))
