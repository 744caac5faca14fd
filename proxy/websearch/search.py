"""Web search with the configured engines, including a cache of results."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ..errors import BadRequest, Forbidden, Unsupported
from ..runtime.cancel import Cancel
from .engines import GRACE, Engine, Metasearch, WebResult

MOST = 20
MOST_QUERY = 1000  # characters
KEPT, KEPT_SECONDS = 256, 900.0

ALIASES = {"duckduckgo": "ddgs", "searx": "searxng"}
"""Names of engines in Langchain-Chatchat's clients."""

Key = tuple[str, str, int]
"""Of cached results: the engine's name, the query, and the number of results."""


class WebSearch:
    """The first of `engines` is the default. `seconds` limits a search.

    Results are cached for a while, so that a conversation's earlier results stay the same and no
    engine is asked twice."""

    def __init__(
        self, engines: Sequence[Engine | Metasearch], *, seconds: float, clock: Callable[[], float]
    ) -> None:
        self._engines = {engine.name: engine for engine in engines}
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[Key, tuple[float, tuple[WebResult, ...]]] = {}

    @property
    def longest(self) -> float:
        """Seconds after which a search is over in any case."""
        return self._seconds + 2 * GRACE

    @property
    def engines(self) -> tuple[str, ...]:
        return tuple(self._engines)

    def search(
        self, query: str, engine: str = "", count: int = 5, *, cancel: Cancel | None = None
    ) -> tuple[WebResult, ...]:
        """The results of an engine.

        Raises Forbidden (no engine is configured), Unsupported (not this one), BadRequest,
        UpstreamFault, UpstreamTimeout, Cancelled."""
        chosen = self._engine(engine)
        key = _, query, count = _key(chosen, query, count)
        if not query:
            raise BadRequest("the search query is empty", param="query")
        kept = self._remembered(key)
        if kept is not None:
            return kept
        results = tuple(chosen.search(query, count, cancel or Cancel(), self._seconds))
        with self._lock:
            self._kept[key] = self._clock(), results
            while len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
        return results

    def remembered(self, query: str, engine: str = "", count: int = 5) -> tuple[WebResult, ...]:
        """The cached results, without a search. Raises the same errors for the engine as
        `search`."""
        return self._remembered(_key(self._engine(engine), query, count)) or ()

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()

    def _engine(self, name: str) -> Engine | Metasearch:
        if not self._engines:
            raise Forbidden("web search is not configured: set --search-engine")
        if not name:
            return next(iter(self._engines.values()))
        chosen = self._engines.get(ALIASES.get(name, name))
        if chosen is None:
            raise Unsupported(
                f"the search engine {name[:40]!r} is not configured; available:"
                f" {', '.join(self._engines)}",
                param="engine",
            )
        return chosen

    def _remembered(self, key: Key) -> tuple[WebResult, ...] | None:
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or self._clock() - kept[0] > KEPT_SECONDS:
                return None
            return kept[1]


def _key(engine: Engine | Metasearch, query: str, count: int) -> Key:
    return engine.name, " ".join(query.split())[:MOST_QUERY], max(1, min(count, MOST))
