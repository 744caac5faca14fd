"""Searches as tools of an agent: where they look, what they number, when they are there."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.accounts.rights import Permissions
from proxy.agent.functions import ToolError
from proxy.core.events import Citation
from proxy.core.request import Message
from proxy.dialogue.events import DialogueRequest, Sources
from proxy.dialogue.finding import KNOWLEDGE, WEB, CitationNumbers, Finder
from proxy.errors import Forbidden
from proxy.runtime.cancel import Cancel

BOTH = (KNOWLEDGE, WEB)


class Knows:
    """Two bases, a chunk in each; `asked` are owner, bases and query."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str], str]] = []

    def within(self, may: Permissions) -> Knows:
        return self

    def bases(self, owner: str) -> Any:
        return [SimpleNamespace(id="b1"), SimpleNamespace(id="b2")]

    def base(self, owner: str, id_or_name: str) -> Any:
        return SimpleNamespace(id=id_or_name)

    def search(
        self,
        owner: str,
        base_ids: Sequence[str],
        query: str,
        top_k: int = 3,
        score_threshold: float | None = None,
    ) -> Any:
        self.asked.append((owner, list(base_ids), query))
        fields = {"document_id": "d", "text": "said", "place": "page 1", "score": 0.5}
        return [
            SimpleNamespace(chunk_id=f"c-{base}", base_id=base, filename=f"{base}.txt", **fields)
            for base in base_ids
        ]


class Web:
    engines = ("searxng",)

    def search(self, query: str, engine: str = "", count: int = 5, **_: Any) -> Any:
        return (Citation(title="Page", text="seen", url="https://p.example/"),)


def agent(**more: Any) -> DialogueRequest:
    return DialogueRequest(
        kind="agent", messages=(Message(role="user", content="q"),), owner="o", **more
    )


def test_sources_are_numbered_across_searches() -> None:
    knows, told = Knows(), list[Sources]()
    finder = Finder(knows, Web())  # type: ignore[arg-type]
    tools = finder.tools(agent(), BOTH, CitationNumbers(), told)

    def call(name: str) -> str:
        return tools[name].call({"query": "tide"}, Cancel(), 1)

    assert call(KNOWLEDGE) == "[1] b1.txt (page 1)\nsaid\n\n[2] b2.txt (page 1)\nsaid"
    assert call(WEB) == "[3] Page\nseen"
    assert call(KNOWLEDGE).startswith("[1] b1.txt"), "a document keeps its number"
    assert [[one.number for one in sources.citations] for sources in told] == [[1, 2], [3], [1, 2]]
    assert knows.asked[0] == ("o", ["b1", "b2"], "tide")


def test_agent_can_be_limited_to_some_bases() -> None:
    knows = Knows()
    finder = Finder(cast(Any, knows), None)
    tools = finder.tools(agent(bases=("b2",)), BOTH, CitationNumbers(), [])
    assert list(tools) == [KNOWLEDGE]
    tools[KNOWLEDGE].call({"query": "tide"}, Cancel(), 1)
    assert knows.asked[0][1] == ["b2"]


def test_agent_has_only_allowed_and_configured_tools() -> None:
    finder = Finder(Knows(), Web())  # type: ignore[arg-type]
    assert not finder.tools(agent(), (), CitationNumbers(), [])
    assert list(finder.tools(agent(), (WEB,), CitationNumbers(), [])) == [WEB]
    assert not Finder(None, None).tools(agent(), BOTH, CitationNumbers(), [])
    with pytest.raises(Forbidden, match="--search-engine"):
        Finder(None, None).searched()


@pytest.mark.parametrize("arguments", [{}, {"query": " "}, {"query": 3}])
def test_empty_search_query_is_reported_to_the_model(arguments: Any) -> None:
    tools = Finder(cast(Any, Knows()), None).tools(agent(), BOTH, CitationNumbers(), [])
    with pytest.raises(ToolError, match="query"):
        tools[KNOWLEDGE].call(arguments, Cancel(), 1)
