"""Calls of an answer: at most so many, none repeated without end, all whole."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.events import (
    Batch,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from proxy.core.usage import Usage
from proxy.prompting.stages.calls import CallLimit

Call = tuple[str, str]
OSLO, BERGEN = ("weather", '{"city":"Oslo"}'), ("weather", '{"city":"Bergen"}')
NOW = ("now", "{}")
STREAMS = pytest.mark.parametrize("streams", [False, True])


def events(*calls: Call, end: FinishReason = "stop", size: int = 3) -> Batch:
    """The calls in pieces of so many characters, as a parser emits them."""
    out: Batch = []
    for index, (name, arguments) in enumerate(calls):
        out.append(ToolCallDelta(index, f"call_{index}", name))
        pieces = [arguments[at : at + size] for at in range(0, len(arguments), size)]
        out += [ToolCallDelta(index, arguments=piece) for piece in pieces]
    return [*out, Finished(reason=end, usage=Usage(1, 2))]


def passed(sent: Sequence[Batch], most: int = 8, streams: bool = True) -> tuple[list[Call], str]:
    """The calls that reach the client, and the finish reason."""
    limit = CallLimit(most, Usage, streams=streams)
    calls: dict[int, Call] = {}
    reason = ""
    for batch in sent:
        for event in limit.feed(batch):
            assert not reason, "nothing follows the end"
            if isinstance(event, ToolCallDelta):
                name, arguments = calls.get(event.index, ("", ""))
                calls[event.index] = (name + event.name, arguments + event.arguments)
            elif isinstance(event, Finished):
                reason = event.reason
        if limit.ended:
            break
    assert list(calls) == list(range(len(calls)))
    return list(calls.values()), reason


@STREAMS
@given(
    calls=st.lists(st.sampled_from([OSLO, BERGEN, NOW, ("weather", '{"city":"Oslo","at":1}')])),
    size=st.integers(1, 20),
    together=st.booleans(),
    most=st.integers(1, 4),
)
def test_calls_pass_up_to_the_limit_and_the_third_of_equal_ones_in_a_row_does_not(
    streams: bool, calls: list[Call], size: int, together: bool, most: int
) -> None:
    batch = events(*calls, size=size, end="tool_calls")
    found, reason = passed([batch] if together else [[e] for e in batch], most, streams)
    wanted: list[Call] = []
    for at, call in enumerate(calls[:most]):
        if calls[max(0, at - 2) : at] != [call, call]:
            wanted.append(call)
    assert (found, reason) == (wanted, "tool_calls")


def test_streamed_call_is_passed_as_soon_as_it_differs_from_two_equal_ones() -> None:
    limit = CallLimit(8, Usage, streams=True)
    limit.feed(events(OSLO, OSLO)[:-1])
    assert (
        limit.feed([ToolCallDelta(2, "b", "weather"), ToolCallDelta(2, "", "", '{"city":"')]) == []
    )
    out = limit.feed([ToolCallDelta(2, arguments="B")])
    assert "".join(e.arguments for e in out if isinstance(e, ToolCallDelta)) == '{"city":"B'
    assert limit.feed([ToolCallDelta(2, arguments="erg")]) == [ToolCallDelta(2, arguments="erg")]
    other = [ToolCallDelta(3, "c", "now")]
    assert limit.feed(list(other)) == other


@pytest.mark.parametrize(
    "calls, streams, wanted, reason",
    [
        ([OSLO, ("weather", '{"city":"B')], False, [OSLO], "tool_calls"),
        ([OSLO, ("weather", '{"city":"B')], True, [OSLO, ("weather", '{"city":"B')], "length"),
        ([OSLO, OSLO, ("weather", '{"ci')], True, [OSLO, OSLO], "tool_calls"),
        ([OSLO, OSLO, ("weather", "")], True, [OSLO, OSLO], "tool_calls"),
        ([OSLO, ("now", "")], False, [OSLO], "tool_calls"),
        ([OSLO, NOW], False, [OSLO, NOW], "tool_calls"),
        ([OSLO], True, [OSLO], "tool_calls"),
        ([("weather", '{"ci')], False, [("weather", '{"ci')], "length"),
        ([("weather", '{"ci'), ("now", "{")], False, [("weather", '{"ci')], "tool_calls"),
        ([], True, [], "length"),
    ],
)
def test_call_that_the_token_limit_cuts(
    calls: list[Call], streams: bool, wanted: list[Call], reason: str
) -> None:
    assert passed([events(*calls, end="length")], streams=streams) == (wanted, reason)


@STREAMS
def test_text_behind_calls_is_cut_as_text(streams: bool) -> None:
    batch = [*events(OSLO)[:-1], TextDelta("I have"), Finished(reason="length", usage=Usage(1, 2))]
    assert passed([batch], streams=streams) == ([OSLO], "length")


@STREAMS
def test_failure_passes_behind_what_was_held_back(streams: bool) -> None:
    limit = CallLimit(8, Usage, streams=streams)
    failed = Failed(ValueError())
    out = limit.feed([*events(OSLO, ("weather", '{"ci'))[:-1], ReasoningDelta("hm"), failed])
    assert out[-1] is failed
    assert [e.name for e in out if isinstance(e, ToolCallDelta) and e.name] == ["weather"] * 2


def test_call_whose_arguments_are_no_object_is_repeated() -> None:
    broken = ("weather", '{"city"')
    assert passed([events(broken, broken)]) == ([broken, broken], "stop")
