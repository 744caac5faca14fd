"""Tools and schemas that a server with OpenAI's API does not know: described in the messages,
judged at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.backends.openai.driver import OpenAIServer
from proxy.core.request import FORMATS
from tests.fakes import make_app, services_of, wait_until
from tests.openai_server import OpenAIServerFake, Reply, chunks_of

from .test_binding import WEATHER, assembled, deltas, message, reason

SCHEMA = {
    "type": "object",
    "properties": {"capital": {"type": "string"}},
    "required": ["capital"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "capital", "schema": SCHEMA}}
CALL = '{"tool_calls": [{"name": "get_weather", "arguments": {"city": "Oslo"}}]}'
Start = Callable[..., tuple[FlaskClient, OpenAIServerFake]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Factory: an app in front of a server that gives these replies and knows no format."""
    ends: list[Callable[[], None]] = []

    def made(
        *replies: Reply, by_prompt: frozenset[str] = FORMATS, **more: Any
    ) -> tuple[FlaskClient, OpenAIServerFake]:
        server = OpenAIServerFake(*replies, **more)
        driver: Any = OpenAIServer(server.url, by_prompt=by_prompt, timeout=10)
        app = make_app(driver)
        registry = services_of(app).gateway.registry
        ends.extend((registry.close, driver.close, server.close))
        wait_until(lambda: registry.ready)
        return app.test_client(), server

    yield made
    for end in ends:
        end()


def ask(http: FlaskClient, **fields: Any) -> Any:
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    return http.post("/v1/chat/completions", json={"messages": messages, **fields})


def streamed(answer: Any) -> tuple[str, list[Any], list[Any]]:
    """The text, the calls, and the errors of a stream."""
    chunks = deltas(answer)
    answer.close()  # as a server does
    whole = assembled([chunk for chunk in chunks if "choices" in chunk])
    errors = [chunk["error"] for chunk in chunks if "error" in chunk]
    return whole["content"] or "", whole.get("tool_calls", []), errors


def test_a_described_call_is_a_call(start: Start) -> None:
    http, server = start(CALL)
    answer = ask(http, tools=[WEATHER])
    assert reason(answer) == "tool_calls"
    (call,) = message(answer)["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    (body,) = server.bodies
    assert "tools" not in body
    assert "tool_choice" not in body
    assert "get_weather" in body["messages"][0]["content"]
    assert "tools: not enforced by this backend" in answer.headers["x-slotproxy-warning"]


def test_earlier_calls_and_results_are_texts(start: Start) -> None:
    http, server = start("It is cold.")
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "-3"},
    ]
    answer = ask(http, messages=messages, tools=[WEATHER])
    assert answer.json["choices"][0]["message"]["content"] == "It is cold."
    _, _, called, result = server.bodies[0]["messages"]
    assert "tool_calls" not in called
    assert '"get_weather"' in called["content"]
    assert result == {"role": "user", "content": "Result of get_weather:\n-3"}
    ask(http, messages=messages, tools=[WEATHER], tool_choice="none")
    assert "tools" not in server.bodies[1]
    assert server.bodies[1]["messages"][-1] == result


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (CALL.replace('"Oslo"', "7"), "failed validation"),
        (CALL.replace("get_weather", "other"), "of no tool of the request"),
        ('{"tool_calls": [{"name": "get_weather", "argu', "not JSON"),
    ],
)
def test_a_wrong_call_is_told_to_the_model_once_and_is_an_error_then(
    start: Start, wrong: str, why: str
) -> None:
    http, server = start(wrong, CALL)
    assert ask(http, tools=[WEATHER]).json["choices"][0]["finish_reason"] == "tool_calls"
    *_, shown, told = server.bodies[1]["messages"]
    assert shown == {"role": "assistant", "content": wrong}
    assert why in told["content"]

    http, server = start(wrong)
    answer = ask(http, tools=[WEATHER])
    error = answer.json["error"]
    assert (answer.status_code, error["code"], error["param"]) == (502, "invalid_output", "tools")
    assert why in error["message"]
    assert "not enforced by this model's backend, openai" in error["message"]
    assert len(server.bodies) == 2


@pytest.mark.parametrize("fields", [{}, {"stop": ["END"]}])
def test_a_required_call_that_does_not_come_is_an_error(
    start: Start, fields: dict[str, Any]
) -> None:
    http, server = start("I would rather not. END more")
    answer = ask(http, tools=[WEATHER], tool_choice="required", **fields)
    assert answer.status_code == 502
    assert "did not call a tool" in answer.json["error"]["message"]
    assert "You must call at least one tool." in server.bodies[0]["messages"][0]["content"]


def test_a_native_call_without_a_name_is_an_error(start: Start) -> None:
    chunks = chunks_of("")
    call = {"index": 0, "function": {"arguments": "{}"}}
    chunks[0]["choices"][0]["delta"] = {"tool_calls": [call]}
    http, _ = start(chunks)
    answer = ask(http, tools=[WEATHER])
    assert answer.status_code == 502
    assert answer.json["error"]["code"] == "invalid_output"


