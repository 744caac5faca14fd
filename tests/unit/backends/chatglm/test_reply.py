"""Calls in the text of an answer."""

from __future__ import annotations

import json

import pytest

from proxy.backends.chatglm.driver import TYPES, ChatGlmRun, ModelFile
from proxy.backends.chatglm.protocol import Began, Delta, Done, Family, Generate
from proxy.core.events import Finished, TextDelta, ToolCallDelta
from proxy.core.request import CompletionRequest, Message, Tool, ToolChoice
from proxy.core.task import Task
from proxy.runtime.cancel import Cancel

TOOLS = (Tool("get_weather"), Tool("get_time"))
PYTHON = "get_weather\n ```python\ntool_call(city='北京', days=2)\n```"
JSON = 'get_weather\n{"city": "北京", "days": 2}'
Read = tuple[str, list[tuple[str, str]], str]


class Engine:
    """Answers with a text, in pieces of `size` characters. It is its own driver, supervisor and
    call."""

    timeout = tick = 60.0

    def __init__(self, text: str, size: int, reason: str) -> None:
        self.supervisor = self
        deltas = [Delta(1, text[at : at + size], 1) for at in range(0, len(text), size)]
        self._answers = [Began(1, 1), *deltas, Done(1, reason, 9, 0.0, 0.0)]  # type: ignore[arg-type]

    def call(self, order: Generate, timeout: float, cancel: Cancel) -> Engine:
        return self

    def receive(self, timeout: float) -> object:
        return self._answers

    def proven(self) -> None:
        """The answer was whole."""

    def close(self) -> None:
        """Nothing runs."""


def read(
    family: Family, text: str, size: int = 4, choice: ToolChoice | None = None, reason: str = "stop"
) -> Read:
    """The text of an answer, its calls, and how it ended."""
    request = CompletionRequest(
        messages=(Message(role="user", content="u"),),
        tools=TOOLS if family in ("chatglm3", "glm-4") else (),
        tool_choice=choice or ToolChoice("auto"),
    )
    task = Task(prompt="", request=request)
    engine, file = Engine(text, size, reason), ModelFile(family, 64)
    run = ChatGlmRun(engine, None, task, file, Cancel())  # type: ignore[arg-type]  # fakes
    said, calls, end = "", [], ""
    for event in (event for batch in run for event in batch):
        if isinstance(event, TextDelta):
            said += event.text
        elif isinstance(event, ToolCallDelta) and event.name:
            assert event.id
            calls.append((event.name, event.arguments))
        elif isinstance(event, ToolCallDelta):
            calls[-1] = (calls[-1][0], calls[-1][1] + event.arguments)
        elif isinstance(event, Finished):
            end = event.reason
    return said, calls, end


@pytest.mark.parametrize("size", [1, 3, 8, 100])
@pytest.mark.parametrize(("family", "written"), [("chatglm3", PYTHON), ("glm-4", JSON)])
def test_call_parses_however_split(family: Family, written: str, size: int) -> None:
    text, ((name, arguments),), end = read(family, written, size)
    assert (text, name, end) == ("", "get_weather", "tool_calls")
    assert json.loads(arguments) == {"city": "北京", "days": 2}


NAMED = ToolChoice("named", "get_weather")


def test_call_opened_for_the_model_is_parsed() -> None:
    text, ((name, arguments),), _ = read("chatglm3", "city='x')\n```", choice=NAMED)
    assert (text, name, json.loads(arguments)) == ("", "get_weather", {"city": "x"})


def test_truncated_forced_call_has_its_name_and_no_text() -> None:
    found = read("chatglm3", "city='Ro", choice=NAMED, reason="length")
    assert found == ("", [("get_weather", "")], "length")


@pytest.mark.parametrize("family", TYPES.values())
def test_only_the_leading_blank_line_is_dropped(family: Family) -> None:
    assert read(family, "\n a\n b ", 1) == ("a\n b ", [], "stop")
