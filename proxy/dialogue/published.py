"""Tools that clients call themselves, without a model: searches, and those of `--tools`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from ..agent.functions import RunnableTool, ToolError
from ..core.request import Tool
from ..runtime.cancel import Cancel
from .events import DialogueRequest
from .finding import KNOWLEDGE, WEB, CitationNumbers, Finder, context

NONE_FOUND = "No results."
T = TypeVar("T", bound=msgspec.Struct)

_Query = Annotated[str, msgspec.Meta(min_length=1, max_length=1000, description="the search query")]
_Count = Annotated[int, msgspec.Meta(ge=1, le=20, description="the number of results")]
_Bases = Annotated[
    list[str],
    msgspec.Meta(max_length=32, description="names of knowledge bases; none: all of them"),
]
_Engine = Annotated[
    str, msgspec.Meta(max_length=40, description="the search engine; none: the first one")
]


class _KnowledgeQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    query: _Query
    bases: _Bases = []
    count: _Count = 5


class _WebQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    query: _Query
    engine: _Engine = ""
    count: _Count = 5


def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON schema of a tool's arguments."""
    schema = msgspec.json.schema(kind)
    found: dict[str, Any] = dict(schema["$defs"][kind.__name__])
    found.pop("title", None)
    return found


def arguments(kind: type[T], given: Mapping[str, Any]) -> T:
    """Raises ToolError."""
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise ToolError(f"the arguments are invalid: {error}") from None


class KnowledgeTool(NamedTuple):
    """Searches the owner's knowledge bases."""

    finder: Finder
    owner: str

    @property
    def tool(self) -> Tool:
        return _KNOWLEDGE

    def call(self, given: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        """Raises NotFound for an unknown base, besides what tools raise."""
        asked = arguments(_KnowledgeQuery, given)
        request = DialogueRequest(
            kind="agent",
            messages=(),
            bases=tuple(asked.bases),
            top_k=asked.count,
            owner=self.owner,
        )
        found = self.finder.documents(request, self.finder.bases(request), asked.query)
        return context(CitationNumbers().add(found)[0]) or NONE_FOUND


class WebTool(NamedTuple):
    """Searches the web."""

    finder: Finder

    @property
    def tool(self) -> Tool:
        return _WEB

    def call(self, given: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        asked = arguments(_WebQuery, given)
        request = DialogueRequest(
            kind="search", messages=(), engine=asked.engine, top_k=asked.count
        )
        found = self.finder.pages(request, asked.query, cancel)
        cited = CitationNumbers().add(found)[0]
        texts = [f"[{one.number}] {one.title}\n{one.url}\n{one.text}" for one in cited]
        return "\n\n".join(texts) or NONE_FOUND


def searches(finder: Finder, owner: str) -> dict[str, RunnableTool]:
    """The searches that are configured, by name."""
    tools: dict[str, RunnableTool] = {}
    if finder.knows:
        tools[KNOWLEDGE] = KnowledgeTool(finder, owner)
    if finder.web is not None:
        tools[WEB] = WebTool(finder)
    return tools


_KNOWLEDGE = Tool(
    KNOWLEDGE, "Search the documents of the knowledge bases", schema_of(_KnowledgeQuery)
)
_WEB = Tool(WEB, "Search the web", schema_of(_WebQuery))