def test_a_required_call_is_enforced_where_the_server_knows_schemas(start: Start) -> None:
    http, server = start(CALL, by_prompt=frozenset({"auto", "required", "named"}))
    assert ask(http, tools=[WEATHER], tool_choice="required").status_code == 200
    form = server.bodies[0]["response_format"]["json_schema"]["schema"]
    items = form["properties"]["tool_calls"]["items"]
    assert items["properties"]["name"] == {"const": "get_weather"}


@pytest.mark.parametrize("text", ['{"capital": "Oslo"}', '```json\n{"capital": "Oslo"}\n```'])
@pytest.mark.parametrize("stream", [False, True])
def test_a_described_document_is_judged_and_loses_its_fence(
    start: Start, text: str, stream: bool
) -> None:
    http, server = start(f"<think>Norway.</think>{text}")
    answer = ask(http, response_format=FORM, stream=stream)
    assert json.loads(message(answer)["content"]) == {"capital": "Oslo"}
    assert "response_format" not in server.bodies[0]
    told = server.bodies[0]["messages"][0]["content"]
    assert json.loads(told.partition(":\n")[2]) == SCHEMA


@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_document_never_reaches_the_client(start: Start, stream: bool) -> None:
    http, server = start('{"capital": 7}')
    answer = ask(http, response_format=FORM, stream=stream)
    if stream:
        content, _, (error,) = streamed(answer)
        assert not content
    else:
        error = answer.json["error"]
        assert answer.status_code == 502
    assert (error["code"], error["param"]) == ("invalid_output", "response_format")
    assert len(server.bodies) == 2


def test_a_wrong_document_is_written_again_in_a_stream_too(start: Start) -> None:
    http, _ = start("Oslo!", '{"capital": "Oslo"}')
    text, _, errors = streamed(ask(http, response_format=FORM, stream=True))
    assert (text, errors) == ('{"capital": "Oslo"}', [])


def test_text_streams_and_calls_are_held_back(start: Start) -> None:
    http, _ = start("It is cold in Oslo.")
    assert streamed(ask(http, tools=[WEATHER], stream=True))[0] == "It is cold in Oslo."
    http, _ = start(CALL)
    text, calls, errors = streamed(ask(http, tools=[WEATHER], stream=True))
    assert (text, errors) == ("", [])
    assert calls[0]["function"]["name"] == "get_weather"
    http, _ = start(CALL.replace('"Oslo"', "7"))
    answer = ask(http, tools=[WEATHER], stream=True)
    text, calls, errors = streamed(answer)
    # A status if the whole answer came in one read, otherwise the end of the stream.
    (error,) = errors or [answer.json["error"]]
    assert (text, calls, error["code"]) == ("", [], "invalid_output")
    http, _ = start("I look. " + CALL[:40])
    assert streamed(ask(http, tools=[WEATHER], stream=True))[0].startswith("I look. ")


def test_other_json_is_text(start: Start) -> None:
    http, _ = start('{"weather": "cold"}')
    answer = ask(http, tools=[WEATHER])
    assert answer.json["choices"][0]["message"]["content"] == '{"weather": "cold"}'


def test_a_limit_cuts_a_call_as_everywhere(start: Start) -> None:
    http, _ = start(chunks_of(CALL[:60], "length"))
    assert reason(ask(http, tools=[WEATHER])) == "length"


REFUSALS = {
    "vllm": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser',
    "ollama": "registry.ollama.ai/library/gemma:2b does not support tools",
}


@pytest.mark.parametrize("words", REFUSALS.values(), ids=list(REFUSALS))
def test_a_server_that_refuses_tools_is_asked_again_at_once(start: Start, words: str) -> None:
    refusal = (400, {"error": {"message": words, "type": "BadRequestError", "code": 400}})
    http, server = start(refusal, CALL, by_prompt=frozenset())
    for _ in range(2):
        assert ask(http, tools=[WEATHER]).json["choices"][0]["finish_reason"] == "tool_calls"
    assert ["tools" in body for body in server.bodies] == [True, False, False]


@pytest.mark.parametrize(
    ("words", "for_ever"),
    [
        ("'response_format.type' must be 'text'", True),
        ("The JSON schema contains features not supported by xgrammar.", False),  # this schema
    ],
)
def test_a_server_that_refuses_a_schema_is_asked_again_at_once(
    start: Start, words: str, for_ever: bool
) -> None:
    refusal = (400, {"error": words})
    http, server = start(refusal, '{"capital": "Oslo"}', by_prompt=frozenset())
    for _ in range(2):
        assert ask(http, response_format=FORM).status_code == 200
    assert ["response_format" in body for body in server.bodies] == [True, False, not for_ever]


def test_another_refusal_reaches_the_client(start: Start) -> None:
    http, server = start((400, {"error": "the message is odd"}), by_prompt=frozenset())
    answer = ask(http, tools=[WEATHER])
    assert answer.status_code == 400
    assert "the message is odd" in answer.json["error"]["message"]
    assert len(server.bodies) == 1


def test_parameters_of_tools_that_are_no_schema_are_refused(start: Start) -> None:
    http, server = start(CALL)
    wrong = {"type": "function", "function": {"name": "x", "parameters": {"type": 7}}}
    answer = ask(http, tools=[wrong])
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "tools")
    assert not server.bodies
