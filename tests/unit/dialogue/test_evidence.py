"""Where documents stand in a conversation, and that each turn begins with the turn before it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.request import Message
from proxy.dialogue.evidence import Ledger, context, laid
from proxy.dialogue.values import Citation
from proxy.prompting.layouts import Layouts

LAYOUTS = Layouts(
    {
        "kb": {
            "default": "Use these:\n{{ context }}",
            "empty": "Nothing was found.",
            "old": "{{ context }}\nQ: {{ question }}",
        }
    }
)


def chunk(name: str) -> Citation:
    return Citation(number=0, title=f"{name}.txt", text=f"text of {name}", chunk_id=name)


def talk(*questions: str) -> tuple[Message, ...]:
    """A conversation that ends with the last question."""
    said: list[Message] = []
    for question in questions:
        said += [Message("user", question), Message("assistant", f"answer to {question}")]
    return tuple(said[:-1])


def test_documents_of_the_first_question_stand_behind_the_instructions() -> None:
    said, cited = laid(LAYOUTS, "kb", "default", talk("q1"), [[chunk("a"), chunk("b")]])
    system = "Use these:\n[1] a.txt\ntext of a\n\n[2] b.txt\ntext of b"
    assert said == (Message("system", system), Message("user", "q1"))
    assert [(one.number, one.chunk_id) for one in cited] == [(1, "a"), (2, "b")]


def test_what_a_later_question_finds_besides_stands_before_it() -> None:
    found = [[chunk("a"), chunk("b")], [chunk("c"), chunk("a")]]
    first, _ = laid(LAYOUTS, "kb", "default", talk("q1"), found[:1])
    said, cited = laid(LAYOUTS, "kb", "default", talk("q1", "q2"), found)
    assert said[:2] == first
    assert said[-1].content == "[3] c.txt\ntext of c\n\nq2"
    assert [(one.number, one.chunk_id) for one in cited] == [(3, "c"), (1, "a")]


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=3, unique=True), min_size=1))
def test_each_turn_begins_with_the_turn_before_it(names: list[list[str]]) -> None:
    found = [[chunk(name) for name in turn] for turn in names]
    questions = [f"q{i}" for i in range(len(found))]
    before: tuple[Message, ...] = ()
    for turn in range(1, len(found) + 1):
        said, cited = laid(LAYOUTS, "kb", "default", talk(*questions[:turn]), found[:turn])
        if before and any(found[: turn - 1]):  # as soon as there is a document at all
            assert said[: len(before)] == before
        whole = "\n".join(message.content for message in said)
        for one in cited:
            assert whole.count(f"[{one.number}] {one.title}\n") == 1
        before = said


def test_nothing_found_has_a_template_of_its_own() -> None:
    assert laid(LAYOUTS, "kb", "default", talk("q"), [[]]) == (
        (Message("system", "Nothing was found."), Message("user", "q")),
        (),
    )


def test_a_template_with_the_question_in_it_gets_the_documents_of_the_last_one() -> None:
    said, cited = laid(LAYOUTS, "kb", "old", talk("q1", "q2"), [[chunk("a")], [chunk("b")]])
    assert said == (*talk("q1", "q2")[:2], Message("user", "[1] b.txt\ntext of b\nQ: q2"))
    assert [one.chunk_id for one in cited] == ["b"]


def test_a_title_is_one_line() -> None:
    bad = Citation(number=0, title="a\n\n[2] b", text="x", chunk_id="c", place="page\n3")
    _, new = Ledger().add([bad])
    assert context(new) == "[1] a [2] b (page 3)\nx"
