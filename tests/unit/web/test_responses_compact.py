"""POST /v1/responses/compact, and the item that it makes."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.core import conversation
from tests.fakes import ScriptedDriver, make_app, say

SYSTEM = {"type": "message", "role": "developer", "content": "Be brief."}
SAID: list[Any] = [
    {"type": "message", "role": "user", "content": "We launch on Tuesday."},
    {"type": "message", "role": "assistant", "content": "Understood."},
]
MODEL = "scripted"


def test_conversation_becomes_one_item() -> None:
    driver = ScriptedDriver(say("The launch ", "is on Tuesday."))
    api = make_app(driver).test_client()
    body = {"model": MODEL, "input": [SYSTEM, *SAID]}
    made = api.post("/v1/responses/compact", json=body).json
    assert made["object"] == "response.compaction" and made["usage"]["output_tokens"] == 3
    system, item = made["output"]
    assert (system["role"], system["content"][0]["text"]) == ("developer", "Be brief.")
    assert item["type"] == "compaction" and item["id"]
    (task,) = driver.tasks
    assert str(task.prompt).index("on Tuesday") < str(task.prompt).index(conversation.ASK)
    assert (task.max_tokens or 0) <= conversation.LONGEST

    driver.tasks.clear()
    more = {"type": "message", "role": "user", "content": "And then?"}
    assert api.post("/v1/responses", json={"input": [*made["output"], more]}).status_code == 200
    prompt = str(driver.tasks[0].prompt)
    assert "Be brief." in prompt
    assert f"{conversation.LEAD}The launch is on Tuesday.\nAnd then?" in prompt, "one message"


def test_stored_conversation_is_compacted() -> None:
    driver = ScriptedDriver()
    api = make_app(driver).test_client()
    first = api.post("/v1/responses", json={"input": "We launch on Tuesday."}).json
    body = {"model": MODEL, "previous_response_id": first["id"]}
    made = api.post("/v1/responses/compact", json=body).json
    assert [item["type"] for item in made["output"]] == ["compaction"]
    assert "on Tuesday" in str(driver.tasks[-1].prompt)
    assert api.get(f"/v1/responses/{made['id']}").status_code == 404, "it is not stored"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": SAID}, "model"),
        ({"model": MODEL}, "input"),
        ({"model": MODEL, "input": SAID, "previous_response_id": "x"}, "previous_response_id"),
    ],
)
def test_incomplete_body_is_refused(body: dict[str, Any], param: str) -> None:
    answer = make_app(ScriptedDriver()).test_client().post("/v1/responses/compact", json=body)
    assert answer.status_code == 400
    assert answer.json["error"]["param"] == param


def test_empty_summary_is_an_error() -> None:
    api = make_app(ScriptedDriver(say(" "))).test_client()
    answer = api.post("/v1/responses/compact", json={"model": MODEL, "input": SAID})
    assert answer.status_code == 502
    assert "no summary" in answer.json["error"]["message"]


@pytest.mark.parametrize("content", ["not base64", "/w=="])
def test_foreign_compaction_item_is_refused(content: str) -> None:
    item = {"type": "compaction", "encrypted_content": content}
    answer = make_app(ScriptedDriver()).test_client().post("/v1/responses", json={"input": [item]})
    assert answer.status_code == 400
    assert answer.json["error"]["param"] == "input[0].encrypted_content"
