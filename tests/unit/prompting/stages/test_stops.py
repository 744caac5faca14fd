"""Stop strings in streamed text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.events import Finished, TextDelta
from proxy.core.usage import Usage
from proxy.prompting.stages.endings import StopStage

END = Finished(reason="stop", usage=Usage(1, 2))


def run(stops: list[str], pieces: list[str]) -> tuple[list[str], str]:
    """The text of each piece and of the end, and the stop string."""
    stage, out, matched = StopStage(stops, lambda: END.usage), list[str](), ""
    for batch in ([TextDelta(piece)] for piece in pieces):
        events = stage.feed([*batch])
        out.append("".join(event.text for event in events if isinstance(event, TextDelta)))
        if stage.ended:
            assert isinstance(events[-1], Finished)
            return out, events[-1].stop_sequence or ""
    out += [event.text for event in stage.feed([END]) if isinstance(event, TextDelta)]
    return out, matched


ALPHABET = st.text("ab*你", max_size=12)


@given(st.lists(st.text("ab*你", min_size=1, max_size=4), max_size=3), st.lists(ALPHABET))
def test_text_ends_before_the_first_stop_string(stops: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    parts, matched = run(stops, pieces)
    out = "".join(parts)
    if matched:
        assert matched in stops
        assert text.startswith(out + matched)
        assert not any(stop in out for stop in stops)
    else:
        assert out == text
        assert not any(stop in text for stop in stops)


@pytest.mark.parametrize(
    ("stops", "pieces", "out", "matched"),
    [
        (["###"], ["hello", " #", "x", "a#"], ["hello", " ", "#x", "a", "#"], ""),
        # server.cpp gets this wrong: "**** a" became "****".
        (["****a"], ["**** ", "a"], ["**** ", "a"], ""),
        (["b"], ["abc", "more"], ["a"], "b"),
        (["ab", "a"], ["xab"], ["x"], "a"),
    ],
)
def test_only_possible_stop_strings_are_held_back(
    stops: list[str], pieces: list[str], out: list[str], matched: str
) -> None:
    assert run(stops, pieces) == (out, matched)
