"""What a model of each family gets of a conversation."""

from __future__ import annotations

import json

import pytest

from proxy.backends.chatglm.prompt import prompt
from proxy.backends.chatglm.protocol import Family, Prompt, Turn
from proxy.core.invalid import Invalid
from proxy.core.request import (
    CompletionRequest,
    Media,
    Message,
    Tool,
    ToolCall,
    ToolChoice,
)
from proxy.core.task import Task
from proxy.errors import Unsupported

WEATHER = Tool("get_weather", "The weather.", {"type": "object", "properties": {"city": {}}})
TIME = Tool("get_time")
CALL = ToolCall("call_1", "get_weather", '{"city": "北京", "days": 2, "now": true}')
HISTORY = (
    Message("system", "Be brief."),
    Message("user", "天气?"),
    Message("assistant", "", tool_calls=(CALL,)),
    Message("tool", "22", tool_call_id="call_1"),
)


def made(family: Family, *messages: Message, **more: object) -> Prompt:
    request = CompletionRequest(messages=messages, **more)  # type: ignore[arg-type]
    return prompt(Task(prompt="", native=True, request=request), family)


def test_texts_and_ids_go_as_they_are() -> None:
    assert prompt(Task(prompt="a b"), "chatglm3") == Prompt(text="a b")
    assert prompt(Task(prompt=(1, 2)), "glm-4") == Prompt(ids=(1, 2))


@pytest.mark.parametrize("family", ["chatglm3", "glm-4"])
def test_roles_keep_their_places(family: Family) -> None:
    messages = (Message("system", "s"), Message("user", "u"), Message("assistant", "a"))
    got = made(family, *messages, Message("user", "v")).turns
    assert [(one.role, one.content) for one in got] == [
        ("system", "s"),
        ("user", "u"),
        ("assistant", "a"),
        ("user", "v"),
    ]


def test_a_past_call_is_python_to_chatglm3() -> None:
    got = made("chatglm3", *HISTORY, tools=(WEATHER,)).turns
    call = "```python\ntool_call(city='北京', days=2, now=True)\n```"
    assert got[2:] == (Turn("assistant", call, "get_weather"), Turn("observation", "22"))


def test_a_past_call_is_json_to_glm_4() -> None:
    got = made("glm-4", *HISTORY, tools=(WEATHER,)).turns
    assert got[2:] == (Turn("assistant", CALL.arguments, "get_weather"), Turn("observation", "22"))


@pytest.mark.parametrize("arguments", ["", "[1]", "{", "tool_call(x=1)"])
def test_arguments_that_are_no_object_are_told_as_they_came(arguments: str) -> None:
    call = ToolCall("i", "f", arguments)
    got = made("chatglm3", Message("assistant", "", tool_calls=(call,))).turns
    assert got == (Turn("assistant", f"```python\ntool_call({arguments})\n```", "f"),)


def test_the_name_of_a_call_cannot_begin_another_line() -> None:
    call = ToolCall("i", "f\nx", "{}")
    (turn,) = made("chatglm3", Message("assistant", "", tool_calls=(call,))).turns
    assert turn.head == "f x"


def test_tools_are_listed_in_the_words_of_chatglm3() -> None:
    got = made("chatglm3", Message("user", "天气?"), tools=(WEATHER, TIME)).turns[0]
    head, _, listing = got.content.partition("tools:\n")
    assert got.role == "system"
    assert head == (
        "Answer the following questions as best as you can. You have access to the following "
    )
    assert [one["name"] for one in json.loads(listing)] == ["get_weather", "get_time"]
    assert json.loads(listing)[0]["parameters"] == WEATHER.parameters


def test_the_clients_own_system_message_stays() -> None:
    got = made("chatglm3", *HISTORY, tools=(WEATHER,)).turns[0]
    assert got.content.startswith("Be brief. You have access to the following tools:\n[")


def test_tools_are_listed_in_the_words_of_glm_4() -> None:
    got = made("glm-4", Message("user", "天气?"), tools=(WEATHER, TIME)).turns[0].content
    assert got.startswith("你是一个名为 ChatGLM 的人工智能助手。")
    assert "\n\n# 可用工具\n\n## get_weather\n\n{\n" in got
    assert got.count("请使用 Json 格式表示调用的参数。") == 2


def test_no_tools_are_listed_where_none_may_be_called() -> None:
    choice = ToolChoice("none")
    got = made("chatglm3", Message("user", "u"), tools=(WEATHER,), tool_choice=choice)
    assert got == Prompt(turns=(Turn("user", "u"),))


def test_a_named_tool_is_called_for_certain() -> None:
    choice = ToolChoice("named", "get_time")
    got = made("chatglm3", Message("user", "u"), tools=(WEATHER, TIME), tool_choice=choice)
    assert got.opening == ("get_time\n", "```python\ntool_call(")
    assert "get_weather" in got.turns[0].content
    got = made("glm-4", Message("user", "u"), tools=(TIME,), tool_choice=ToolChoice("required"))
    assert got.opening == ("get_time\n",)


def test_a_begun_answer_stands_behind_the_prompt() -> None:
    got = made("chatglm3", Message("user", "u"), Message("assistant", "v"))
    assert got == Prompt(turns=(Turn("user", "u"),), begun="v")


def test_any_of_several_cannot_be_opened() -> None:
    choice = ToolChoice("required")
    got = made("chatglm3", Message("user", "u"), tools=(WEATHER, TIME), tool_choice=choice)
    assert got.opening == ()


@pytest.mark.parametrize("family", ["chatglm", "chatglm2"])
class TestRounds:
    """The families that know question and answer only."""

    def test_the_system_is_put_before_the_first_question(self, family: Family) -> None:
        messages = (Message("user", "u"), Message("assistant", "a"), Message("user", "v"))
        got = made(family, Message("system", "s"), *messages).turns
        assert got == (Turn("user", "s\n\nu"), Turn("assistant", "a"), Turn("user", "v"))

    def test_two_questions_in_a_row_are_refused(self, family: Family) -> None:
        with pytest.raises(Invalid, match=r"messages\[1\].role must be assistant"):
            made(family, Message("user", "u"), Message("user", "v"))

    def test_an_answer_in_the_end_is_begun(self, family: Family) -> None:
        got = made(family, Message("user", "u"), Message("assistant", "v"))
        assert got == Prompt(turns=(Turn("user", "u"),), begun="v")

    def test_an_empty_answer_in_the_end_is_refused(self, family: Family) -> None:
        with pytest.raises(Invalid, match="must end with a question"):
            made(family, Message("user", "u"), Message("assistant", ""))

    def test_tools_are_refused(self, family: Family) -> None:
        with pytest.raises(Unsupported) as caught:
            made(family, Message("user", "u"), tools=(WEATHER,))
        assert caught.value.param == "tools"
        with pytest.raises(Unsupported) as caught:
            made(family, *HISTORY)
        assert caught.value.param == "messages"


def test_pictures_are_refused() -> None:
    with pytest.raises(Unsupported) as caught:
        made("glm-4", Message("user", "u", media=(Media("image", url="data:,x"),)))
    assert caught.value.param == "messages"
