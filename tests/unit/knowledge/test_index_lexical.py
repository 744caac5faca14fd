"""Terms of texts and questions, and their scores: pure functions."""

from __future__ import annotations

import pytest

from proxy.knowledge.index.lexical import Term, nearness, question, terms, weights


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Great Walls, glass bus.", ["great", "wall", "glass", "bus"]),
        ("stories boxes churches class", ["story", "box", "church", "class"]),
        ("make makes making", ["mak", "mak", "mak"]),
        ("open opened opening", ["open", "open", "open"]),
        ("plan planned planning planes", ["plan", "plan", "plan", "plan"]),
        ("base based bases", ["bas", "bas", "bas"]),
        ("king thing red need the", ["king", "thing", "red", "need", "the"]),
        ("snake_case x.y", ["snak", "cas", "x", "y"]),
        ("café cafe Ünïted unites", ["caf", "caf", "unit", "unit"]),
        ("ABC", ["abc"]),
        ("长城", ["长", "城", "长城"]),
        ("用Flask写", ["用", "flask", "写"]),
        ("カタカナ"[:2], ["カ", "タ", "カタ"]),
        ("한국", ["한", "국", "한국"]),
        ("", []),
    ],
)
def test_terms_of_text(text: str, expected: list[str]) -> None:
    assert list(terms(text)) == expected


def test_query_omits_question_words() -> None:
    assert [term.text for term in question("What is the Great Wall?")] == ["great", "wall"]
    assert [term.text for term in question("to be or not to be")] == ["to", "be", "or", "not"]
    assert [t.text for t in question("什么是长城")] == ["是长", "长城", "长", "城"]
    assert question("的") == (Term("的"),)


def test_word_boundary_is_not_a_missing_word() -> None:
    words = question("长城长度")  # 城长 is no word
    having = {"长城": 3, "长度": 2, "长": 9, "城": 5, "度": 4}
    assert set(weights(words, 10, having)) == set(having)
    # A missing word lowers the score, but less than one that other texts have.
    missing = weights(question("zebra bridge"), 10, {"bridg": 1})
    assert 0 < missing["zebra"] < missing["bridg"]


def test_score_is_about_one_for_a_perfect_average_match() -> None:
    weighed = weights(question("great wall"), 100, {"great": 5, "wall": 9})
    assert nearness({"great": 1, "wall": 1}, weighed, 1.0) == pytest.approx(1.0)
    half = nearness({"wall": 1}, weighed, 1.0)
    assert 0.3 < half < 0.5  # the commoner one
    assert nearness({"wall": 1}, weighed, 3.0) < half < nearness({"wall": 3}, weighed, 1.0)
    assert nearness({}, weighed, 1.0) == nearness({}, {}, 1.0) == 0.0
