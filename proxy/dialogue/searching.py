"""Searches that an answer makes: the built-in tools of /v1/responses."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from ..core.events import Batch, Event, Found, Searched
from ..core.request import CompletionRequest, Search, Tool, ToolCall
from ..errors import Cancelled, GatewayError
from ..runtime.cancel import Cancel
from .background import run_with_ticks
from .events import Citation, arguments_of
from .finding import CitationNumbers, Finder, context, offered


class SearchRunner:
    """Makes these searches for the owner. `seconds` is the limit of each, `interval` the seconds
    between ticks."""

    def __init__(
        self,
        finder: Finder,
        searches: Sequence[Search],
        owner: str,
        cancel: Cancel,
        seconds: float,
        interval: float,
    ) -> None:
        self._finder = finder
        self._searches = {search.name: search for search in searches}
        self._owner = owner
        self._cancel = cancel
        self._seconds = seconds
        self._interval = interval
        self._numbers = CitationNumbers()

    def listed(self) -> list[Event]:
        return []

    def tools(self) -> Sequence[Tool]:
        return [offered(search) for search in self._searches.values()]

    def prepare(self, request: CompletionRequest) -> None:
        return None

    def run(self, call: ToolCall) -> Generator[Batch, None, str]:
        search = self._searches[call.name]
        query = _query(call)
        yield [Searched(search.kind, query)]
        work = run_with_ticks(
            lambda cancel: self._found(search, query, cancel),
            self._cancel,
            self._seconds,
            self._interval,
        )
        try:
            while True:
                try:
                    next(work)
                except StopIteration as finished:
                    cited, _ = self._numbers.add(finished.value)
                    break
                yield []
        except Cancelled:
            raise
        except GatewayError as error:
            yield [Searched(search.kind, query, over=True, failed=True)]
            return f"Error: {error.message}"
        finally:
            work.close()
        found = tuple(
            Found(
                number=citation.number,
                title=citation.title,
                text=citation.text,
                url=citation.url,
                file_id=citation.document_id,
                score=citation.score,
            )
            for citation in cited
        )
        yield [Searched(search.kind, query, over=True, found=found)]
        return context(cited) or "No results."

    def close(self) -> None:
        """Nothing is kept open."""

    def _found(self, search: Search, query: str, cancel: Cancel) -> list[Citation]:
        return self._finder.result(search, self._owner, query, cancel) if query else []


def _query(call: ToolCall) -> str:
    query = (arguments_of(call) or {}).get("query")
    return query.strip() if isinstance(query, str) else ""
