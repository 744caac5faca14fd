"""The stages for calls and thoughts: the same events however the text was cut, and calls found
wherever they open."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.events import Batch, Finished, ReasoningDelta, TextDelta, ToolCallDelta
from proxy.core.usage import Usage
from proxy.prompting.bind import head
from proxy.prompting.calling import CallStage
from proxy.prompting.stages import StopStage
from proxy.prompting.thoughts import InlineStage, ThoughtStage
from proxy.prompting.toolcalls import FORMS

TOOLS = {"get_weather": {"type": "object"}, "now": {"type": "object"}}
ARGUMENTS = '{"city": "Oslo"}'
TAIL: Batch = [Finished("stop", Usage(1, 2))]


def stage(form: str, *, free: bool) -> CallStage:
    numbers = itertools.count(1)
    return CallStage(FORMS[form], TOOLS, lambda: f"call_{next(numbers)}", free=free)


def call(form: str, name: str = "get_weather") -> str:
    shape = FORMS[form].shape
    return head(shape, name) + ARGUMENTS + shape.suffix + shape.end


def pieces(text: str, cuts: list[int]) -> list[str]:
    at = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[i:j] for i, j in itertools.pairwise(at)]


def joined(events: Batch) -> tuple[str, list[tuple[str, str]], str]:
    """Text, calls by name and arguments, and the reason of the end."""
    text = "".join(e.text for e in events if isinstance(e, TextDelta))
    calls: dict[int, tuple[str, str]] = {}
    for event in events:
        if isinstance(event, ToolCallDelta):
            name, arguments = calls.get(event.index, ("", ""))
            calls[event.index] = (name + event.name, arguments + event.arguments)
    reasons = [e.reason for e in events if isinstance(e, Finished)]
    return text, [calls[i] for i in sorted(calls)], "".join(reasons)


@pytest.mark.parametrize("form", FORMS)
@given(cut=st.integers(0, 500))
@settings(max_examples=30)
def test_a_call_that_must_be_is_never_told_as_text(form: str, cut: int) -> None:
    """The budget ends anywhere inside it: its name is known, its arguments are a beginning."""
    tools = {"now": {"type": "object"}}
    one = CallStage(FORMS[form], tools, lambda: "id", free=False, must=True)
    written = call(form, "now")
    events = one.feed([TextDelta(written[: cut % len(written)])])
    text, calls, reason = joined([*events, *one.feed([Finished("length", Usage(1, 2))])])
    assert (text.strip(), reason) == ("", "length")
    ((name, arguments),) = calls
    assert name == "now" and ARGUMENTS.replace(" ", "").startswith(arguments.replace(" ", ""))


CUTS = st.lists(st.integers(0, 500), max_size=12)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20)
@given(cuts=CUTS)
def test_a_bound_call_reads_the_same_however_it_comes(form: str, cuts: list[int]) -> None:
    one = stage(form, free=False)
    events = [e for p in pieces(call(form), cuts) for e in one.feed([TextDelta(p)])]
    events += one.feed(list(TAIL))
    assert joined(events) == ("", [("get_weather", ARGUMENTS)], "tool_calls")


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20)
@given(cuts=CUTS)
def test_a_call_that_opens_is_seen_at_one_place_however_it_comes(
    form: str, cuts: list[int]
) -> None:
    """What stays of the text, with what is written behind it, is always the beginning of a call;
    and what a grammar then adds makes it whole."""
    text = call(form)
    one = stage(form, free=True)
    events: Batch = []
    for piece in pieces(text, cuts):
        events += one.feed([TextDelta(piece)])
        if one.opened is not None:
            break
    opened = one.opened
    assert opened is not None
    whole = head(FORMS[form].shape, "get_weather")
    assert whole.startswith(opened.begun)
    assert text[: opened.keep] + opened.written == opened.begun or not opened.begun
    assert joined(events)[:2] == ("", [])
    events += one.bind(opened.written or opened.mark)
    events += one.feed([TextDelta(text[len(opened.begun) :])])
    events += one.feed(list(TAIL))
    assert joined(events) == ("", [("get_weather", ARGUMENTS)], "tool_calls")


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=30)
@given(text=st.text(), cuts=CUTS)
def test_free_text_that_opens_no_call_passes_unchanged(
    form: str, text: str, cuts: list[int]
) -> None:
    marks = (*FORMS[form].opening, ">>>", "all\n")
    if any(mark in text for mark in marks):
        return
    one = stage(form, free=True)
    events = [e for p in pieces(text, cuts) for e in one.feed([TextDelta(p)])]
    events += one.feed(list(TAIL))
    assert one.opened is None
    assert joined(events) == (text, [], "stop")


@given(
    thought=st.text(alphabet="ab <\n", max_size=30).map(str.strip),
    answer=st.text(alphabet="cd <>/", max_size=30).map(str.strip),
    cuts=CUTS,
)
def test_thoughts_are_parted_and_put_back_however_they_come(
    thought: str, answer: str, cuts: list[int]
) -> None:
    if not thought or not answer:
        return
    text = f"<think>\n{thought}\n</think>\n\n{answer}"
    parted, inline = ThoughtStage(), InlineStage()
    events: Batch = []
    told: Batch = []
    for piece in [*pieces(text, cuts)]:
        batch = parted.feed([TextDelta(piece)])
        events += batch
        told += inline.feed(list(batch))
    end = parted.feed(list(TAIL))
    told += inline.feed(list(end))
    events += end
    assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == thought
    assert joined(events)[0] == answer
    assert joined(told)[0] == text


def test_text_held_for_a_stop_string_comes_before_a_call() -> None:
    one = StopStage(("\nUSER:",), Usage)
    out = one.feed([TextDelta("See.\nUS"), ToolCallDelta(0, "call_1", "now")])
    assert out == [TextDelta("See."), TextDelta("\nUS"), ToolCallDelta(0, "call_1", "now")]
