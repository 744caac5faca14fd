"""Finds the sources of a dialogue, in knowledge bases and on the web, as citations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Struct

from ..accounts.rights import Permissions
from ..agent.functions import RunnableTool, ToolError, local_tool, schema_of
from ..core.events import NONE_FOUND, Citation, passages
from ..core.request import Message, Search, Tool
from ..errors import Forbidden, NotFound
from ..prompting.template.dialogues import Layouts
from ..runtime.cancel import Cancel
from ..websearch.engines import MOST, WebSearch
from .events import DialogueRequest, Sources

if TYPE_CHECKING:  # the extra `knowledge`
    from ..knowledge.index.records import Hit
    from ..knowledge.service import Knowledge
    from ..knowledge.stores import VectorStores

# Inserts documents into a conversation so that its beginning stays stable from turn to turn.
# Pure.
#
# Clients send questions and answers, but no documents: those of earlier turns are found again and
# inserted as before. Documents for the first question go into the system message, after the
# instructions; new ones for a later question go before that question. So each turn's prompt
# begins with the whole prompt of the previous turn, and a server evaluates only the rest. A
# document keeps its number for the whole conversation.
EMPTY = "empty"  # a folder's optional template for searches without results
MOST_SITES = 8  # that an engine is asked for; the query has at most 400 characters
MOST_TURNS = 16  # earlier questions whose documents are inserted again


class CitationNumbers:
    """Numbers citations in the order of their first occurrence."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def add(self, hits: Iterable[Citation]) -> tuple[tuple[Citation, ...], tuple[Citation, ...]]:
        """All citations with numbers, and those that are new."""
        cited, new = [], []
        for citation in hits:
            key = citation.chunk_id or citation.url
            is_numbered = key in self._numbers
            number = self._numbers.setdefault(key, len(self._numbers) + 1)
            citation = msgspec.structs.replace(citation, number=number)
            cited.append(citation)
            if not is_numbered:
                new.append(citation)
        return tuple(cited), tuple(new)


def insert_documents(
    layouts: Layouts,
    folder: str,
    template: str,
    messages: Sequence[Message],
    by_question: Sequence[Sequence[Citation]],
) -> tuple[tuple[Message, ...], tuple[Citation, ...]]:
    """The conversation with documents inserted, and the citations of its last question.
    `by_question` has the citations of each question (user message), in order.

    Raises InvalidParameter like Layouts.render."""
    numbers = CitationNumbers()
    if not any(by_question) and EMPTY in layouts.names(folder):
        return layouts.render(folder, EMPTY, messages), ()
    if layouts.layout(folder, template).asks:
        # This template puts documents and question into one message: only the last question has
        # any.
        cited, _ = numbers.add(by_question[-1])
        return layouts.render(folder, template, messages, passages(cited)), cited
    head = ""
    out: list[Message] = []
    cited = ()
    turns = iter(by_question)
    for message in messages:
        if message.role == "user":
            cited, new = numbers.add(next(turns))
            if new and not head:
                head = passages(new)
            elif new:
                longer = message.after(f"{passages(new)}\n\n")
                message = msgspec.structs.replace(longer, cites=True)
        out.append(message)
    return layouts.render(folder, template, out, head), cited


KNOWLEDGE, WEB = "knowledge_search", "web_search"
"""Names of the agent's search tools."""
DESCRIPTIONS = {
    KNOWLEDGE: "Search the documents of the knowledge bases",
    WEB: "Search the web",
}


