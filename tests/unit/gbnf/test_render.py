"""Grammars of one of several texts, and of what a pattern matches."""

from __future__ import annotations

import re

import pytest

from proxy.gbnf import (
    NEW,
    OLD,
    PatternError,
    check,
    choice_grammar,
    matches,
    pattern_grammar,
    render,
)


@pytest.mark.parametrize("limits", [NEW, OLD])
def test_an_answer_is_one_of_the_choices(limits: object) -> None:
    choices = ["yes", "no", 'a "quoted" \\ one\n', "好", "yes"]
    grammar = check(choice_grammar(choices), NEW)
    if limits is OLD:
        grammar = check(render(grammar, OLD), OLD)
    assert all(matches(grammar, choice) for choice in choices)
    assert not any(matches(grammar, text) for text in ("", "ye", "yesno", "maybe", "YES"))


PATTERNS = [
    r"\d{3}-\d{4}",
    r"^\d+$",
    r"(cat|dog)s?",
    r"[a-f0-9]{2,4}(:[a-f0-9]+)*",
    r"a+b*?c",
    r"(?P<year>\d{4})/(?:\d\d)",
    r"\$\d+\.\d\d\$",
    r"x\\$",
    "a|",
]
TEXTS = ["555-1234", "12", "", "cats", "dog", "dogss", "ab:c0", "aabbc", "ac", "2024/12", "$1.50$"]
TEXTS += ["x\\", "a", "aa", "5555-1234", "x$", "ab"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_answer_matches_the_pattern_as_a_whole(pattern: str) -> None:
    grammar = check(pattern_grammar(pattern), NEW)
    for text in TEXTS:
        assert matches(grammar, text) == (re.fullmatch(pattern, text) is not None), text


@pytest.mark.parametrize("pattern", ["(a", "a)", "a|^b", r"(a)\1", "(?=a)", "[z-a]"])
def test_what_is_not_regular_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        pattern_grammar(pattern)
