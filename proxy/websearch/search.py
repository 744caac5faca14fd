"""The engines that are set up, behind one function."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from ..cancel import Cancel
from ..errors import BadRequest, Forbidden, Unsupported, UpstreamFault, UpstreamTimeout
from .engines import Engine
from .metasearch import Metasearch
from .reading import Reading
from .values import Result

MOST = 20
MOST_QUERY = 1000  # characters
KEPT, KEPT_SECONDS = 256, 900.0
SHARE = 4  # passages of one page

ALIASES = {"duckduckgo": "ddgs", "searx": "searxng"}
"""Names that Langchain-Chatchat's clients have for them."""


class WebSearch:
    """`engines` in order, the first is the one that is meant where none is named. `seconds` bound a
    search, its reading of pages included. `open_only`: pages are read of the open internet alone.

    What was found is kept for a while: a conversation's earlier results are laid out again as they
    were, and nobody is asked twice."""

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
        self._reading = Reading()
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, int, bool], tuple[float, tuple[Result, ...]]] = (
            OrderedDict()
        )

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
    ) -> tuple[Result, ...]:
        """What an engine finds. `split`: the pages are read, and a result's snippet becomes the
        passages of its page that fit the query, where there are any.

        Raises Forbidden (no engine is set up), Unsupported (not this one), BadRequest,
        UpstreamFault, UpstreamTimeout, Cancelled."""
        chosen = self._engine(engine)
        query = " ".join(query.split())[:MOST_QUERY]
        if not query:
            raise BadRequest("there is nothing to search for", param="query")
        count = max(1, min(count, MOST))
        key = (chosen.name, query, count, split)
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
                self._kept.popitem(last=False)
        return results

    def remembered(
        self, query: str, engine: str = "", count: int = 5, *, split: bool = False
    ) -> tuple[Result, ...]:
        """What was found a while ago; nothing is asked for. Raises as `search` for the engine."""
        query = " ".join(query.split())[:MOST_QUERY]
        key = (self._engine(engine).name, query, max(1, min(count, MOST)), split)
        return self._remembered(key) or ()

    def close(self) -> None:
        self._reading.close()
        for engine in self._engines.values():
            if isinstance(engine, Metasearch):
                engine.close()

    def _engine(self, name: str) -> Engine | Metasearch:
        if not self._engines:
            raise Forbidden("no search engine is set up here: the setting is --search-engine")
        if not name:
            return next(iter(self._engines.values()))
        found = self._engines.get(ALIASES.get(name, name))
        if found is None:
            raise Unsupported(
                f"the search engine {name[:40]!r} is not set up here: {', '.join(self._engines)}",
                param="engine",
            )
        return found

    def _remembered(self, key: tuple[str, str, int, bool]) -> tuple[Result, ...] | None:
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or self._clock() - kept[0] > KEPT_SECONDS:
                return None
            return kept[1]

    def _read(
        self, results: Sequence[Result], query: str, cancel: Cancel, end: float
    ) -> tuple[Result, ...]:
        """A page that cannot be had keeps its snippet."""
        urls = [one.url for one in results]
        try:
            texts = self._reading.passages(
                urls, query, SHARE, cancel, max(0.1, end - self._clock()), open_only=self._open_only
            )
        except (UpstreamFault, UpstreamTimeout):
            return tuple(results)
        return tuple(
            Result(one.title, one.url, text or one.snippet)
            for one, text in zip(results, texts, strict=True)
        )
