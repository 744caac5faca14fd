"""`context_management` of /v1/messages: the prompt is edited, and the answer tells how."""

from __future__ import annotations

import json
from typing import Any

from proxy.apis.anthropic.context_edits import CLEARED
from tests.fakes import ScriptedDriver, client
from tests.unit.apis.test_context_edits import USES, trigger, used

EDIT = {"type": USES, "trigger": trigger(100), "keep": trigger(1, "tool_uses")}


def body(**more: Any) -> dict[str, Any]:
    first = {"role": "user", "content": "Go"}
    messages = [first, *used(0), *used(1), {"role": "user", "content": "?"}]
    return {"model": "m", "max_tokens": 9, "messages": messages, **more}


def edits(*some: Any) -> dict[str, Any]:
    return {"context_management": {"edits": list(some)}}


def test_answer_tells_what_was_cleared() -> None:
    driver = ScriptedDriver()
    answer = client(driver).post("/v1/messages", json=body(**edits(EDIT))).json
    assert answer is not None
    (applied,) = answer["context_management"]["applied_edits"]
    assert (applied["type"], applied["cleared_tool_uses"]) == (USES, 1)
    assert applied["cleared_input_tokens"] > 0
    prompt = str(driver.tasks[0].prompt)
    assert prompt.count(CLEARED) == 1 and prompt.count("x" * 100) == 1


def test_stream_tells_what_was_cleared() -> None:
    sent = client().post("/v1/messages", json=body(stream=True, **edits(EDIT))).text
    events = [json.loads(line[6:]) for line in sent.splitlines() if line.startswith("data: ")]
    (delta,) = (event for event in events if event["type"] == "message_delta")
    assert delta["context_management"]["applied_edits"][0]["cleared_tool_uses"] == 1


def test_edit_that_does_not_apply_is_not_listed() -> None:
    late = {**EDIT, "trigger": trigger(9_000_000)}
    answer = client().post("/v1/messages", json=body(**edits(late))).json
    assert answer is not None and answer["context_management"] == {"applied_edits": []}


def test_answer_without_edits_has_no_report() -> None:
    answer = client().post("/v1/messages", json=body()).json
    assert answer is not None and "context_management" not in answer


def test_count_has_both_sizes() -> None:
    to = client()
    whole = to.post("/v1/messages/count_tokens", json=body()).json
    edited = to.post("/v1/messages/count_tokens", json=body(**edits(EDIT))).json
    assert whole is not None and edited is not None
    assert edited["context_management"] == {"original_input_tokens": whole["input_tokens"]}
    assert edited["input_tokens"] < whole["input_tokens"]