class Finder(Struct, eq=False):
    """Searches the configured sources; `knowledge`, `web` and `stores` are None if not
    configured."""

    knowledge: Knowledge | None
    web: WebSearch | None
    stores: VectorStores | None = None

    def within(self, may: Permissions) -> Finder:
        """The same for a caller with these rights, which may leave out knowledge bases."""
        if self.knowledge is None or not may.bounds_knowledge:
            return self
        stores = None if self.stores is None else self.stores.within(may)
        return Finder(self.knowledge.within(may), self.web, stores)

    def bases(self, owner: str, names: Sequence[str]) -> list[str]:
        """Ids of the owner's knowledge bases of these names or ids; of all if there are none.

        Raises Forbidden without knowledge, and NotFound for an unknown base."""
        knowledge = self._known()
        if not names:
            return [base.id for base in knowledge.bases(owner)]
        return [knowledge.base(owner, name).id for name in names]

    def documents(
        self,
        owner: str,
        bases: Sequence[str],
        query: str,
        top_k: int,
        score_threshold: float | None = None,
    ) -> list[Citation]:
        hits = self._known().search(owner, bases, query, top_k, score_threshold)
        return [_cited(hit) for hit in hits]

    def pages(self, query: str, engine: str, count: int, cancel: Cancel | None) -> list[Citation]:
        """Web results; without `cancel` only cached ones."""
        return list(self.searched().search(query, engine, count, cancel=cancel))

    def result(self, search: Search, owner: str, query: str, cancel: Cancel) -> list[Citation]:
        """The results of a search that an answer makes. In file searches the citation's document_id
        is the id of the file."""
        if search.kind == "web":
            return self._on_sites(search, query, cancel)
        assert self.stores is not None, "an unavailable search is skipped"
        hits = self.stores.search(
            owner, search.stores, [query], search.count, search.threshold, search.wanted
        )
        return [
            msgspec.structs.replace(
                _cited(hit), document_id=member.file_id if member else hit.document_id
            )
            for hit, member in hits
        ]

    def _on_sites(self, search: Search, query: str, cancel: Cancel) -> list[Citation]:
        if not (search.sites or search.blocked):
            return self.pages(query, "", search.count, cancel)
        # Engines know this operator; what they find elsewhere is left out.
        sites = " OR ".join(f"site:{site.partition('*')[0]}" for site in search.sites[:MOST_SITES])
        pages = self.pages(f"{query} {sites}", "", MOST, cancel)
        return [page for page in pages if search.permits(page.url)][: search.count]

    def check(self, searches: Iterable[Search], owner: str) -> None:
        """Raises Forbidden for a search of vector stores that the caller may not use. Missing ones
        are an error of the search itself."""
        if self.knowledge is not None:
            for store in chain.from_iterable(search.stores for search in searches):
                with suppress(NotFound):
                    self.knowledge.base(owner, store)

    def searched(self) -> WebSearch:
        """The web search. Raises Forbidden if none is configured."""
        if self.web is None:
            raise Forbidden("web search is not configured: set --search-engine")
        return self.web

    def tools(
        self,
        request: DialogueRequest,
        allowed: Sequence[str],
        numbers: CitationNumbers,
        sources: list[Sources],
    ) -> dict[str, RunnableTool]:
        """The searches that are allowed and configured, as tools of an agent. Their results are
        numbered by `numbers` and appended to `sources`."""

        def tool(name: str, find: Callable[[str, Cancel], list[Citation]]) -> RunnableTool:
            def search(arguments: _Query, cancel: Cancel) -> str:
                if not arguments.query.strip():
                    raise ToolError("query must be a search string")
                cited, _ = numbers.add(find(arguments.query, cancel))
                if cited:
                    sources.append(Sources(cited))
                return passages(cited) or NONE_FOUND

            return local_tool(name, DESCRIPTIONS[name], _Query, search)

        def in_bases(query: str, cancel: Cancel) -> list[Citation]:
            return self.documents(
                request.owner, bases, query, request.top_k, request.score_threshold
            )

        def on_web(query: str, cancel: Cancel) -> list[Citation]:
            return self.pages(query, request.engine, request.top_k, cancel)

        tools: dict[str, RunnableTool] = {}
        bases: list[str] = []
        if KNOWLEDGE in allowed and self.knowledge is not None:
            bases = self.bases(request.owner, request.bases)
        if bases:
            tools[KNOWLEDGE] = tool(KNOWLEDGE, in_bases)
        if WEB in allowed and self.web is not None:
            tools[WEB] = tool(WEB, on_web)
        return tools

    def published(self, owner: str) -> dict[str, RunnableTool]:
        """The searches that are configured, by name, for clients that call them without a model."""

        def in_bases(query: _KnowledgeQuery, cancel: Cancel) -> str:
            """Raises NotFound for an unknown base, besides what tools raise."""
            bases = self.bases(owner, query.bases)
            hits = self.documents(owner, bases, query.query, query.count)
            return passages(CitationNumbers().add(hits)[0]) or NONE_FOUND

        def on_web(query: _WebQuery, cancel: Cancel) -> str:
            pages = self.pages(query.query, query.engine, query.count, cancel)
            cited, _ = CitationNumbers().add(pages)
            texts = [f"[{page.number}] {page.title}\n{page.url}\n{page.text}" for page in cited]
            return "\n\n".join(texts) or NONE_FOUND

        tools: dict[str, RunnableTool] = {}
        if self.knowledge is not None:
            tools[KNOWLEDGE] = local_tool(
                KNOWLEDGE, DESCRIPTIONS[KNOWLEDGE], _KnowledgeQuery, in_bases
            )
        if self.web is not None:
            tools[WEB] = local_tool(WEB, DESCRIPTIONS[WEB], _WebQuery, on_web)
        return tools

    def _known(self) -> Knowledge:
        if self.knowledge is None:
            raise Forbidden("knowledge bases need the extra `knowledge`, which is not installed")
        return self.knowledge


def _cited(hit: Hit) -> Citation:
    return Citation(
        title=hit.filename,
        text=hit.text,
        place=hit.place,
        base_id=hit.base_id,
        document_id=hit.document_id,
        chunk_id=hit.chunk_id,
        score=hit.score,
    )


_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1000, description="the search query")]
_Count = Annotated[int, msgspec.Meta(ge=1, le=20, description="the number of results")]


class _Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model writes: a short text, as it may not find an end."""

    query: Annotated[str, msgspec.Meta(max_length=200, description="the search query")]


class _KnowledgeQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    query: _Text
    bases: Annotated[
        list[str],
        msgspec.Meta(max_length=32, description="names of knowledge bases; none: all of them"),
    ] = []
    count: _Count = 5


class _WebQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    query: _Text
    engine: Annotated[
        str, msgspec.Meta(max_length=40, description="the search engine; none: the first one")
    ] = ""
    count: _Count = 5


def offered(search: Search) -> Tool:
    """The tool definition of a search that an answer can make."""
    where = "the web" if search.kind == "web" else "the attached files"
    description = f"Search {where}. Cite the results you use by number, like [1]."
    return Tool(search.name, description, schema_of(_Query))
