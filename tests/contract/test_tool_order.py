"""A client that shuffles its tools from turn to turn is told so; nobody else is."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.config.keys import Secret
from tests.fakes import ScriptedDriver, make_app, say

NAMES = ["read", "write", "run"]
SHUFFLED = ["run", "read", "write"]
OBJECT = {"type": "object", "properties": {}}
CHAT = "/v1/chat/completions"


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": OBJECT}}


def messages(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]


@pytest.fixture
def http() -> FlaskClient:
    return make_app(ScriptedDriver(say("yes"))).test_client()


def warnings(http: FlaskClient, names: list[str], *texts: str) -> list[str]:
    body = {"messages": messages(*texts), "tools": [tool(name) for name in names]}
    answer = http.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    return [w for w in answer.headers.getlist("x-slotproxy-warning") if w.startswith("tools: not")]


def test_shuffled_tools_are_reported(http: FlaskClient) -> None:
    assert not warnings(http, NAMES, "a")
    assert not warnings(http, NAMES, "a", "yes", "b")
    (warning,) = warnings(http, SHUFFLED, "a", "yes", "b", "yes", "c")
    assert "order" in warning and "previous turn" in warning
    # From there on, it is the other order that counts.
    assert not warnings(http, SHUFFLED, "a", "yes", "b", "yes", "c", "yes", "d")


def test_a_turn_is_compared_with_the_one_before_it_alone(http: FlaskClient) -> None:
    warnings(http, NAMES, "a")
    assert not warnings(http, SHUFFLED, "a"), "a conversation begins anew"
    assert not warnings(http, NAMES, "b", "yes", "c"), "its first turn is not known"
    assert not warnings(http, SHUFFLED, "a", "yes", "b")
    assert not warnings(http, SHUFFLED[:2], "a", "yes", "b", "yes", "c"), "other tools"


def test_a_turn_with_results_of_tools_is_one_too(http: FlaskClient) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
    turn = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "text"},
    ]
    for names, sent, shuffled in ((NAMES, turn[:1], False), (SHUFFLED, turn, True)):
        body = {"messages": sent, "tools": [tool(name) for name in names]}
        answer = http.post(CHAT, json=body)
        heads = answer.headers.getlist("x-slotproxy-warning")
        assert any("previous turn" in head for head in heads) is shuffled


def test_conversations_of_other_keys_are_not_compared() -> None:
    driver = ScriptedDriver(say("yes"))
    app = make_app(driver, api_key=(Secret("of-anna"), Secret("of-boris")))
    anna, boris = app.test_client(), app.test_client()
    anna.environ_base["HTTP_AUTHORIZATION"] = "Bearer of-anna"
    boris.environ_base["HTTP_AUTHORIZATION"] = "Bearer of-boris"
    warnings(anna, NAMES, "a")
    assert not warnings(boris, SHUFFLED, "a", "yes", "b")
    assert warnings(anna, SHUFFLED, "a", "yes", "b")
