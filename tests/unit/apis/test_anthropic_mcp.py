"""MCP servers in /v1/messages: servers, toolsets and blocks."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.apis import anthropic
from proxy.apis.response_meta import ResponseMeta
from proxy.apis.responses import mcp
from proxy.core.events import Batch, Finished, ServerCall, Started, TextDelta
from proxy.core.fold import fold
from proxy.core.mcp import McpServer
from proxy.core.request import CompletionRequest, Message, ToolCall
from proxy.core.usage import Usage
from proxy.errors import InvalidParameter
from tests.contract import ears

META = ResponseMeta("msg_1", 1, "m")
FAR: Any = {"type": "url", "name": "far", "url": "https://mcp.example/a"}
SAID = [{"role": "user", "content": "Hi"}]


def parse(*servers: Any, **body: Any) -> CompletionRequest:
    given = {"messages": SAID, "max_tokens": 9, "mcp_servers": list(servers), **body}
    return anthropic.parse(given)


def toolset(**fields: Any) -> dict[str, Any]:
    return {"type": "mcp_toolset", "mcp_server_name": "far", **fields}


def offered(server: McpServer) -> str:
    assert not server.approval.asks("a", False)
    return "".join(name for name in "abc" if server.allowed.fits(name, False))


def test_servers_are_read() -> None:
    (server,) = parse({**FAR, "authorization_token": "t"}).servers
    assert (server.label, server.url) == ("far", "https://mcp.example/a")
    assert server.headers == {"Authorization": "Bearer t"}
    assert offered(server) == "abc"
    (server,) = parse({"type": "url", "name": "far"}).servers
    assert server.url == ""


@pytest.mark.parametrize(
    ("config", "names"),
    [({}, "abc"), ({"allowed_tools": ["a"]}, "a"), ({"enabled": False}, None)],
)
def test_configuration_allows_tools(config: Any, names: str | None) -> None:
    servers = parse({**FAR, "tool_configuration": config}).servers
    assert [offered(server) for server in servers] == ([] if names is None else [names])


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, "abc"),
        ({"configs": {"a": {"enabled": False}}}, "bc"),
        ({"default_config": {"enabled": False}, "configs": {"a": {"enabled": True}}}, "a"),
        ({"default_config": {"enabled": False}, "configs": {"a": {}}}, ""),
    ],
)
def test_toolset_enables_tools(fields: Any, names: str) -> None:
    asked = parse(FAR, tools=[toolset(**fields)])
    assert [offered(server) for server in asked.servers] == [names]
    assert asked.warnings == ()


@pytest.mark.parametrize(
    ("servers", "body", "param"),
    [
        ([{"type": "url"}], {}, "mcp_servers[0].name"),
        ([{**FAR, "name": "a b"}], {}, "mcp_servers[0].name"),
        ([{**FAR, "type": "stdio"}], {}, "mcp_servers[0].type"),
        ([FAR, FAR], {}, "mcp_servers[1].name"),
        ([{**FAR, "authorization_token": "a\nb"}], {}, "mcp_servers[0].authorization_token"),
        ([{**FAR, "url": None, "authorization_token": "a"}], {}, "authorization_token"),
        ([{**FAR, "tool_configuration": {"allowed_tools": [1]}}], {}, "allowed_tools"),
        ([], {"tools": [toolset()]}, "tools[0].mcp_server_name"),
    ],
)
def test_invalid_servers_are_refused(servers: Any, body: Any, param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(*servers, **body)
    assert param in caught.value.param


def test_number_of_servers_and_length_of_tokens_are_bounded() -> None:
    many = [{**FAR, "name": f"s{i}"} for i in range(mcp.MOST_SERVERS + 1)]
    assert len(parse(*many[:-1]).servers) == mcp.MOST_SERVERS
    with pytest.raises(InvalidParameter, match=f"at most {mcp.MOST_SERVERS}"):
        parse(*many)
    token = "t" * mcp.LONGEST_HEADER
    assert parse({**FAR, "authorization_token": token}).servers
    with pytest.raises(InvalidParameter, match=f"at most {mcp.LONGEST_HEADER}"):
        parse({**FAR, "authorization_token": token + "t"})


def test_blocks_sent_back_are_a_call_and_its_result() -> None:
    use = {"type": "mcp_tool_use", "id": "c", "name": "get", "server_name": "far", "input": {}}
    result = {"type": "mcp_tool_result", "tool_use_id": "c", "content": [], "is_error": False}
    result["content"] = [{"type": "text", "text": "4"}]
    turn = {"role": "assistant", "content": [use, result, {"type": "text", "text": "Four."}]}
    asked = parse(messages=[*SAID, turn, *SAID])
    assert asked.messages[1:4] == (
        Message(role="assistant", tool_calls=(ToolCall("c", "far__get", "{}"),)),
        Message(role="tool", content="4", tool_call_id="c"),
        Message(role="assistant", content="Four."),
    )
    assert asked.warnings == ()


def made(**fields: Any) -> list[Batch]:
    call: dict[str, Any] = {"id": "c", "label": "far", "name": "get", "arguments": '{"a": 1}'}
    return [
        [Started()],
        [TextDelta("Let me see.")],
        [ServerCall(**call)],
        [],
        [ServerCall(**call, over=True, **fields)],
        [TextDelta("Four.")],
        [Finished(reason="stop", usage=Usage())],
    ]


USE = {"type": "mcp_tool_use", "id": "c", "name": "get", "server_name": "far"}


@pytest.mark.parametrize("fields", [{"output": "4"}, {"error": "4", "code": -32603}])
def test_calls_are_blocks(fields: dict[str, Any]) -> None:
    request = parse(FAR)
    result = {
        "type": "mcp_tool_result",
        "tool_use_id": "c",
        "is_error": "error" in fields,
        "content": [{"type": "text", "text": "4"}],
    }
    whole = anthropic.reply(META, request, fold((0, batch) for batch in made(**fields)))
    assert whole["content"] == [
        {"type": "text", "text": "Let me see."},
        {**USE, "input": {"a": 1}},
        result,
        {"type": "text", "text": "Four."},
    ]
    assert whole["stop_reason"] == "end_turn"
    encoder = anthropic.Encoder(META, request)
    data = b"".join(encoder.encode(0, batch) for batch in made(**fields))
    events = [event for _, event in ears.sse(data)]
    begun = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert begun[1:3] == [{**USE, "input": {}}, result]
    assert [block["type"] for block in (begun[0], begun[3])] == ["text", "text"]
    stopped = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert stopped == [0, 1, 2, 3]
    (delta,) = [e["delta"] for e in events if e.get("delta", {}).get("type") == "input_json_delta"]
    assert delta["partial_json"] == '{"a": 1}'
