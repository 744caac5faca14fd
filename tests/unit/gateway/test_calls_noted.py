"""The scheduler learns which conversations are in a tool call, and in which session they are."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.scheduling.state import ConversationRecord
from tests.fakes import make_app, services_of

from .test_binding import CALL, NOW, USER, WEATHER, ScriptPlayer, chat, split_text


def _conversations(app: Any) -> list[ConversationRecord]:
    pools = services_of(app).gateway.scheduler.pools.values()
    return [one for pool in pools for one in pool.conversations.values()]


def _conversation(app: Any) -> ConversationRecord:
    (conversation,) = _conversations(app)
    return conversation


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("lead", ["", "Let me see.\n"])
def test_answer_with_a_call_leaves_its_conversation_open(stream: bool, lead: str) -> None:
    scripts = [split_text(CALL)]
    if lead:  # the call is written by a second run
        scripts = [split_text(lead + "<tool_call>"), split_text(CALL.removeprefix("<tool_call>"))]
    app = make_app(ScriptPlayer(*scripts), chat_template="hermes")
    answer = chat(app.test_client(), tools=[WEATHER, NOW], stream=stream)
    assert answer.get_data()
    conversation = _conversation(app)
    assert conversation.open and conversation.tools and conversation.calls


def test_answer_without_a_call_is_over() -> None:
    app = make_app(ScriptPlayer(split_text("Sunny.")), chat_template="hermes")
    assert chat(app.test_client(), tools=[WEATHER]).get_data()
    conversation = _conversation(app)
    assert not conversation.open and not conversation.calls


@pytest.mark.parametrize(
    ("route", "fields", "headers"),
    [
        ("/v1/chat/completions", {"prompt_cache_key": "s", "messages": USER}, {}),
        ("/v1/responses", {"prompt_cache_key": "s", "input": "Hi"}, {}),
        ("/v1/messages", {"messages": USER, "metadata": {"user_id": "user_1_session_s"}}, {}),
        ("/v1/messages", {"messages": USER}, {"Session-Id": "s"}),
    ],
)
def test_session_of_a_client_reaches_the_scheduler(
    route: str, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    app = make_app(ScriptPlayer(split_text("Sunny.")), chat_template="hermes")
    assert app.test_client().post(route, json={"max_tokens": 9, **fields}, headers=headers).data
    assert _conversation(app).session


def test_responses_that_continue_one_are_one_session() -> None:
    app = make_app(ScriptPlayer(split_text("Sunny.")), chat_template="hermes")
    client = app.test_client()
    first = client.post("/v1/responses", json={"input": "Hi"}).json
    assert first is not None
    sessions = set()
    last = first["id"]
    for _ in range(2):
        body = {"input": "And now?", "previous_response_id": last}
        answer = client.post("/v1/responses", json=body).json
        assert answer is not None
        last = answer["id"]
        sessions |= {one.session for one in _conversations(app)}
    assert len(sessions - {b""}) == 1
