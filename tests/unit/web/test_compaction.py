"""--on-overflow compact, and Anthropic's edit compact_20260112: the report of each dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.config import keys
from proxy.core.conversation import ASK, LEAD
from proxy.core.usage import Usage
from tests.fakes import ScriptsInTurn, client, say

SUMMARY = say("They said x.", usage=Usage(900, 5, 800))
TOLD = {"input_tokens": 900, "cached_tokens": 800, "output_tokens": 5}
LONG = [
    {"role": ("user", "assistant")[i % 2], "content": f"<{i}> ".ljust(150, "x")} for i in range(16)
]
MESSAGES = [*LONG, {"role": "user", "content": "And now?"}]
BODY: dict[str, Any] = {"model": "m", "messages": MESSAGES, "max_tokens": 9}
ROUTES = {
    "/v1/chat/completions": BODY,
    "/api/chat": {**BODY, "stream": False},
    "/v1/messages": BODY,
    "/v1/responses": {"model": "m", "input": MESSAGES},
}
EDIT = {"type": "compact_20260112", "trigger": {"type": "input_tokens", "value": 500}}


def last_objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects of a stream."""
    lines = (line.removeprefix("data: ") for line in text.splitlines())
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.mark.parametrize("path", ROUTES)
def test_answer_tells_what_was_replaced(path: str) -> None:
    driver = ScriptsInTurn(SUMMARY)
    got = client(driver, on_overflow="compact").post(path, json=ROUTES[path])
    assert got.status_code == 200, got.text
    count = got.headers["x-slotproxy-compacted"]
    expected = {"messages": int(count), "summary": "They said x.", "usage": TOLD}
    assert got.json["compaction"] == expected
    assert LEAD + "They said x." in str(driver.tasks[-1].prompt)


@pytest.mark.parametrize("path", ROUTES)
def test_end_of_a_stream_tells_it(path: str) -> None:
    body = {**ROUTES[path], "stream": True}
    got = client(ScriptsInTurn(SUMMARY), on_overflow="compact").post(path, json=body)
    assert int(got.headers["x-slotproxy-compacted"]) > 2
    sent = last_objects(got.text)
    (last,) = (
        obj for event in sent for obj in (event, event.get("response", {})) if "compaction" in obj
    )
    assert last["compaction"]["usage"] == TOLD


@pytest.mark.parametrize("path", ROUTES)
def test_refusal_is_the_default(path: str) -> None:
    got = client(ScriptsInTurn(SUMMARY)).post(path, json=ROUTES[path])
    assert got.status_code == 400 and "x-slotproxy-compacted" not in got.headers


def test_usage_of_a_message_leaves_the_summary_out() -> None:
    got = client(ScriptsInTurn(SUMMARY), on_overflow="compact").post("/v1/messages", json=BODY)
    usage = got.json["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (5, 3)
    written, answered = usage["iterations"]
    assert (written["type"], written["input_tokens"], written["output_tokens"]) == (
        "compaction",
        100,
        5,
    )
    assert (answered["type"], answered["output_tokens"]) == ("message", 3)


SHORT = [*LONG[:8], MESSAGES[-1]]


def messages(**more: Any) -> dict[str, Any]:
    """A conversation that fits, and an edit that compacts it."""
    return {**BODY, "messages": SHORT, "context_management": {"edits": [{**EDIT, **more}]}}


def test_summary_is_a_block_that_stands_for_what_was_before() -> None:
    driver = ScriptsInTurn(SUMMARY)
    api = client(driver)
    got: Any = api.post("/v1/messages", json=messages()).json
    assert "compaction" not in got
    block, text = got["content"]
    assert block == {"type": "compaction", "content": "They said x."}
    assert text["text"] == "Hello" and got["stop_reason"] == "end_turn"

    more = [*SHORT, {"role": "assistant", "content": got["content"]}]
    more.append({"role": "user", "content": "And then?"})
    driver.tasks.clear()
    assert api.post("/v1/messages", json={**messages(), "messages": more}).status_code == 200
    (task,) = driver.tasks
    prompt = str(task.prompt)
    assert LEAD + "They said x." in prompt and "Hello" in prompt and "And then?" in prompt
    assert "And now?" not in prompt


def test_answer_pauses_after_the_summary() -> None:
    driver = ScriptsInTurn(SUMMARY)
    api = client(driver)
    got = api.post("/v1/messages", json=messages(pause_after_compaction=True)).json
    assert got["stop_reason"] == "compaction"
    assert [block["type"] for block in got["content"]] == ["compaction"]
    assert len(driver.tasks) == 1
    more = [*SHORT, {"role": "assistant", "content": got["content"]}]
    more.append({"role": "user", "content": "Go on."})
    assert api.post("/v1/messages", json={**messages(), "messages": more}).status_code == 200
    assert f"{LEAD}They said x.\nGo on." in str(driver.tasks[-1].prompt), "one message"


def test_stream_has_the_block_first() -> None:
    body = {**messages(instructions="Be terse."), "stream": True}
    driver = ScriptsInTurn(SUMMARY)
    sent = last_objects(client(driver).post("/v1/messages", json=body).text)
    started, block, delta, stopped = sent[:4]
    assert started["type"] == "message_start" and stopped["type"] == "content_block_stop"
    assert block["content_block"] == {"type": "compaction", "content": None}
    assert delta["delta"] == {"type": "compaction_delta", "content": "They said x."}
    prompt = str(driver.tasks[0].prompt)
    assert "Be terse." in prompt and ASK not in prompt


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"trigger": {"type": "tool_uses", "value": 3}}, "trigger.type"),
        ({"trigger": {"type": "input_tokens", "value": -1}}, "trigger.value"),
        ({"instructions": "x" * 16_385}, "instructions"),
        ({"instructions": 3}, "instructions"),
        ({"pause_after_compaction": "yes"}, "pause_after_compaction"),
    ],
)
def test_invalid_edit_is_refused(more: dict[str, Any], param: str) -> None:
    got = client(ScriptsInTurn()).post("/v1/messages", json=messages(**more))
    assert got.status_code == 400
    assert f"edits[0].{param}" in got.json["error"]["message"]


def test_block_without_a_summary_means_nothing() -> None:
    said = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": [{"type": "compaction", "content": None}]},
        {"role": "user", "content": "Two"},
    ]
    driver = ScriptsInTurn()
    got = client(driver).post("/v1/messages", json={**BODY, "messages": said})
    assert got.status_code == 200 and "One" in str(driver.tasks[0].prompt)
    assert LEAD not in str(driver.tasks[0].prompt)


def test_key_overrides_the_setting() -> None:
    known = keys.read("a key-a on_overflow=compact\nb key-b\n", "keys")
    api = client(ScriptsInTurn(SUMMARY, SUMMARY), file_keys=known)
    for key, status in (("key-a", 200), ("key-b", 400)):
        headers = {"Authorization": f"Bearer {key}"}
        got = api.post("/v1/chat/completions", json=BODY, headers=headers)
        assert got.status_code == status, got.text
