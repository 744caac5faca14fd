"""Answers that repeat themselves, from the request to the client, on scripted backends."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from werkzeug.test import TestResponse

from proxy.config import keys
from proxy.config.settings import BackendConfig, RefereeConfig
from proxy.core.events import Batch, Finished, ReasoningDelta, Started, TextDelta
from proxy.core.usage import Usage
from proxy.errors import ConnectionLost
from tests.fakes import CAPS, Script, ScriptedDriver, ScriptsInTurn, client, say, services_of

MODERN = msgspec.structs.replace(
    CAPS, dialect="llama-server", modern_sampling=True, queues=True, truncates=False, n_ctx=8192
)
BEGUN = "The harbour was quiet that night, and nobody saw the boat. "
UNIT = "She asked him where the key was, and he said that he did not know. "
THOUGHT = "Let me see. "
AGAIN = "Wait, maybe the key is in the boat, or it is not in the boat. "
SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
DOCUMENT = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
}


def pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def looping(begun: str = BEGUN, unit: str = UNIT, copies: int = 60) -> list[Batch]:
    return say(*pieces(begun + unit * copies), reason="length", usage=Usage(7, 900, 0))


def answered(*scripts: Script, template: str = "chatml", **fields: Any) -> tuple[Any, Any]:
    """The JSON of an answer, with its header, and the driver."""
    driver = ScriptsInTurn(*scripts, caps=MODERN)
    got = _post(client(driver, chat_template=template), **fields)
    assert got.status_code == 200, got.get_data(as_text=True)
    return got, driver


def _post(to: Any, **fields: Any) -> TestResponse:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2000, **fields}
    got: TestResponse = to.post("/v1/chat/completions", json=body)
    got.get_data()  # all of it, if it is a stream
    return got


def message_of(got: TestResponse) -> tuple[dict[str, Any], str]:
    assert got.json is not None
    choice = got.json["choices"][0]
    return choice["message"], choice["finish_reason"]


def test_text_that_repeats_itself_ends_behind_its_first_copy() -> None:
    got, driver = answered(looping())
    message, reason = message_of(got)
    assert (message["content"], reason) == (BEGUN + UNIT.rstrip(), "stop")
    assert "repeated itself in its text" in got.headers["x-slotproxy-warning"]
    assert len(driver.tasks) == 1
    assert driver.runs[0].closed.is_set()
    assert got.json["usage"]["completion_tokens"] < 250  # of 900


def test_a_stream_ends_with_a_sentence_and_says_why() -> None:
    got, _ = answered(looping(), stream=True)
    events = got.get_data(as_text=True).split("\n\n")
    assert ": the model repeated itself in its text: the answer was ended there" in events
    data = [json.loads(e[6:]) for e in events if e.startswith("data: {")]
    text = "".join(e["choices"][0]["delta"].get("content") or "" for e in data)
    assert data[-1]["choices"][0]["finish_reason"] == "stop"
    assert text.startswith(BEGUN + 3 * UNIT)
    assert text.endswith("did not know.")
    assert len(text) < 1200


def test_mended_text_goes_on_from_its_first_copy_with_a_penalty() -> None:
    driver = ScriptsInTurn(looping(), say(" Then", " they", " left."), caps=MODERN)
    got = _post(client(driver, referee=RefereeConfig(loops="mend")))
    message, reason = message_of(got)
    assert message["content"] == f"{BEGUN}{UNIT.rstrip()} Then they left."
    assert reason == "stop"
    first, second = driver.tasks
    assert second.prompt == f"{first.prompt}{BEGUN}{UNIT.rstrip()}"
    assert second.sampling["repeat_penalty"] > 1
    assert second.max_tokens is not None and second.max_tokens < 2000
    assert "it was continued" in got.headers["x-slotproxy-warning"]


@pytest.mark.parametrize("penalty", [1.5, 1])
def test_a_text_is_mended_twice_and_then_ends(penalty: float) -> None:
    loops = [looping(unit=f"{n} {UNIT}") for n in ("One.", "Two.", "Three.", "Four.")]
    driver = ScriptsInTurn(*loops, caps=MODERN)
    to = client(driver, referee=RefereeConfig(loops="mend"))
    got = _post(to, repeat_penalty=penalty)
    message, reason = message_of(got)
    assert reason == "stop"
    assert len(driver.tasks) == 3
    assert all(message["content"].count(f"{n} {UNIT.rstrip()}") == 1 for n in ("One.", "Three."))
    weaker, stronger = (task.sampling["repeat_penalty"] for task in driver.tasks[1:])
    assert weaker < stronger if penalty == 1 else weaker == stronger == penalty
    assert got.json["usage"]["completion_tokens"] <= 2000


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_that_repeat_themselves_end_and_the_answer_follows(stream: bool) -> None:
    thoughts = looping("<think>\n" + THOUGHT, AGAIN)
    answer = say("In", " the", " drawer.")
    got, driver = answered(thoughts, answer, template="qwen", stream=stream)
    thought = f"<think>\n{THOUGHT}{AGAIN.rstrip()}\n</think>\n\n"
    assert driver.tasks[1].prompt == driver.tasks[0].prompt + thought
    assert "repeat_penalty" not in driver.tasks[1].sampling
    if stream:
        events = got.get_data(as_text=True).split("\n\n")
        chunks = [json.loads(e[6:]) for e in events if e.startswith("data: {")]
        deltas = [chunk["choices"][0] for chunk in chunks]
        content = "".join(d["delta"].get("content") or "" for d in deltas)
        assert (content, deltas[-1]["finish_reason"]) == ("In the drawer.", "stop")
        return
    message, reason = message_of(got)
    assert (message["content"], reason) == ("In the drawer.", "stop")
    assert message["reasoning_content"] == THOUGHT + AGAIN.rstrip()
    assert "repeated itself in its reasoning" in got.headers["x-slotproxy-warning"]


def test_a_document_follows_thoughts_that_repeated_themselves() -> None:
    thoughts = looping("<think>\n" + THOUGHT, AGAIN)
    got, driver = answered(thoughts, say('{"x":', '"y"}'), template="qwen", **DOCUMENT)
    message, reason = message_of(got)
    assert (json.loads(message["content"]), reason) == ({"x": "y"}, "stop")
    assert message["reasoning_content"] == THOUGHT + AGAIN.rstrip()
    thought = f"<think>\n{THOUGHT}{AGAIN.rstrip()}\n</think>\n\n"
    assert driver.tasks[1].prompt == driver.tasks[0].prompt + thought
    assert driver.tasks[1].sampling["grammar"]


def test_a_document_that_repeats_itself_is_cut_and_called_incomplete() -> None:
    for mode in ("auto", "mend"):
        driver = ScriptedDriver(looping('{"x":"', UNIT), caps=MODERN)
        got = _post(client(driver, referee=RefereeConfig(loops=mode)), **DOCUMENT)
        message, reason = message_of(got)
        assert reason == "length"
        assert message["content"].startswith('{"x":"' + 3 * UNIT)  # none is taken back
        assert "not complete" in got.headers["x-slotproxy-warning"]
        assert len(driver.tasks) == 1


def test_reasoning_that_a_backend_parses_itself_is_cut() -> None:
    steps = [[ReasoningDelta(piece)] for piece in pieces(THOUGHT + 60 * AGAIN)]
    end = Finished(reason="length", usage=Usage(7, 900, 0))
    script: list[Any] = [[Started()], *steps, [end]]
    driver = ScriptedDriver(script, caps=msgspec.structs.replace(MODERN, native=True))
    got = _post(client(driver))
    message, reason = message_of(got)
    assert (message["content"] or "", reason) == ("", "length")
    assert "not complete" in got.headers["x-slotproxy-warning"]
    assert len(message["reasoning_content"]) < 1200


@pytest.mark.parametrize(
    ("options", "whole"), [("loops=off", True), ("loops=end", False), ("", False)]
)
def test_a_key_says_what_becomes_of_repetitions(options: str, whole: bool) -> None:
    known = keys.read(f"me secret-key {options}\n", "keys")
    to = client(ScriptedDriver(looping(), caps=MODERN), file_keys=known)
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2000}
    headers = {"Authorization": "Bearer secret-key"}
    got = to.post("/v1/chat/completions", json=body, headers=headers)
    assert ("x-slotproxy-warning" not in got.headers) == whole
    assert (message_of(got)[0]["content"] == BEGUN + 60 * UNIT) == whole


@pytest.mark.parametrize("fields", [{"ignore_eos": True}, {"return_tokens": True, "stream": False}])
def test_programs_that_want_every_token_get_it(fields: dict[str, Any]) -> None:
    to = client(ScriptedDriver(looping(), caps=MODERN), referee=RefereeConfig(loops="end"))
    body = {"prompt": "Hi", "n_predict": 2000, **fields}
    got = to.post("/completion", json=body)
    assert got.json is not None
    assert got.json["content"] == BEGUN + 60 * UNIT


def test_a_prompt_without_messages_is_cut_only_if_a_setting_says_it() -> None:
    modes: dict[Any, bool] = {"auto": False, "end": True}
    for mode, is_cut in modes.items():
        to = client(ScriptedDriver(looping(), caps=MODERN), referee=RefereeConfig(loops=mode))
        got = to.post("/v1/completions", json={"prompt": "Hi", "max_tokens": 2000})
        assert got.json is not None
        assert (got.json["choices"][0]["finish_reason"] == "stop") == is_cut


def test_what_is_written_twice_stays() -> None:
    text = BEGUN + 3 * (UNIT + "\n") + "The end."
    got, _ = answered(say(*pieces(text)))
    assert message_of(got)[0]["content"] == text
    assert "x-slotproxy-warning" not in got.headers


LONG_THOUGHT = "<think>\n" + " ".join(f"First step {n}, then the next." for n in range(200))


@pytest.mark.parametrize(
    ("path", "fields", "most"),
    [
        ("chat/completions", {"max_reasoning_tokens": 100}, 100),
        ("chat/completions", {"reasoning_budget_tokens": 100}, 100),
        ("chat/completions", {"thinking": {"type": "enabled", "budget_tokens": 100}}, 100),
        ("chat/completions", {"reasoning": {"max_tokens": 100}}, 100),
        ("chat/completions", {"reasoning_effort": "low", "max_tokens": 500}, 100),
        ("chat/completions", {"max_tokens": 400}, 300),
        ("chat/completions", {"max_tokens": 400, "max_reasoning_tokens": 390}, 300),
        ("messages", {"thinking": {"type": "enabled", "budget_tokens": 100}}, 100),
        ("responses", {"reasoning": {"max_tokens": 100}}, 100),
    ],
)
def test_thoughts_end_with_their_budget_and_the_answer_follows(
    path: str, fields: dict[str, Any], most: int
) -> None:
    driver = ScriptsInTurn(say(*pieces(LONG_THOUGHT)), say("In", " the", " drawer."), caps=MODERN)
    turns = [{"role": "user", "content": "Hi"}]
    said = {"input": turns} if path == "responses" else {"messages": turns, "max_tokens": 2000}
    got = client(driver, chat_template="qwen").post(f"/v1/{path}", json={**said, **fields})
    assert got.status_code == 200, got.get_data(as_text=True)
    assert "In the drawer." in got.get_data(as_text=True)
    first, second = driver.tasks
    thoughts = str(second.prompt).removeprefix(str(first.prompt))
    assert thoughts.endswith("\n</think>\n\n")
    assert abs(len(pieces(thoughts)) - most) <= 0.05 * most + 2  # with the tags
    warnings = got.headers.getlist("x-slotproxy-warning")
    assert warnings == [f"the reasoning was ended after {most} tokens, so that an answer follows"]


def own(to: Any, **settings: Any) -> None:
    """Settings of the backend, before those of all."""
    (backend,) = services_of(to.application).gateway.registry.backends.values()
    backend.config = BackendConfig(url="http://127.0.0.1:9", **settings)


def test_a_backend_says_what_becomes_of_repetitions() -> None:
    to = client(ScriptedDriver(looping(), caps=MODERN))
    own(to, loops="off")
    assert message_of(_post(to))[0]["content"] == BEGUN + 60 * UNIT


def test_the_operator_bounds_the_thoughts_of_those_who_do_not() -> None:
    for fields, wanted, most in (
        ({}, None, 50),
        ({}, 30, 30),
        ({"max_reasoning_tokens": 80}, 30, 80),
    ):
        driver = ScriptsInTurn(say(*pieces(LONG_THOUGHT)), say("Here."), caps=MODERN)
        referee = RefereeConfig(max_reasoning_tokens=50)
        to = client(driver, chat_template="qwen", referee=referee)
        own(to, max_reasoning_tokens=wanted)
        got = _post(to, **fields)
        assert message_of(got)[0]["content"] == "Here."
        assert f"after {most} tokens" in got.headers["x-slotproxy-warning"]


def test_a_document_follows_thoughts_over_their_budget() -> None:
    thoughts, answer = say(*pieces(LONG_THOUGHT)), say('{"x":', '"y"}')
    got, driver = answered(thoughts, answer, template="qwen", max_reasoning_tokens=60, **DOCUMENT)
    assert json.loads(message_of(got)[0]["content"]) == {"x": "y"}
    assert driver.tasks[1].sampling["grammar"]


def test_an_answer_of_thoughts_alone_says_so() -> None:
    steps = [[ReasoningDelta(piece)] for piece in pieces(THOUGHT)]
    end = Finished(reason="length", usage=Usage(7, 900, 0))
    script: list[Any] = [[Started()], *steps, [end]]
    driver = ScriptedDriver(script, caps=msgspec.structs.replace(MODERN, native=True))
    got = _post(client(driver))
    assert message_of(got)[1] == "length"
    assert "all tokens went into reasoning" in got.headers["x-slotproxy-warning"]


@pytest.mark.parametrize(("name", "status"), [("my-request", 200), ("another", 404)])
def test_a_client_ends_the_thoughts_of_its_request(name: str, status: int) -> None:
    got: list[TestResponse] = []
    thoughts: list[Any] = say(*pieces(LONG_THOUGHT))
    thoughts.insert(40, lambda: got.append(to.post(f"/v1/requests/{name}/end-thinking")))
    driver = ScriptsInTurn(thoughts, say("Here."), caps=MODERN)
    to: Any = client(driver, chat_template="qwen")
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3000}
    answer = to.post("/v1/chat/completions", json=body, headers={"X-Request-Id": "my-request"})
    assert [ended.status_code for ended in got] == [status]
    message, _ = message_of(answer)
    if status == 200:
        assert got[0].json == {"id": "my-request", "object": "request", "hurried": 1}
        assert message["content"] == "Here."
        assert len(pieces(message["reasoning_content"])) < 42
        assert "the reasoning was ended after 39 tokens" in answer.headers["x-slotproxy-warning"]
    else:
        assert len(driver.tasks) == 1


def test_no_key_ends_the_thoughts_of_another() -> None:
    got: list[int] = []
    thoughts: list[Any] = say(*pieces(LONG_THOUGHT))

    def end(secret: str) -> None:
        headers = {"Authorization": f"Bearer {secret}"}
        got.append(to.post("/v1/requests/mine/end-thinking", headers=headers).status_code)

    thoughts[20:20] = [lambda: end("key-of-you"), lambda: end("key-of-me")]
    known = keys.read("me key-of-me\nyou key-of-you\n", "keys")
    to = client(ScriptedDriver(thoughts, caps=MODERN), chat_template="qwen", file_keys=known)
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3000}
    headers = {"X-Request-Id": "mine", "Authorization": "Bearer key-of-me"}
    to.post("/v1/chat/completions", json=body, headers=headers)
    assert got[:2] == [404, 200]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("thinking.budget_tokens", {"thinking": {"type": "enabled", "budget_tokens": "x"}}),
        ("reasoning.max_tokens", {"reasoning": {"max_tokens": "x"}}),
        ("thinking_budget", {"thinking_budget": -2}),
        ("max_reasoning_tokens", {"max_reasoning_tokens": 1.5}),
    ],
)
def test_a_wrong_budget_is_named_as_its_client_wrote_it(name: str, fields: dict[str, Any]) -> None:
    got = _post(client(ScriptedDriver()), **fields)
    assert got.status_code == 400
    assert got.json is not None
    assert got.json["error"]["param"] == name


def test_arguments_that_repeat_themselves_end_the_answer() -> None:
    say_it = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    tool = {"type": "function", "function": {"name": "say", "parameters": say_it}}
    free = say("Let", " me", " see.", "\n<tool_call>", "\n")
    bound = looping('{"name": "say", "arguments": {"text": "', UNIT)
    got, driver = answered(free, bound, template="hermes", tools=[tool])
    message, reason = message_of(got)
    assert reason == "length"
    assert message["tool_calls"][0]["function"]["arguments"].startswith('{"text": "' + UNIT)
    assert "a document or call" in got.headers["x-slotproxy-warning"]
    assert len(driver.tasks) == 2
    assert driver.runs[1].closed.is_set()


@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages"])
def test_every_api_gets_the_shorter_text(path: str) -> None:
    turns = [{"role": "user", "content": "Hi"}]
    body = {"input": turns} if path == "responses" else {"messages": turns, "max_tokens": 2000}
    got = client(ScriptedDriver(looping(), caps=MODERN)).post(f"/v1/{path}", json=body)
    assert got.status_code == 200
    assert got.get_data(as_text=True).count(UNIT.rstrip()) == 1
    assert "repeated itself" in got.headers["x-slotproxy-warning"]


def test_each_of_several_choices_is_judged_alone() -> None:
    driver = ScriptsInTurn(looping(), say("Short."), caps=MODERN)
    got = _post(client(driver), n=2)
    assert got.json is not None
    texts = {choice["message"]["content"] for choice in got.json["choices"]}
    assert texts == {BEGUN + UNIT.rstrip(), "Short."}


def test_an_answer_that_resumes_is_still_watched() -> None:
    """Its backend breaks off in the middle of the repetition."""
    pieces_ = pieces(BEGUN + 60 * UNIT)
    broken: list[Any] = [[Started(slot=0)], *([TextDelta(piece)] for piece in pieces_[:60])]
    broken.append(ConnectionLost("the backend closed the connection"))
    driver = ScriptsInTurn(broken, say(*pieces_[60:], reason="length"), caps=MODERN)
    got = _post(client(driver))
    message, reason = message_of(got)
    assert (message["content"], reason) == (BEGUN + UNIT.rstrip(), "stop")
    assert len(driver.tasks) == 2
