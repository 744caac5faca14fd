from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.knowledge.splitting import Section, of_markdown, of_plain, pieces, spans, split
from proxy.store.records import Splitting
from tests.thorough import share

TEXTS = st.text(st.sampled_from("ab c。.\n,，！? 中文字—'\"#`") | st.characters(codec="utf-8"))
SPLITTINGS = st.integers(1, 60).flatmap(
    lambda size: st.builds(Splitting, st.just(size), st.integers(0, size - 1))
)


def without_blanks(text: str) -> str:
    return re.sub(r"\s", "", text)


@settings(max_examples=share(50))
@given(TEXTS, SPLITTINGS)
def test_chunks_lose_no_text_and_stay_within_length(text: str, splitting: Splitting) -> None:
    reached = first = 0
    for begin, end in spans(text, splitting):
        assert first <= begin <= reached < end <= begin + splitting.size
        assert reached - begin <= splitting.overlap
        first, reached = begin + 1, end
    assert reached == len(text)


def test_chunks_end_with_sentences_in_both_languages() -> None:
    english = "The first one is here. The second one follows! Is there a third? Yes, a fourth."
    assert split(english, Splitting(50, 0)) == [
        "The first one is here. The second one follows! ",
        "Is there a third? Yes, a fourth.",
    ]
    chinese = "第一句在这里。第二句跟着来！有第三句吗？是的，还有第四句。"
    assert split(chinese, Splitting(16, 0)) == [
        "第一句在这里。第二句跟着来！",
        "有第三句吗？是的，还有第四句。",
    ]


def test_overlap_starts_at_a_sentence() -> None:
    text = "One two three. Four five six. Seven eight nine. Ten."
    first, second, *_ = split(text, Splitting(32, 18))
    assert first == "One two three. Four five six. "
    assert second.startswith("Four five six.")


def test_chunk_ends_at_paragraph_rather_than_sentence() -> None:
    text = "First. Also first.\n\nSecond one. And more of it."
    assert split(text, Splitting(32, 0))[0] == "First. Also first.\n\n"


def test_pages_do_not_share_a_chunk() -> None:
    sections = [Section("page 1", "One."), Section("page 2", "Two.")]
    assert [piece.place for piece in pieces(sections, Splitting())] == ["page 1", "page 2"]


def test_subsections_may_share_a_chunk() -> None:
    sections = [Section("A", "One."), Section("A > B", "Two."), Section("C", "Three.")]
    assert [(piece.place, piece.text) for piece in pieces(sections, Splitting())] == [
        ("A", "One.\n\nTwo."),
        ("C", "Three."),
    ]


def test_markdown_position_is_its_heading() -> None:
    text = "before\n# One\na\n## Two\nb\n```\n# no heading\n```\n# Three\nc\n"
    places = [section.place for section in of_markdown(text)]
    assert places == ["", "One", "One > Two", "Three"]


@settings(max_examples=share(50))
@given(st.text())
def test_sections_lose_no_line(text: str) -> None:
    for cut in (of_markdown, of_plain):
        said = "\n".join(section.text for section in cut(text))
        lines = [line for line in text.splitlines() if not line.startswith("<!--")]
        assert without_blanks("".join(lines)) == without_blanks(said)


def test_plain_text_position_is_its_line() -> None:
    text = "\n".join(f"line {number}" for number in range(1, 101))
    assert [section.place for section in of_plain(text)] == ["lines 1-80", "lines 81-100"]
