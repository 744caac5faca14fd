"""MCP servers in /v1/responses and /v1/messages: approvals and bounds."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.apis import anthropic
from proxy.apis.responses import mcp
from proxy.apis.responses import request as responses
from proxy.errors import InvalidParameter

FAR: Any = {"type": "mcp", "server_label": "far"}
REMOTE: Any = {**FAR, "server_url": "https://u:p@mcp.example:8443/key?a=b"}
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


def test_number_of_servers_and_length_of_tokens_are_bounded() -> None:
    def servers(*named: Any) -> Any:
        said = [{"role": "user", "content": "Hi"}]
        body = {"messages": said, "max_tokens": 9, "mcp_servers": list(named)}
        return anthropic.parse(body).servers

    many = [{"type": "url", "name": f"s{i}"} for i in range(mcp.MOST_SERVERS + 1)]
    assert len(servers(*many[:-1])) == mcp.MOST_SERVERS
    with pytest.raises(InvalidParameter, match=f"at most {mcp.MOST_SERVERS}"):
        servers(*many)
    server: Any = {**many[0], "url": "https://mcp.example/a"}
    token = "t" * mcp.LONGEST_HEADER
    assert servers({**server, "authorization_token": token})
    with pytest.raises(InvalidParameter, match=f"at most {mcp.LONGEST_HEADER}"):
        servers({**server, "authorization_token": token + "t"})
