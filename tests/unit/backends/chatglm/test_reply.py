"""Generated text as events."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.chatglm.driver import ReplyText
from proxy.backends.chatglm.protocol import Family
from proxy.core.events import Event, TextDelta, ToolCallDelta
from proxy.core.request import Tool

TOOLS = (Tool("get_weather"), Tool("get_time"))
PYTHON = "get_weather\n ```python\ntool_call(city='北京', days=2)\n```"
JSON = 'get_weather\n{"city": "北京", "days": 2}'


def events(
    family: Family, text: str, cuts: list[int] | None = None, opening: tuple[str, ...] = ()
) -> list[Event]:
    numbers = itertools.count()
    reply = ReplyText(family, TOOLS, opening, lambda: f"id{next(numbers)}")
    out: list[Event] = []
    at = 0
    for size in itertools.cycle(cuts or [len(text) or 1]):
        if at >= len(text):
            break
        out += reply.feed(text[at : at + size])
        at += size
    return [*out, *reply.close()]


def told(found: list[Event]) -> tuple[str, list[tuple[str, str]]]:
    text = "".join(one.text for one in found if isinstance(one, TextDelta))
    calls: dict[int, list[str]] = {}
    for one in found:
        if isinstance(one, ToolCallDelta):
            head = calls.setdefault(one.index, [one.name, ""])
            head[1] += one.arguments
    return text, [(name, arguments) for name, arguments in calls.values()]


@given(st.lists(st.integers(1, 9), min_size=1))
def test_chatglm3_call_parses_however_split(cuts: list[int]) -> None:
    text, ((name, arguments),) = told(events("chatglm3", PYTHON, cuts))
    assert (text, name) == ("", "get_weather")
    assert json.loads(arguments) == {"city": "北京", "days": 2}


@given(st.lists(st.integers(1, 9), min_size=1))
def test_glm_4_call_parses_however_split(cuts: list[int]) -> None:
    text, ((name, arguments),) = told(events("glm-4", JSON, cuts))
    assert (text, name) == ("", "get_weather")
    assert json.loads(arguments) == {"city": "北京", "days": 2}


def test_call_after_text_is_parsed() -> None:
    text, calls = told(events("chatglm3", f"\n Let me see.<|assistant|>{PYTHON}"))
    assert text == "Let me see."
    assert [name for name, _ in calls] == ["get_weather"]


def test_call_opened_for_the_model_is_parsed() -> None:
    opening = ("get_weather\n", "```python\ntool_call(")
    text, ((name, arguments),) = told(events("chatglm3", "city='x')\n```", opening=opening))
    assert (text, name, json.loads(arguments)) == ("", "get_weather", {"city": "x"})


@pytest.mark.parametrize(
    "text",
    [
        "get_weather\n```python\ntool_call(__import__('os').system('true'))\n```",
        "get_weather\n```python\ntool_call(city=open('/etc/passwd').read())\n```",
        "get_weather\n```python\ntool_call(**{'a': 1})\n```",
        "get_weather\n```python\n" + "(" * 5000 + "\n```",
        "get_weather\n```python\ntool_call(x=1",
    ],
)
def test_malformed_call_stays_text_and_is_never_executed(text: str) -> None:
    found, calls = told(events("chatglm3", text))
    assert calls == []
    assert found == text


def test_code_interpreter_call_stays_text_with_its_marker() -> None:
    text = "interpreter\n```python\nprint(1)\n```"
    assert told(events("chatglm3", text)) == (text, [])


@pytest.mark.parametrize("family", ["chatglm", "chatglm2", "chatglm3", "glm-4"])
def test_only_the_leading_blank_line_is_dropped(family: Family) -> None:
    assert told(events(family, "\n a\n b ", [1])) == ("a\n b ", [])


def test_call_ids_are_assigned_once() -> None:
    found = [one for one in events("chatglm3", PYTHON) if isinstance(one, ToolCallDelta)]
    assert [one.id for one in found] == ["id0", ""]


def test_truncated_forced_call_has_its_name_and_no_text() -> None:
    reply = ReplyText(
        "chatglm3", TOOLS, (f"{TOOLS[0].name}\n", "```python\ntool_call("), lambda: "id"
    )
    events = [*reply.feed("city='Ro"), *reply.close(cut=True)]
    assert [(e.name, e.arguments) for e in events if isinstance(e, ToolCallDelta)] == [
        (TOOLS[0].name, "")
    ]
    assert not any(isinstance(e, TextDelta) for e in events)
