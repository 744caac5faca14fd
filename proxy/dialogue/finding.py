"""Where a dialogue finds what it rests on: knowledge bases and the web, as citations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ..agent.values import ToolError
from ..cancel import Cancel
from ..core.request import Search, Tool
from ..errors import Forbidden
from ..websearch import Result, WebSearch
from .evidence import Ledger, context
from .values import Citation, DialogueRequest, Sources

KNOWLEDGE, WEB = "knowledge_search", "web_search"
"""Names of an agent's tools."""


class Hit(Protocol):
    """A chunk that was found, as `Knowledge.search` gives it."""

    @property
    def chunk_id(self) -> str: ...
    @property
    def document_id(self) -> str: ...
    @property
    def base_id(self) -> str: ...
    @property
    def filename(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def score(self) -> float: ...


class Base(Protocol):
    @property
    def id(self) -> str: ...


class Finds(Protocol):
    """What a dialogue needs of `Knowledge`."""

    def bases(self, owner: str) -> Iterable[Base]: ...

    def base(self, owner: str, id_or_name: str) -> Base: ...

    def search(
        self,
        owner: str,
        base_ids: Sequence[str],
        query: str,
        top_k: int = 3,
        score_threshold: float | None = None,
        files: Sequence[str] | None = None,
    ) -> Sequence[Hit]: ...


class Member(Protocol):
    @property
    def file_id(self) -> str: ...


class Stores(Protocol):
    """What a search in files needs of `VectorStores`."""

    def search(
        self,
        owner: str,
        base_ids: Sequence[str],
        queries: Sequence[str],
        most: int,
        threshold: float = 0.0,
        wanted: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> Sequence[tuple[Hit, Member | None]]: ...


class Finder:
    """`knowledge`, `web` and `stores` are None where they are not set up."""

    def __init__(
        self, knowledge: Finds | None, web: WebSearch | None, stores: Stores | None = None
    ) -> None:
        self._knowledge = knowledge
        self.web = web
        self.stores = stores

    def bases(self, request: DialogueRequest) -> list[str]:
        """Ids of the bases that are asked for; an agent that names none has all of its owner's.

        Raises Forbidden where there is no knowledge, NotFound for a base that is not there."""
        known = self._known()
        if not request.bases and request.kind == "agent":
            return [base.id for base in known.bases(request.owner)]
        return [known.base(request.owner, base).id for base in request.bases]

    def documents(
        self, request: DialogueRequest, bases: Sequence[str], query: str
    ) -> list[Citation]:
        found = self._known().search(
            request.owner, bases, query, request.top_k, request.score_threshold, request.files
        )
        return [_cited(hit) for hit in found]

    def pages(self, request: DialogueRequest, query: str, cancel: Cancel | None) -> list[Citation]:
        """Results of the web; without `cancel` only those that are remembered."""
        web = self.searched()
        how: dict[str, Any] = {"count": request.top_k, "split": request.split}
        if cancel is None:
            found = web.remembered(query, request.engine, **how)
        else:
            found = web.search(query, request.engine, **how, cancel=cancel)
        return [_page(one) for one in found]

    def result(self, search: Search, owner: str, query: str, cancel: Cancel) -> list[Citation]:
        """What a search of an answer finds. The document's id of a file is the file's."""
        if search.kind == "web":
            found = self.searched().search(query, count=search.count, cancel=cancel)
            return [_page(one) for one in found]
        assert self.stores is not None, "a search that cannot be made is left out"
        hits = self.stores.search(
            owner, search.stores, [query], search.count, search.threshold, search.wanted
        )
        return [
            msgspec.structs.replace(
                _cited(hit), document_id=member.file_id if member else hit.document_id
            )
            for hit, member in hits
        ]

    def searched(self) -> WebSearch:
        """Raises Forbidden where no engine is set up."""
        if self.web is None:
            raise Forbidden("no search engine is set up here: the setting is --search-engine")
        return self.web

    def tools(
        self, request: DialogueRequest, allowed: Sequence[str], ledger: Ledger, told: list[Sources]
    ) -> Mapping[str, Searches]:
        """Both as tools of an agent, where they are allowed and to be had. What they find is
        numbered by `ledger` and put into `told`."""
        found = {}
        if KNOWLEDGE in allowed and self._knowledge is not None and (bases := self.bases(request)):
            found[KNOWLEDGE] = Searches(
                _KNOWLEDGE,
                lambda query, _: self.documents(request, bases, query),
                ledger,
                told,
            )
        if WEB in allowed and self.web is not None:
            found[WEB] = Searches(
                _WEB, lambda query, cancel: self.pages(request, query, cancel), ledger, told
            )
        return found

    def _known(self) -> Finds:
        if self._knowledge is None:
            raise Forbidden("there are no knowledge bases here: pip install slotproxy[knowledge]")
        return self._knowledge


def _cited(hit: Hit) -> Citation:
    return Citation(
        number=0,
        title=hit.filename,
        text=hit.text,
        place=hit.place,
        base_id=hit.base_id,
        document_id=hit.document_id,
        chunk_id=hit.chunk_id,
        score=hit.score,
    )


def _page(result: Result) -> Citation:
    return Citation(number=0, title=result.title, text=result.snippet, url=result.url)


class Searches:
    """A search as a tool of an agent."""

    def __init__(
        self,
        tool: Tool,
        find: Callable[[str, Cancel], list[Citation]],
        ledger: Ledger,
        told: list[Sources],
    ) -> None:
        self.tool = tool
        self._find = find
        self._ledger = ledger
        self._told = told

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        query = arguments.get("query")
        if not isinstance(query, str) or not query.strip():
            raise ToolError("query must be a text to search for")
        cited, _ = self._ledger.add(self._find(query, cancel))
        if cited:
            self._told.append(Sources(cited))
        return context(cited) or "Nothing was found."


def offered(search: Search) -> Tool:
    """A search of an answer as the model is told of it."""
    what = "Search the web" if search.kind == "web" else "Search the files that were given to you"
    return _tool(search.name, f"{what}. Name what you use of it by its number, like [1].")


def _tool(name: str, description: str) -> Tool:
    query = {"type": "string", "description": "what to search for", "maxLength": 200}
    return Tool(
        name,
        description,
        {
            "type": "object",
            "properties": {"query": query},
            "required": ["query"],
            "additionalProperties": False,
        },
    )


_KNOWLEDGE = _tool(KNOWLEDGE, "Search the documents of the knowledge base")
_WEB = _tool(WEB, "Search the web")
