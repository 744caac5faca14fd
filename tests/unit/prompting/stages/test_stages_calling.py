"""The stages for calls and thoughts: the same events however the text was cut, and calls found
wherever they open."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.events import Batch, Finished, TextDelta, ToolCallDelta
from proxy.core.usage import Usage
from proxy.prompting.formats.base import ID
from proxy.prompting.formats.objects import write_calls
from proxy.prompting.stages.calls import CallOpening, CallStage
from proxy.prompting.stages.endings import StopStage
from tests.call_formats import FORMS
from tests.thorough import share

TOOLS = {"get_weather": {"type": "object"}, "now": {"type": "object"}}
ARGUMENTS = '{"city": "Oslo"}'
TAIL: Batch = [Finished(reason="stop", usage=Usage(1, 2))]


def stage(form: str, *, free: bool) -> CallStage:
    numbers = itertools.count(1)
    return CallStage(FORMS[form], TOOLS, lambda: f"call_{next(numbers)}", free=free)


def call(form: str, name: str = "get_weather") -> str:
    written = write_calls(FORMS[form].shape, (name, json.loads(ARGUMENTS)))
    return written.replace(ID, "123456789")


def pieces(text: str, cuts: list[int]) -> list[str]:
    at = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[i:j] for i, j in itertools.pairwise(at)]


def joined(events: Batch) -> tuple[str, list[tuple[str, str]], str]:
    """Text, calls with names and arguments, and the finish reason."""
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
@settings(max_examples=share(30))
def test_forced_call_is_never_emitted_as_text(form: str, cut: int) -> None:
    """However the token limit cuts it: its name is known, its arguments are a prefix."""
    tools = {"now": {"type": "object"}}
    one = CallStage(FORMS[form], tools, lambda: "id", free=False, must=True)
    written = call(form, "now")
    events = one.feed([TextDelta(written[: cut % len(written)])])
    text, calls, reason = joined(
        [*events, *one.feed([Finished(reason="length", usage=Usage(1, 2))])]
    )
    assert (text.strip(), reason) == ("", "length")
    ((name, arguments),) = calls
    assert name == "now" and ARGUMENTS.replace(" ", "").startswith(arguments.replace(" ", ""))


CUTS = st.lists(st.integers(0, 500), max_size=12)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20)
@given(cuts=CUTS)
def test_call_start_is_found_at_one_position_however_split(form: str, cuts: list[int]) -> None:
    """What was written of the call stays, and means a beginning of the shape's call, which the
    grammar completes."""
    text = call(form)
    one = stage(form, free=True)
    events: Batch = []
    for piece in pieces(text, cuts):
        events += one.feed([TextDelta(piece)])
        if one.opened is not None:
            break
    opened = one.opened
    assert opened == whole_opened(form, text)
    if opened is None:  # arguments in another notation are not bound
        events += one.feed(list(TAIL))
        assert len(joined(events)[1]) == 1
        return
    assert text[: opened.keep].endswith(opened.written)
    assert joined(events)[:2] == ("", [])
    events += one.bind(opened.written)
    events += one.feed([TextDelta(text[opened.keep :])])
    events += one.feed(list(TAIL))
    text_, calls, reason = joined(events)
    assert (text_, [(n, json.loads(a)) for n, a in calls], reason) == (
        "",
        [("get_weather", json.loads(ARGUMENTS))],
        "tool_calls",
    )


def whole_opened(form: str, text: str) -> CallOpening | None:
    one = stage(form, free=True)
    one.feed([TextDelta(text)])
    return one.opened


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=share(30))
@given(text=st.text(), cuts=CUTS)
def test_free_text_without_call_is_unchanged(form: str, text: str, cuts: list[int]) -> None:
    marks = (*FORMS[form].opening, ">>>", "all\n")
    if any(mark in text for mark in marks):
        return
    one = stage(form, free=True)
    events = [e for p in pieces(text, cuts) for e in one.feed([TextDelta(p)])]
    events += one.feed(list(TAIL))
    assert one.opened is None
    assert joined(events) == (text, [], "stop")


def test_text_held_for_a_stop_string_precedes_a_call() -> None:
    one = StopStage(("\nUSER:",), Usage)
    out = one.feed([TextDelta("See.\nUS"), ToolCallDelta(0, "call_1", "now")])
    assert out == [TextDelta("See."), TextDelta("\nUS"), ToolCallDelta(0, "call_1", "now")]
