"""Anthropic's context edits: the cleared parts, and the times."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.apis.anthropic import context_edits, parse
from proxy.apis.anthropic.context_edits import CLEARED
from proxy.core.request import CompletionRequest, Message, ToolCall
from proxy.errors import InvalidParameter

USES, THINKING = context_edits.TOOL_USES, context_edits.THINKING


def used(number: int, name: str = "get") -> list[dict[str, Any]]:
    call = {"type": "tool_use", "id": f"c{number}", "name": name, "input": {"n": number}}
    result = {"type": "tool_result", "tool_use_id": f"c{number}", "content": "x" * 100}
    thought = {"type": "thinking", "thinking": f"thought {number}", "signature": ""}
    return [
        {"role": "assistant", "content": [thought, call]},
        {"role": "user", "content": [result]},
    ]


def conversation(*names: str) -> CompletionRequest:
    turns = [turn for i, name in enumerate(names) for turn in used(i, name)]
    first = {"role": "user", "content": "Go"}
    return parse({"max_tokens": 9, "messages": [first, *turns, {"role": "user", "content": "?"}]})


def count(request: CompletionRequest) -> int:
    return sum(message.characters + len(message.reasoning) for message in request.messages)


def edited(
    request: CompletionRequest, *edits: dict[str, Any]
) -> tuple[CompletionRequest, list[dict[str, Any]]]:
    management = context_edits.parse({"context_management": {"edits": list(edits)}})
    return context_edits.apply(request, management.edits, count)


def results(request: CompletionRequest) -> str:
    """A letter for each result: c cleared, k kept."""
    tools = [message for message in request.messages if message.role == "tool"]
    return "".join("c" if message.content == CLEARED else "k" for message in tools)


def trigger(value: int, kind: str = "input_tokens") -> dict[str, Any]:
    return {"type": kind, "value": value}


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ({}, "kkkkk"),  # 100 000 tokens are not reached
        ({"trigger": trigger(100)}, "cckkk"),
        ({"trigger": trigger(100), "keep": trigger(1, "tool_uses")}, "cccck"),
        ({"trigger": trigger(100), "keep": trigger(0, "tool_uses")}, "ccccc"),
        ({"trigger": trigger(0)}, "cckkk"),
        ({"trigger": trigger(4, "tool_uses")}, "cckkk"),
        ({"trigger": trigger(0, "tool_uses")}, "cckkk"),
        ({"trigger": trigger(5, "tool_uses")}, "kkkkk"),
        ({"trigger": trigger(100), "clear_at_least": trigger(5000)}, "kkkkk"),
        ({"trigger": trigger(100), "clear_at_least": trigger(50)}, "cckkk"),
        ({"trigger": trigger(100), "exclude_tools": ["get"]}, "kkkkk"),
    ],
)
def test_old_results_are_cleared(edit: dict[str, Any], expected: str) -> None:
    request = conversation(*["get"] * 5)
    result, applied = edited(request, {"type": USES, **edit})
    assert results(result) == expected
    cleared = expected.count("c")
    assert [row["cleared_tool_uses"] for row in applied] == ([cleared] if cleared else [])
    if cleared:
        assert applied[0]["cleared_input_tokens"] == count(request) - count(result)
    calls = [call.id for message in result.messages for call in message.tool_calls]
    assert calls == [message.tool_call_id for message in result.messages if message.role == "tool"]


def test_results_of_excluded_tools_stay() -> None:
    edit = {"type": USES, "trigger": trigger(10), "keep": trigger(1, "tool_uses")}
    result, _ = edited(
        conversation("get", "memory", "get", "get"), {**edit, "exclude_tools": ["memory"]}
    )
    assert results(result) == "ckck"


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (False, ['{"n":0}', '{"n":1}', '{"n":2}']),
        (True, ["{}", "{}", '{"n":2}']),
        (["put"], ['{"n":0}', "{}", '{"n":2}']),
    ],
)
def test_arguments_of_old_calls_are_cleared_on_request(inputs: Any, expected: list[str]) -> None:
    edit = {"type": USES, "trigger": trigger(10), "keep": trigger(1, "tool_uses")}
    result, _ = edited(conversation("get", "put", "get"), {**edit, "clear_tool_inputs": inputs})
    assert [c.arguments for m in result.messages for c in m.tool_calls] == expected


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (None, ["", "", "thought 2"]),
        ({"type": "thinking_turns", "value": 2}, ["", "thought 1", "thought 2"]),
        ("all", ["thought 0", "thought 1", "thought 2"]),
        ({"type": "all"}, ["thought 0", "thought 1", "thought 2"]),
    ],
)
def test_old_thoughts_are_cleared(keep: Any, expected: list[str]) -> None:
    result, applied = edited(conversation("a", "b", "c"), {"type": THINKING, "keep": keep})
    assert [m.reasoning for m in result.messages if m.role == "assistant"] == expected
    turns = expected.count("")
    assert [row["cleared_thinking_turns"] for row in applied] == ([turns] if turns else [])


def test_edits_apply_one_after_the_other() -> None:
    request = conversation("a", "b", "c", "d")
    _, applied = edited(request, {"type": THINKING}, {"type": USES, "trigger": trigger(10)})
    assert [row["type"] for row in applied] == [THINKING, USES]


def test_unknown_edits_are_warnings() -> None:
    body = {"edits": [{"type": "summon_20260112"}]}
    management = context_edits.parse({"context_management": body})
    assert management.edits == () and "summon_20260112" in management.warnings[0]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], ""),
        ({"edits": {}}, ".edits"),
        ({"edits": [{}]}, ".edits[0].type"),
        ({"edits": [{"type": USES}] * 17}, ".edits"),
        ({"edits": [{"type": USES}, {"type": THINKING}, {"type": USES}]}, ".edits[2].type"),
        ({"edits": [{"type": USES, "trigger": trigger(-1)}]}, ".edits[0].trigger.value"),
        ({"edits": [{"type": USES, "trigger": trigger(1, "days")}]}, ".edits[0].trigger.type"),
        ({"edits": [{"type": USES, "exclude_tools": [1]}]}, ".edits[0].exclude_tools[0]"),
        ({"edits": [{"type": USES, "clear_tool_inputs": 1}]}, ".edits[0].clear_tool_inputs"),
        ({"edits": [{"type": THINKING, "keep": 5}]}, ".edits[0].keep"),
    ],
)
def test_wrong_edits_are_refused(body: Any, param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        context_edits.parse({"context_management": body})
    assert caught.value.param == f"context_management{param}"


def test_result_without_its_call_is_cleared() -> None:
    messages = [Message(role="tool", content="x" * 90, tool_call_id="gone")]
    edit = {"type": USES, "trigger": trigger(10), "keep": trigger(0, "tool_uses")}
    result, _ = edited(CompletionRequest(messages=tuple(messages)), edit)
    assert results(result) == "c"


def test_results_whose_calls_share_an_id_are_cleared_one_by_one() -> None:
    messages = [
        message
        for number in range(4)
        for message in (
            Message(
                role="assistant", tool_calls=(ToolCall("call_0", f"f{number}", f"[{number}]"),)
            ),
            Message(role="tool", content="x" * 90, tool_call_id="call_0"),
        )
    ]
    edit = {"type": USES, "trigger": trigger(10), "keep": trigger(1, "tool_uses")}
    more: dict[str, Any] = {"clear_tool_inputs": True, "exclude_tools": ["f1"]}
    result, _ = edited(CompletionRequest(messages=tuple(messages)), {**edit, **more})
    assert results(result) == "ckck"
    calls = [call.arguments for message in result.messages for call in message.tool_calls]
    assert calls == ["{}", "[1]", "{}", "[3]"]
