"""The question sets of search by meaning."""

from __future__ import annotations

import pytest

from benchmarks.meaning import LANGUAGES, cases, ranks, shared


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_share_no_content_word_with_their_passage(language: str) -> None:
    known = cases(language)
    assert len(known) == 40
    assert not [found for one in known if (found := shared(one, language))]


def test_words_alone_do_not_find_the_english_passages() -> None:
    assert not any(ranks(cases("en"), None))
