"""The search index of chunks: one shelf of words and vectors, whose results are fused; of words
alone without an embedding backend. It can be rebuilt from the chunks; a document is done only after
`add` has returned."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
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
from .records import Embed, Hit, IndexEntry, IndexHit, IndexRow, Rank, hit_of
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
    vectors: dict[str, tuple[float, ...]] = {}
    distinct = [text for text in dict.fromkeys(texts) if text.strip()]
    for i in range(0, len(distinct), BATCH):
        part = distinct[i : i + BATCH]
        vectors.update(zip(part, map(unit, _whole(embed, model, part)), strict=True))
    return [vectors.get(text, ()) for text in texts]


def _whole(embed: Embed, model: str, part: Sequence[str]) -> Sequence[Sequence[float]]:
    try:
        return embed(model, part)
    except Unsupported:
        raise
    except BadRequest:
        if len(part) > 1:  # one of them may be too long
            return [_whole(embed, model, [text])[0] for text in part]
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

H = TypeVar("H", bound=Hashable)


class Index:
    """`embed` None: search by words only. Thread-safe."""

    def __init__(
        self,
        shelf: IndexBackend,
        embed: Embed | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.shelf = shelf
        self.embeds = embed is not None
        self._embed = embed
        self._pause = pause

    def add(self, base_id: str, entries: Sequence[IndexEntry], model: str = "") -> None:
        """Index these chunks, with vectors from `model` ("": the backend's own). Retries while the
        backend is unavailable. Raises what `embed` raises."""
        self.prepared(base_id, entries, model)()

    def prepared(
        self, base_id: str, entries: Sequence[IndexEntry], model: str = "", *, wait: bool = True
    ) -> Callable[[], None]:
        """Like `add`, but return what writes the chunks. Without `wait`, an outage is an error."""
        vectors = self._vectors(model, [entry.text for entry in entries], TRIES if wait else 0)

        def rows() -> Iterator[IndexRow]:
            for entry, vector in zip(entries, vectors, strict=True):
                terms = list(lexical.terms(entry.text))
                text = lexical.joined(terms)
                yield IndexRow(entry.chunk_id, entry.document_id, text, len(terms), vector)

        return partial(self.shelf.put, base_id, run_in_native_thread(lambda: list(rows())))

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
        terms = lexical.question(query)
        for base in bases:
            for raw, hit in self._by_words(base, terms, documents, depth):
                hits[hit.chunk_id] = hit
                by_words.append((raw, hit.chunk_id))
        vectors: dict[str, tuple[float, ...]] = {}
        for base, model in zip(bases, models or [""] * len(bases), strict=True):
            if model not in vectors:
                vectors[model] = self._vector(model, query)
            if vectors[model]:
                for hit in self.shelf.nearest(base, vectors[model], documents, depth):
                    by_vector.append((hit.score, hit.chunk_id))
                    previous = hits.get(hit.chunk_id)
                    if previous is None or previous.score < hit.score:
                        hits[hit.chunk_id] = hit
        rankings = []
        for scored in (by_words, by_vector):
            scored.sort(key=lambda pair: -pair[0])
            rankings.append([chunk for _, chunk in scored[:depth]])
        words, near = ({chunk: n for n, chunk in enumerate(ranked, 1)} for ranked in rankings)
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
        terms: Sequence[lexical.Term],
        documents: Collection[str] | None,
        depth: int,
    ) -> list[tuple[float, IndexHit]]:
        count, all_terms = self.shelf.size(base)
        if not count or not terms:
            return []
        having = self.shelf.having(base, [term.text for term in terms])
        weighed = lexical.weights(terms, count, having)
        chosen = {term: weighed[term] for term in _affordable(having)}
        average = max(1.0, all_terms / count)
        rows = self.shelf.matching(base, chosen, documents, depth) if chosen else []
        marked = [(term, lexical.joined([term])) for term in having]

        def near(row: IndexRow) -> tuple[float, IndexHit]:
            counts = {term: row.terms.count(mark) for term, mark in marked}
            raw = lexical.nearness(counts, weighed, row.length / average)
            return raw, hit_of(row.chunk_id, row.document_id, base, raw)

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
            log.warning("searching by words only: %s", error.message)
            return ()


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
    if engine.dialect.name == "postgresql":
        return PostgresShelf(engine)
    return SqliteShelf(file)


def fused(rankings: Iterable[Sequence[H]]) -> list[H]:
    """Merge rankings by reciprocal rank fusion (Cormack, Clarke and Büttcher 2009), which needs no
    common scale of scores; among equals, the one seen first comes first."""
    points: dict[H, float] = {}
    for ranking in rankings:
        for place, hit in enumerate(ranking, start=1):
            points[hit] = points.get(hit, 0.0) + 1.0 / (K + place)
    return sorted(points, key=lambda hit: -points[hit])


def reranked(rank: Rank | None, query: str, hits: list[Hit]) -> list[Hit]:
    """Order the hits by a ranking model, with its scores; if it fails, they stay as they are."""
    if rank is None or not hits:
        return hits
    try:
        scores = rank(query, [hit.text[:MOST] for hit in hits])
    except Cancelled:
        raise
    except GatewayError as error:
        log.warning("search results are not reranked: %s", error.message)
        return hits
    scored = [
        structs.replace(hit, score=share(score)) for hit, score in zip(hits, scores, strict=True)
    ]
    return sorted(scored, key=lambda hit: -hit.score)


def share(score: float) -> float:
    """Convert a ranking model's score, a logit, to a value from 0 to 1."""
    return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, score))))
