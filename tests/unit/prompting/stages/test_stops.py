"""Stop strings in streamed text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.prompting.stages.stop import StopFilter

ALPHABET = st.text("ab*你", max_size=12)


def run(stops: list[str], pieces: list[str]) -> tuple[str, str]:
    stop_filter = StopFilter(stops)
    out = "".join(stop_filter.feed(piece) for piece in pieces)
    if not stop_filter.matched:
        out += stop_filter.close()
    return out, stop_filter.matched


@given(st.lists(st.text("ab*你", min_size=1, max_size=4), max_size=3), st.lists(ALPHABET))
def test_text_ends_before_the_first_stop_string(stops: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    out, matched = run(stops, pieces)
    if matched:
        assert matched in stops
        assert text.startswith(out + matched)
        assert not any(stop in out for stop in stops)
    else:
        assert out == text
        assert not any(stop in text for stop in stops)


def test_only_possible_stop_strings_are_held_back() -> None:
    stop_filter = StopFilter(["###"])
    assert stop_filter.feed("hello") == "hello"
    assert stop_filter.feed(" #") == " "
    assert stop_filter.feed("x") == "#x"
    assert stop_filter.feed("a#") == "a"
    assert stop_filter.close() == "#"


def test_token_with_text_and_start_of_stop_string_loses_nothing() -> None:
    """server.cpp gets this wrong: "**** a" became "****"."""
    assert run(["****a"], ["**** ", "a"]) == ("**** a", "")


def test_no_text_follows_a_stop_string() -> None:
    stop_filter = StopFilter(["b"])
    assert stop_filter.feed("abc") == "a"
    assert stop_filter.matched == "b"
    assert stop_filter.feed("more") == ""
