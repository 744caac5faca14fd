"""Searches as tools of an agent, and where documents stand in a conversation: each turn begins with
the turn before it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounts.rights import Permissions
from proxy.agent.functions import ToolError
from proxy.core.events import Citation, passages
from proxy.core.request import Message
from proxy.dialogue.events import DialogueRequest, Sources
from proxy.dialogue.finding import (
    KNOWLEDGE,
    WEB,
    CitationNumbers,
    Finder,
    insert_documents,
)
from proxy.errors import Forbidden
from proxy.prompting.template.dialogues import Layouts
from proxy.runtime.cancel import Cancel

BOTH = (KNOWLEDGE, WEB)


class Knows:
    """Two bases, a chunk in each; `searches` are owner, bases and query."""

    def __init__(self) -> None:
        self.searches: list[tuple[str, list[str], str]] = []

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
        self.searches.append((owner, list(base_ids), query))
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
    knows, listed = Knows(), list[Sources]()
    finder = Finder(knows, Web())  # type: ignore[arg-type]
    tools = finder.tools(agent(), BOTH, CitationNumbers(), listed)

    def call(name: str) -> str:
        return tools[name].call({"query": "tide"}, Cancel(), 1)

    assert call(KNOWLEDGE) == "[1] b1.txt (page 1)\nsaid\n\n[2] b2.txt (page 1)\nsaid"
    assert call(WEB) == "[3] Page\nseen"
    assert call(KNOWLEDGE).startswith("[1] b1.txt"), "a document keeps its number"
    assert [[c.number for c in sources.citations] for sources in listed] == [[1, 2], [3], [1, 2]]
    assert knows.searches[0] == ("o", ["b1", "b2"], "tide")


def test_agent_can_be_limited_to_some_bases() -> None:
    knows = Knows()
    finder = Finder(cast(Any, knows), None)
    tools = finder.tools(agent(bases=("b2",)), BOTH, CitationNumbers(), [])
    assert list(tools) == [KNOWLEDGE]
    tools[KNOWLEDGE].call({"query": "tide"}, Cancel(), 1)
    assert knows.searches[0][1] == ["b2"]


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


LAYOUTS = Layouts(
    {
        "kb": {
            "default": "Use these:\n{{ context }}",
            "empty": "No results.",
            "old": "{{ context }}\nQ: {{ question }}",
        }
    }
)


def chunk(name: str) -> Citation:
    return Citation(title=f"{name}.txt", text=f"text of {name}", chunk_id=name)


def talk(*questions: str) -> tuple[Message, ...]:
    """A conversation that ends with the last question."""
    said: list[Message] = []
    for question in questions:
        said += [
            Message(role="user", content=question),
            Message(role="assistant", content=f"answer to {question}"),
        ]
    return tuple(said[:-1])


def test_documents_of_first_question_follow_the_instructions() -> None:
    said, cited = insert_documents(LAYOUTS, "kb", "default", talk("q1"), [[chunk("a"), chunk("b")]])
    system = "Use these:\n[1] a.txt\ntext of a\n\n[2] b.txt\ntext of b"
    first = Message(role="system", content=system, cites=True)
    assert said == (first, Message(role="user", content="q1"))
    assert [(citation.number, citation.chunk_id) for citation in cited] == [(1, "a"), (2, "b")]


def test_documents_of_later_question_precede_it() -> None:
    chunks = [[chunk("a"), chunk("b")], [chunk("c"), chunk("a")]]
    first, _ = insert_documents(LAYOUTS, "kb", "default", talk("q1"), chunks[:1])
    said, cited = insert_documents(LAYOUTS, "kb", "default", talk("q1", "q2"), chunks)
    assert said[:2] == first
    assert said[-1].content == "[3] c.txt\ntext of c\n\nq2"
    assert [message.cites for message in said] == [True, False, False, True]
    assert [(citation.number, citation.chunk_id) for citation in cited] == [(3, "c"), (1, "a")]


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=3, unique=True), min_size=1))
def test_each_prompt_starts_with_the_previous_one(names: list[list[str]]) -> None:
    chunks = [[chunk(name) for name in turn] for turn in names]
    questions = [f"q{i}" for i in range(len(chunks))]
    before: tuple[Message, ...] = ()
    for turn in range(1, len(chunks) + 1):
        said, cited = insert_documents(
            LAYOUTS, "kb", "default", talk(*questions[:turn]), chunks[:turn]
        )
        if before and any(chunks[: turn - 1]):  # as soon as there is a document at all
            assert said[: len(before)] == before
        whole = "\n".join(message.content for message in said)
        for citation in cited:
            assert whole.count(f"[{citation.number}] {citation.title}\n") == 1
        before = said


def test_empty_search_has_its_own_template() -> None:
    assert insert_documents(LAYOUTS, "kb", "default", talk("q"), [[]]) == (
        (Message(role="system", content="No results."), Message(role="user", content="q")),
        (),
    )


def test_question_template_gets_documents_of_the_last_question() -> None:
    said, cited = insert_documents(
        LAYOUTS, "kb", "old", talk("q1", "q2"), [[chunk("a")], [chunk("b")]]
    )
    assert said == (
        *talk("q1", "q2")[:2],
        Message(role="user", content="[1] b.txt\ntext of b\nQ: q2", cites=True),
    )
    assert [citation.chunk_id for citation in cited] == ["b"]


def test_title_is_one_line() -> None:
    bad = Citation(title="a\n\n[2] b", text="x", chunk_id="c", place="page\n3")
    _, new = CitationNumbers().add([bad])
    assert passages(new) == "[1] a [2] b (page 3)\nx"
