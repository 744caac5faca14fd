"""Prompts of each model family."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.backends.chatglm.driver import prompt
from proxy.backends.chatglm.protocol import ChatTurn, Family, PromptMessage
from proxy.core.request import CompletionRequest, Media, Message, Tool, ToolCall, ToolChoice
from proxy.core.task import Task
from proxy.errors import InvalidParameter, Unsupported

WEATHER = Tool("get_weather", "The weather.", {"type": "object", "properties": {"city": {}}})
TIME = Tool("get_time")
CALL = ToolCall("call_1", "get_weather", '{"city": "北京", "days": 2, "now": true}')


def said(role: Any, content: str = "", *calls: ToolCall, **more: Any) -> Message:
    return Message(role=role, content=content, tool_calls=calls, **more)


USER = said("user", "u")
HISTORY = (
    said("system", "Be brief."),
    said("user", "天气?"),
    said("assistant", "", CALL),
    said("tool", "22", tool_call_id="call_1"),
)


def made(family: Family, *messages: Message, **more: object) -> PromptMessage:
    request = CompletionRequest(messages=messages, **more)  # type: ignore[arg-type]
    return prompt(Task(prompt="", backend_templates=True, request=request), family)


def test_texts_and_ids_are_unchanged() -> None:
    assert prompt(Task(prompt="a b"), "chatglm3") == PromptMessage(text="a b")
    assert prompt(Task(prompt=(1, 2)), "glm-4") == PromptMessage(ids=(1, 2))


@pytest.mark.parametrize("family", ["chatglm3", "glm-4"])
def test_roles_keep_their_places(family: Family) -> None:
    turns = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v")]
    got = made(family, *(said(role, text) for role, text in turns)).turns
    assert [(turn.role, turn.content) for turn in got] == turns


PYTHON = "```python\ntool_call(city='北京', days=2, now=True)\n```"


@pytest.mark.parametrize(("family", "call"), [("chatglm3", PYTHON), ("glm-4", CALL.arguments)])
def test_past_call_is_written_as_its_family_does(family: Family, call: str) -> None:
    got = made(family, *HISTORY, tools=(WEATHER,)).turns
    assert got[2:] == (ChatTurn("assistant", call, "get_weather"), ChatTurn("observation", "22"))


@pytest.mark.parametrize("arguments", ["", "[1]", "{", "tool_call(x=1)"])
def test_non_object_arguments_are_passed_as_text(arguments: str) -> None:
    got = made("chatglm3", said("assistant", "", ToolCall("i", "f", arguments))).turns
    assert got == (ChatTurn("assistant", f"```python\ntool_call({arguments})\n```", "f"),)


def test_call_name_cannot_contain_a_line_break() -> None:
    (turn,) = made("chatglm3", said("assistant", "", ToolCall("i", "f\nx", "{}"))).turns
    assert turn.head == "f x"


def test_tools_are_described_in_chatglm3_format() -> None:
    got = made("chatglm3", USER, tools=(WEATHER, TIME)).turns[0]
    head, _, listing = got.content.partition("tools:\n")
    assert got.role == "system"
    assert head == (
        "Answer the following questions as best as you can. You have access to the following "
    )
    assert [one["name"] for one in json.loads(listing)] == ["get_weather", "get_time"]
    assert json.loads(listing)[0]["parameters"] == WEATHER.parameters


def test_tools_are_described_in_glm_4_format() -> None:
    got = made("glm-4", USER, tools=(WEATHER, TIME)).turns[0].content
    assert got.startswith("你是一个名为 ChatGLM 的人工智能助手。")
    assert "\n\n# 可用工具\n\n## get_weather\n\n{\n" in got
    assert got.count("请使用 Json 格式表示调用的参数。") == 2


def test_tools_are_not_described_with_tool_choice_none() -> None:
    got = made("chatglm3", USER, tools=(WEATHER,), tool_choice=ToolChoice("none"))
    assert got == PromptMessage(turns=(ChatTurn("user", "u"),))


def test_named_tool_is_always_called() -> None:
    choice = ToolChoice("named", "get_time")
    got = made("chatglm3", USER, tools=(WEATHER, TIME), tool_choice=choice)
    assert got.opening == ("get_time\n", "```python\ntool_call(")
    assert "get_weather" in got.turns[0].content
    got = made("glm-4", USER, tools=(TIME,), tool_choice=ToolChoice("required"))
    assert got.opening == ("get_time\n",)


def test_begun_answer_follows_the_prompt() -> None:
    got = made("chatglm3", USER, said("assistant", "v"))
    assert got == PromptMessage(turns=(ChatTurn("user", "u"),), begun="v")


@pytest.mark.parametrize("family", ["chatglm", "chatglm2"])
class TestRounds:
    """Families that support only alternating questions and answers."""

    def test_system_message_precedes_the_first_question(self, family: Family) -> None:
        got = made(family, said("system", "s"), USER, said("assistant", "a"), USER).turns
        turns = [("user", "s\n\nu"), ("assistant", "a"), ("user", "u")]
        assert [(turn.role, turn.content) for turn in got] == turns

    def test_consecutive_questions_are_refused(self, family: Family) -> None:
        with pytest.raises(InvalidParameter, match=r"messages\[1\].role must be assistant"):
            made(family, USER, USER)

    def test_empty_final_assistant_message_is_refused(self, family: Family) -> None:
        with pytest.raises(InvalidParameter, match="must end with a user message"):
            made(family, USER, said("assistant"))

    def test_tools_are_refused(self, family: Family) -> None:
        with pytest.raises(Unsupported) as caught:
            made(family, USER, tools=(WEATHER,))
        assert caught.value.param == "tools"
        with pytest.raises(Unsupported) as caught:
            made(family, *HISTORY)
        assert caught.value.param == "messages"


def test_pictures_are_refused() -> None:
    with pytest.raises(Unsupported) as caught:
        made("glm-4", said("user", media=(Media(kind="image", url="data:,x"),)))
    assert caught.value.param == "messages"
