"""Web search with the configured engines, including a cache of results."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ..errors import BadRequest, Forbidden, Unsupported, UpstreamFault, UpstreamTimeout
from ..runtime.cancel import Cancel
from .engines import Engine, Metasearch
from .guard import WebResult
from .reading import GRACE, START, PageReader

MOST = 20
MOST_QUERY = 1000  # characters
KEPT, KEPT_SECONDS = 256, 900.0
SHARE = 4  # passages per page

ALIASES = {"duckduckgo": "ddgs", "searx": "searxng"}
"""Names of engines in Langchain-Chatchat's clients."""

Key = tuple[str, str, int, bool]
"""Of cached results: the engine's name, the query, the number of results, and `split`."""


class WebSearch:
    """The first of `engines` is the default. `seconds` limits a search, including the reading of
    its pages. With `open_only`, pages are read from the public internet only.

    Results are cached for a while, so that a conversation's earlier results stay the same and no
    engine is asked twice."""

    def __init__(
        self,
        engines: Sequence[Engine | Metasearch],
        *,
        seconds: float,
        clock: Callable[[], float],
        open_only: bool = True,
    ) -> None:
        self._engines = {engine.name: engine for engine in engines}
        self.seconds = seconds
        self._clock = clock
        self._open_only = open_only
        self._reading = PageReader()
        self._lock = threading.Lock()
        self._kept: dict[Key, tuple[float, tuple[WebResult, ...]]] = {}

    @property
    def longest(self) -> float:
        """Seconds after which a search is over in any case: with the start of a child."""
        return self.seconds + START + GRACE

    @property
    def engines(self) -> tuple[str, ...]:
        return tuple(self._engines)

    def search(
        self,
        query: str,
        engine: str = "",
        count: int = 5,
        *,
        split: bool = False,
        cancel: Cancel | None = None,
    ) -> tuple[WebResult, ...]:
        """The results of an engine. With `split`, pages are read, and a result's snippet is
        replaced by the passages of its page that are relevant to the query, if any.

        Raises Forbidden (no engine is configured), Unsupported (not this one), BadRequest,
        UpstreamFault, UpstreamTimeout, Cancelled."""
        chosen = self._engine(engine)
        key = _key(chosen, query, count, split)
        _, query, count, _ = key
        if not query:
            raise BadRequest("the search query is empty", param="query")
        kept = self._remembered(key)
        if kept is not None:
            return kept
        cancel = cancel or Cancel()
        end = self._clock() + self.seconds
        if isinstance(chosen, Metasearch):
            found = chosen.search(query, count, cancel, self.seconds)
        else:
            asked = chosen.request(query, count)
            found = self._reading.results(chosen.name, asked, count, cancel, self.seconds)
        results = tuple(found[:count])
        if split:
            results = self._read(results, query, cancel, end)
        with self._lock:
            self._kept[key] = self._clock(), results
            while len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
        return results

    def remembered(
        self, query: str, engine: str = "", count: int = 5, *, split: bool = False
    ) -> tuple[WebResult, ...]:
        """The cached results, without a search. Raises the same errors for the engine as
        `search`."""
        return self._remembered(_key(self._engine(engine), query, count, split)) or ()

    def close(self) -> None:
        self._reading.close()
        for engine in self._engines.values():
            if isinstance(engine, Metasearch):
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

    def _read(
        self, results: Sequence[WebResult], query: str, cancel: Cancel, end: float
    ) -> tuple[WebResult, ...]:
        """Replaces snippets by passages; a page that cannot be read keeps its snippet."""
        urls = [result.url for result in results]
        try:
            texts = self._reading.passages(
                urls, query, SHARE, cancel, max(0.1, end - self._clock()), open_only=self._open_only
            )
        except (UpstreamFault, UpstreamTimeout):
            return tuple(results)
        return tuple(
            WebResult(result.title, result.url, text or result.snippet)
            for result, text in zip(results, texts, strict=True)
        )


def _key(engine: Engine | Metasearch, query: str, count: int, split: bool) -> Key:
    return engine.name, " ".join(query.split())[:MOST_QUERY], max(1, min(count, MOST)), split
