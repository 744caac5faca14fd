"""Chats whose prompt the servers render themselves, placed by conversation and by prefix."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.backends.openai.driver import OpenAIServer
from proxy.core.request import CompletionRequest, Media, Message, Tool, ToolCall
from proxy.gateway.slot_request import placement_text
from tests.fakes import make_app, services_of, wait_until
from tests.openai_server import OpenAIServerFake

SYSTEM = [f"You are the assistant number {number}. " * 60 for number in range(4)]


@pytest.mark.parametrize("owner", ["vllm", "sglang"])
def test_turns_and_new_conversations_go_where_their_beginning_is_cached(owner: str) -> None:
    with OpenAIServerFake("Yes.", owner=owner) as one, OpenAIServerFake("Yes.", owner=owner) as two:
        drivers: Any = [OpenAIServer(server.url, timeout=10) for server in (one, two)]
        app = make_app(*drivers)
        backends = services_of(app).gateway.registry.backends
        wait_until(lambda: all(backend.up for backend in backends.values()))
        http = app.test_client()

        def ask(*messages: tuple[str, str]) -> None:
            body = [{"role": role, "content": text} for role, text in messages]
            answer = http.post("/v1/chat/completions", json={"messages": body})
            assert answer.status_code == 200, answer.text

        for number, system in enumerate(SYSTEM):
            first = (("system", system), ("user", f"question {number}"))
            ask(*first)
            ask(*first, ("assistant", "Yes."), ("user", "And then?"))
        for system in SYSTEM[::-1]:
            ask(("system", system), ("user", "another conversation"))
        places = [
            {body["messages"][0]["content"] for body in server.bodies} for server in (one, two)
        ]
        assert places[0] | places[1] == set(SYSTEM)
        assert not places[0] & places[1], "each system prompt was evaluated once"
        assert all(places), "both are used"


def _user(text: str, *media: Media) -> Message:
    return Message(role="user", content=text, media=media)


def _request(*messages: Message, tools: tuple[Tool, ...] = ()) -> CompletionRequest:
    return CompletionRequest(messages=messages, tools=tools)


def test_a_next_turn_begins_with_the_last_one() -> None:
    first = (Message(role="system", content="Be kind."), _user("Hi"))
    before, ends = placement_text(_request(*first))
    call = ToolCall("c", "get_weather", "{}")
    after, more = placement_text(
        _request(*first, Message(role="assistant", content="", tool_calls=(call,)))
    )
    assert after.startswith(before)
    assert more[:2] == ends
    assert ends[-1] == len(before)


@pytest.mark.parametrize(
    "other",
    [
        _request(_user("Hi "), _user("you")),
        _request(Message(role="assistant", content="Hi"), _user("you")),
        _request(_user("Hi"), _user("you"), tools=(Tool("t"),)),
        _request(_user("Hi", Media(kind="image", url="data:,")), _user("you")),
    ],
)
def test_other_prompts_have_other_texts(other: CompletionRequest) -> None:
    assert placement_text(_request(_user("Hi"), _user("you")))[0] != placement_text(other)[0]


def test_pictures_are_told_apart_and_not_kept() -> None:
    def text(data: str) -> str:
        media = Media(kind="image", url=f"data:image/png;base64,{data}")
        return placement_text(_request(_user("Hi", media)))[0]

    size = 10 << 20
    large = text("A" * size)
    assert len(large) < 1000, "the scheduler keeps the text"
    assert large == text("A" * size) != text("A" * (size - 1) + "B")
