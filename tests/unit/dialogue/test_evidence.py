"""Where documents stand in a conversation, and that each turn begins with the turn before it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.request import Message
from proxy.dialogue.events import Citation
from proxy.dialogue.finding import CitationNumbers, context, insert_documents
from proxy.prompting.template.dialogues import Layouts

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
    assert [(one.number, one.chunk_id) for one in cited] == [(1, "a"), (2, "b")]


def test_documents_of_later_question_precede_it() -> None:
    found = [[chunk("a"), chunk("b")], [chunk("c"), chunk("a")]]
    first, _ = insert_documents(LAYOUTS, "kb", "default", talk("q1"), found[:1])
    said, cited = insert_documents(LAYOUTS, "kb", "default", talk("q1", "q2"), found)
    assert said[:2] == first
    assert said[-1].content == "[3] c.txt\ntext of c\n\nq2"
    assert [message.cites for message in said] == [True, False, False, True]
    assert [(one.number, one.chunk_id) for one in cited] == [(3, "c"), (1, "a")]


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=3, unique=True), min_size=1))
def test_each_prompt_starts_with_the_previous_one(names: list[list[str]]) -> None:
    found = [[chunk(name) for name in turn] for turn in names]
    questions = [f"q{i}" for i in range(len(found))]
    before: tuple[Message, ...] = ()
    for turn in range(1, len(found) + 1):
        said, cited = insert_documents(
            LAYOUTS, "kb", "default", talk(*questions[:turn]), found[:turn]
        )
        if before and any(found[: turn - 1]):  # as soon as there is a document at all
            assert said[: len(before)] == before
        whole = "\n".join(message.content for message in said)
        for one in cited:
            assert whole.count(f"[{one.number}] {one.title}\n") == 1
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
    assert [one.chunk_id for one in cited] == ["b"]


def test_title_is_one_line() -> None:
    bad = Citation(title="a\n\n[2] b", text="x", chunk_id="c", place="page\n3")
    _, new = CitationNumbers().add([bad])
    assert context(new) == "[1] a [2] b (page 3)\nx"
