"""The search index: one shelf of words and vectors, whose results are fused."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec import structs
from sqlalchemy import Engine

from ...errors import (
    BackendDown,
    BadRequest,
    Cancelled,
    GatewayError,
    NoBackend,
    QueueFull,
    QueueTimeout,
    Unsupported,
    UpstreamTimeout,
)
from ...runtime.blocking import run_in_native_thread
from . import lexical
from .postgres import PostgresShelf
from .records import Embed, IndexEntry, IndexHit, IndexRow, QueryTerms, Rank
from .sqlite import SqliteShelf

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


IndexBackend = SqliteShelf | PostgresShelf
"""Stores rows by base. `documents` None means all; an unknown base is empty."""

log = logging.getLogger("slotproxy.knowledge")

TRIES, PAUSE = 30, 2.0  # seconds between two tries of an unavailable backend: a minute in total
AFTER_TIMEOUT = 10  # tries that a timeout counts as, since it has taken long already
DEPTH = 50  # rows of each ranking to fuse, and at least as many as are requested
# A search reads at most this many rows for all its terms together, which bounds its time. But some
# terms are always used, however common: two common words together are significant.
POSTINGS, SURELY = 4000, 3
# Beside vectors, chunks vote by their words only from this nearness on: every text shares a "must"
# or a 的 with a question, and two weak votes would outdo the chunk that is nearest in meaning.
# Measured by benchmarks.meaning.
STRONG = 0.4


K = 60  # from the paper: how much a first rank outweighs a second
RERANKED = 20  # hits to rerank, and at least as many as are requested
MOST = 4000  # characters of a text sent to the model

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


class Index:
    """`embed` None: search by words only. Thread-safe."""

    def __init__(
        self,
        shelf: IndexBackend,
        embed: Embed | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._shelf = shelf
        self._embed = embed
        self._pause = pause

    @property
    def embeds(self) -> bool:
        return self._embed is not None

    def census(self) -> Mapping[str, tuple[int, int]]:
        """Return, for each document, the number of its chunks and how many of them have vectors."""
        return self._shelf.census()

    def add(
        self, base_id: str, entries: Sequence[IndexEntry], model: str = "", *, wait: bool = True
    ) -> None:
        """Index these chunks, with vectors from `model` ("": the backend's own). With `wait`, retry
        while the backend is unavailable. Raises what `embed` raises, and then indexes none."""
        self.prepared(base_id, entries, model, wait=wait)()

    def prepared(
        self, base_id: str, entries: Sequence[IndexEntry], model: str = "", *, wait: bool = True
    ) -> Callable[[], None]:
        """Like `add`, but return what writes the chunks, which does not take long."""
        vectors = self._vectors(model, [one.text for one in entries], TRIES if wait else 0)
        rows = run_in_native_thread(
            lambda: [_row(*pair) for pair in zip(entries, vectors, strict=True)]
        )
        return partial(self._shelf.put, base_id, rows)

    def remove(self, document_id: str) -> None:
        self._shelf.drop(document=document_id)

    def remove_chunks(self, chunk_ids: Collection[str]) -> None:
        self._shelf.drop(chunks=chunk_ids)

    def remove_base(self, base_id: str) -> None:
        self._shelf.drop(base=base_id)

    def purge(self) -> None:
        """Remove all traces of removed chunks from the shelf's files."""
        self._shelf.purge()

    def search(
        self,
        base_ids: Iterable[str],
        query: str,
        count: int,
        *,
        documents: Collection[str] | None = None,
        models: Sequence[str] = (),
    ) -> tuple[IndexHit, ...]:
        """Return at most `count` chunks of these bases, best first, only from `documents` if given.
        `models` are those of the bases. Without vectors, search by words only. Raises Cancelled."""
        bases = list(dict.fromkeys(base_ids))
        depth = max(DEPTH, count)
        hits: dict[str, IndexHit] = {}
        by_words: list[tuple[float, str]] = []
        by_vector: list[tuple[float, str]] = []
        asked = lexical.question(query)
        for base in bases:
            for raw, hit in self._by_words(base, asked, documents, depth):
                hits[hit.chunk_id] = hit
                by_words.append((raw, hit.chunk_id))
        vectors: dict[str, tuple[float, ...]] = {}
        for base, model in zip(bases, models or [""] * len(bases), strict=True):
            if model not in vectors:
                vectors[model] = self._vector(model, query)
            for hit in self._by_vector(base, vectors[model], documents, depth):
                by_vector.append((hit.score, hit.chunk_id))
                known = hits.get(hit.chunk_id)
                if known is None or known.score < hit.score:
                    hits[hit.chunk_id] = hit
        rankings = [_ranking(scored)[:depth] for scored in (by_words, by_vector)]
        words, near = ({one: n for n, one in enumerate(ranked, 1)} for ranked in rankings)
        if by_vector:
            strong = sum(raw >= STRONG for raw, _ in by_words)
            rankings = [rankings[0][:strong], rankings[1]]
        order = dict.fromkeys([*fused(rankings), *words])
        return tuple(
            structs.replace(
                hits[chunk], lexical_rank=words.get(chunk, 0), vector_rank=near.get(chunk, 0)
            )
            for chunk in list(order)[:count]
        )

    def close(self) -> None:
        self._shelf.close()

    def _vectors(self, model: str, texts: Sequence[str], tries: int) -> Sequence[tuple[float, ...]]:
        if self._embed is None:
            return [()] * len(texts)
        while tries > 0:
            try:
                return embedded(self._embed, model, texts)
            except (NoBackend, BackendDown, QueueFull, QueueTimeout):
                tries -= 1
            except UpstreamTimeout:
                tries -= AFTER_TIMEOUT
            self._pause(PAUSE)
        return embedded(self._embed, model, texts)

    def _by_words(
        self,
        base: str,
        asked: Sequence[lexical.Term],
        documents: Collection[str] | None,
        depth: int,
    ) -> list[tuple[float, IndexHit]]:
        size = self._shelf.size(base)
        if not size.rows or not asked:
            return []
        having = self._shelf.having(base, [term.text for term in asked])
        weighed = lexical.weights(asked, size.rows, having)
        chosen = {term: weighed[term] for term in _affordable(having)}
        average = max(1.0, size.terms / size.rows)
        rows = self._shelf.matching(base, chosen, documents, depth) if chosen else []

        marked = [(term, lexical.joined([term])) for term in having]

        def near(row: QueryTerms) -> tuple[float, IndexHit]:
            counts = {term: row.terms.count(mark) for term, mark in marked}
            raw = lexical.nearness(counts, weighed, row.length / average)
            return raw, IndexHit(
                chunk_id=row.chunk_id,
                document_id=row.document_id,
                base_id=base,
                score=min(1.0, raw),
            )

        return run_in_native_thread(lambda: [near(row) for row in rows])

    def _vector(self, model: str, query: str) -> tuple[float, ...]:
        """Return the query's vector; () if none is available."""
        if self._embed is None:
            return ()
        try:
            return embedded(self._embed, model, [query])[0]
        except Cancelled:
            raise
        except GatewayError as error:
            log.warning("falling back to keyword search: %s", error.message)
            return ()

    def _by_vector(
        self, base: str, vector: tuple[float, ...], documents: Collection[str] | None, depth: int
    ) -> list[IndexHit]:
        near = self._shelf.nearest(base, vector, documents, depth) if vector else []
        return [
            IndexHit(
                chunk_id=one.chunk_id,
                document_id=one.document_id,
                base_id=base,
                score=max(0.0, min(1.0, one.cosine)),
            )
            for one in near
        ]


def _row(one: IndexEntry, vector: tuple[float, ...]) -> IndexRow:
    terms = list(lexical.terms(one.text))
    return IndexRow(one.chunk_id, one.document_id, lexical.joined(terms), len(terms), vector)


def _ranking(scored: list[tuple[float, str]]) -> list[str]:
    return [chunk for _, chunk in sorted(scored, key=lambda pair: -pair[0])]


def _affordable(having: Mapping[str, int]) -> list[str]:
    """Return the rarest of the terms in a base, as many as a search may read."""
    chosen: list[str] = []
    left = POSTINGS
    for term, rows in sorted(having.items(), key=lambda pair: pair[1]):
        left -= rows
        if left < 0 and len(chosen) >= SURELY:
            break
        chosen.append(term)
    return chosen


def open_shelf(engine: Engine, file: Path) -> IndexBackend:
    """Open the shelf in `engine`'s PostgreSQL database, or else in the SQLite file `file`."""
    if engine.dialect.name == "postgresql":
        return PostgresShelf(engine)
    return SqliteShelf(file)


def fused(rankings: Iterable[Sequence[H]]) -> list[H]:
    """Merge rankings by reciprocal rank fusion (Cormack, Clarke and Büttcher 2009), which needs no
    common scale of scores; among equals, the one seen first comes first."""
    points: dict[H, float] = {}
    for ranking in rankings:
        for place, one in enumerate(ranking, start=1):
            points[one] = points.get(one, 0.0) + 1.0 / (K + place)
    return sorted(points, key=lambda one: -points[one])


def reranked(
    rank: Rank | None, query: str, hits: Sequence[T], text: Callable[[T], str]
) -> list[tuple[T, float | None]]:
    """Order the hits by a ranking model: best first, each with its score (0 to 1). Without a
    ranker, or if it fails, the order stays and the scores are None."""
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
