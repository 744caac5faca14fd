"""MCP servers in /v1/responses: tools, approvals and items."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from proxy.apis import responses
from proxy.apis.response_meta import ResponseMeta
from proxy.apis.responses import mcp
from proxy.core.events import (
    ApprovalRequested,
    Batch,
    Finished,
    ListedTool,
    ServerCall,
    Started,
    TextDelta,
    ToolsListed,
)
from proxy.core.fold import fold
from proxy.core.mcp import ApprovedCall, McpServer
from proxy.core.request import Message, ToolCall, ToolChoice
from proxy.core.usage import Usage
from proxy.errors import InvalidParameter

META = ResponseMeta("resp_1", 1, "m")
FAR: Any = {"type": "mcp", "server_label": "far"}
REMOTE: Any = {**FAR, "server_url": "https://u:p@mcp.example:8443/key?a=b"}
LISTED = ToolsListed("far", (ListedTool("get", "Get it", {"type": "object"}, {"a": True}),))
CALL = ServerCall(id="c1", label="far", name="get", arguments='{"a": 1}')
REQUEST = {
    "type": "mcp_approval_request",
    "id": "mcpr_1",
    "server_label": "far",
    "name": "get",
    "arguments": '{"a": 1}',
}


def parse(**body: Any) -> responses.ParsedRequest:
    return responses.parse({"input": "Hi", "tools": [FAR], **body})


def answer(approve: bool, **more: Any) -> dict[str, Any]:
    kind = "mcp_approval_response"
    return {"type": kind, "approval_request_id": "mcpr_1", "approve": approve, **more}


def told(given: Sequence[Batch]) -> list[Any]:
    encoder = responses.Encoder(META, parse(), lambda _: None)
    data = b"".join(encoder.encode(0, batch) for batch in given)
    lines = [line for line in data.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines]


def test_servers_are_taken_out_of_the_tools() -> None:
    asked = parse(tools=[FAR, {"type": "function", "name": "f"}])
    assert asked.request.servers == (McpServer(label="far"),)
    assert [tool.name for tool in asked.request.tools] == ["f"]
    assert asked.request.warnings == ()


def test_tools_are_allowed_by_name_or_filter() -> None:
    (server,) = parse(tools=[{**FAR, "allowed_tools": ["a", "b"]}]).request.servers
    assert [server.allowed.fits(name, False) for name in "abc"] == [True, True, False]
    given = {"tool_names": ["a", "b"], "read_only": True}
    (server,) = parse(tools=[{**FAR, "allowed_tools": given}]).request.servers
    assert server.allowed.fits("a", True)
    assert not server.allowed.fits("a", False)


@pytest.mark.parametrize(
    ("given", "asks"),
    [
        (None, "abc"),
        ("always", "abc"),
        ("never", ""),
        ({"never": {"tool_names": ["a"]}}, "bc"),
        ({"always": {"tool_names": ["a"]}}, "a"),
        ({"always": {"tool_names": ["a"]}, "never": {"tool_names": ["a", "b"]}}, "ac"),
        ({"never": {"read_only": True}}, "abc"),
    ],
)
def test_approval_is_required_as_the_request_says(given: Any, asks: str) -> None:
    (server,) = parse(tools=[{**FAR, "require_approval": given}]).request.servers
    assert "".join(name for name in "abc" if server.approval.asks(name, False)) == asks


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "mcp"}, "server_label"),
        ({**FAR, "server_label": "a b"}, "server_label"),
        ({**FAR, "connector_id": "connector_gmail"}, "connector_id"),
        ({**FAR, "allowed_tools": [1]}, "allowed_tools"),
        ({**FAR, "require_approval": "sometimes"}, "require_approval"),
        ({**FAR, "headers": {"X-Key": "k"}}, "headers"),
        ({**FAR, "authorization": "t"}, "authorization"),
        ({**REMOTE, "headers": {"X Key": "k"}}, "headers"),
        ({**REMOTE, "headers": {"X-Key": "a\r\nHost: b"}}, "headers"),
        ({**REMOTE, "headers": {"Host": "b"}}, "headers"),
        ({**REMOTE, "headers": {"authorization": "a"}, "authorization": "b"}, "authorization"),
    ],
)
def test_invalid_servers_are_refused(tool: Any, param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(tools=[tool])
    assert param in caught.value.param


def test_number_of_servers_and_headers_is_bounded() -> None:
    servers = [{**FAR, "server_label": f"s{i}"} for i in range(mcp.MOST_SERVERS + 1)]
    assert len(parse(tools=servers[:-1]).request.servers) == mcp.MOST_SERVERS
    with pytest.raises(InvalidParameter, match=f"at most {mcp.MOST_SERVERS} MCP servers"):
        parse(tools=servers)
    with pytest.raises(InvalidParameter, match="used twice"):
        parse(tools=[FAR, FAR])
    headers = {f"X-{i}": "" for i in range(mcp.MOST_HEADERS + 1)}
    with pytest.raises(InvalidParameter, match=f"at most {mcp.MOST_HEADERS}"):
        parse(tools=[{**REMOTE, "headers": headers}])
    long = {"X": "x" * mcp.LONGEST_HEADER}
    assert parse(tools=[{**REMOTE, "headers": long}]).request.servers[0].headers == long
    with pytest.raises(InvalidParameter, match="printable"):
        parse(tools=[{**REMOTE, "headers": {"X": long["X"] + "x"}}])


def test_secrets_are_not_repeated() -> None:
    tool = {**REMOTE, "headers": {"X-Key": "secret"}, "authorization": "token"}
    asked = parse(tools=[tool])
    assert asked.request.servers[0].headers == {"X-Key": "secret", "Authorization": "Bearer token"}
    (shown,) = asked.repeated["tools"]
    assert shown["server_url"] == "https://mcp.example:8443/<redacted>"
    assert shown["headers"] is None
    assert "authorization" not in shown


def test_tool_of_a_server_can_be_forced() -> None:
    choice = {"type": "mcp", "server_label": "far"}
    assert parse(tool_choice=choice).request.tool_choice == ToolChoice("required")
    named = parse(tool_choice={**choice, "name": "get"}).request.tool_choice
    assert named == ToolChoice("named", "far__get")


def test_approved_call_waits_for_its_result() -> None:
    asked = parse(input=[{"role": "user", "content": "Hi"}, REQUEST, answer(True)])
    assert asked.request.approved == (ApprovedCall("mcpr_1", "far", "get", '{"a": 1}'),)
    call = ToolCall("mcpr_1", "far__get", '{"a": 1}')
    assert asked.request.messages[1:] == (
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", name="far__get", tool_call_id="mcpr_1"),
    )


def test_refused_call_is_a_result() -> None:
    given = [{"role": "user", "content": "Hi"}, REQUEST, answer(False, reason="Too far.")]
    asked = parse(input=given)
    assert asked.request.approved == ()
    assert asked.request.messages[-1].content == f"{mcp.REFUSED} Too far."


def test_call_that_was_made_is_not_made_again() -> None:
    made = {**REQUEST, "type": "mcp_call", "id": "mcp_1", "approval_request_id": "mcpr_1"}
    given = [{"role": "user", "content": "Hi"}, REQUEST, answer(True), {**made, "output": "4"}]
    asked = parse(input=given)
    assert asked.request.approved == ()
    assert [message.role for message in asked.request.messages] == ["user", "assistant", "tool"]
    assert asked.request.messages[-1].content == "4"


def test_failed_call_is_read_as_an_error() -> None:
    error = {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": "no"}]}
    made = {**REQUEST, "type": "mcp_call", "id": "mcp_1", "error": error}
    asked = parse(input=[{"role": "user", "content": "Hi"}, made])
    assert asked.request.messages[-1].content == "Error: no"


def test_unanswered_request_is_left_out() -> None:
    asked = parse(input=[REQUEST, {"role": "user", "content": "Never mind."}])
    assert [message.role for message in asked.request.messages] == ["user"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": [answer(True)]}, "not that mcp_approval_request"),
        ({"input": [REQUEST, answer(True)], "tools": []}, "must contain the MCP server 'far'"),
        ({"input": [REQUEST, {**answer(True), "approve": None}]}, "must be true or false"),
    ],
)
def test_answer_without_its_request_or_server_is_refused(
    body: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        parse(**{"input": "Hi", **body})


def test_tools_are_listed_once_for_a_conversation() -> None:
    listed = {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "far", "tools": []}
    (server,) = parse(input=[listed, {"role": "user", "content": "Hi"}]).request.servers
    assert server.listed
    (server,) = parse(
        input=[{**listed, "error": "gone"}, {"role": "user"} | {"content": ""}]
    ).request.servers
    assert not server.listed


MADE: list[Batch] = [
    [Started(), LISTED],
    [CALL],
    [],
    [ServerCall(id="c1", label="far", name="get", arguments='{"a": 1}', over=True, output="4")],
    [TextDelta("Four.")],
    [ApprovalRequested("far", "put", "{}")],
    [Finished(reason="tool_calls", usage=Usage())],
]


def test_stream_ends_with_the_whole_answer() -> None:
    events = told(MADE)
    whole = responses.whole(META, parse(), fold((0, batch) for batch in MADE))
    assert events[-1]["response"]["output"] == whole["output"]
    kinds = [item["type"] for item in whole["output"]]
    assert kinds == ["mcp_list_tools", "mcp_call", "message", "mcp_approval_request"]
    listed, call, _, request = whole["output"]
    assert listed["tools"] == [
        {
            "name": "get",
            "description": "Get it",
            "input_schema": {"type": "object"},
            "annotations": {"a": True},
        }
    ]
    assert (call["output"], call["error"], call["status"]) == ("4", None, "completed")
    assert (request["name"], request["arguments"]) == ("put", "{}")
    assert [event["type"].removeprefix("response.") for event in events][2:12] == [
        "output_item.added",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "output_item.done",
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
    ]


def test_failures_are_reported() -> None:
    over = ServerCall(
        id="c1", label="far", name="get", arguments="{}", over=True, error="no", code=-32001
    )
    given: list[Batch] = [
        [Started(), ToolsListed("far", error="gone")],
        [CALL],
        [over],
        [TextDelta("x")],
        [Finished(reason="stop", usage=Usage())],
    ]
    events = told(given)
    kinds = [event["type"] for event in events]
    assert "response.mcp_list_tools.failed" in kinds
    assert "response.mcp_call.failed" in kinds
    listed, call, _ = events[-1]["response"]["output"]
    assert listed["error"] == "gone"
    assert call["status"] == "failed"
    assert call["error"] == {"type": "mcp_protocol_error", "code": -32001, "message": "no"}


FUNCTION: Any = {"type": "function", "name": "foo", "parameters": {"type": "object"}}
NEAR: Any = {"type": "mcp", "server_label": "near"}


@pytest.mark.parametrize(
    ("choice", "functions", "labels"),
    [
        ({"type": "allowed_tools", "tools": [{"type": "function", "name": "foo"}]}, ["foo"], []),
        ({"type": "allowed_tools", "tools": [FAR]}, [], ["far"]),
        ({"type": "allowed_tools", "tools": [FUNCTION, NEAR]}, ["foo"], ["near"]),
        (FAR, [], ["far"]),
        ("required", ["foo"], ["far", "near"]),
    ],
)
def test_tool_choice_binds_servers_and_functions(
    choice: Any, functions: list[str], labels: list[str]
) -> None:
    request = parse(tools=[FUNCTION, FAR, NEAR], tool_choice=choice).request
    assert [tool.name for tool in request.tools] == functions
    assert [server.label for server in request.servers] == labels


@pytest.mark.parametrize("label", ["a__b", "a_", "1a", "a b", ""])
def test_label_that_could_be_taken_for_another_is_refused(label: str) -> None:
    with pytest.raises(InvalidParameter, match="server_label"):
        parse(tools=[{"type": "mcp", "server_label": label}])


def test_number_of_approved_calls_is_bounded() -> None:
    def given(count: int) -> list[Any]:
        return [
            item
            for number in range(count)
            for item in (
                {**REQUEST, "id": f"mcpr_{number}"},
                {**answer(True), "approval_request_id": f"mcpr_{number}"},
            )
        ]

    assert len(parse(input=given(mcp.MOST_APPROVED)).request.approved) == mcp.MOST_APPROVED
    with pytest.raises(InvalidParameter, match=f"at most {mcp.MOST_APPROVED} calls"):
        parse(input=given(mcp.MOST_APPROVED + 1))
