"""MCP servers in /v1/messages: servers, toolsets and blocks."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.apis import anthropic
from proxy.apis.responses import mcp
from proxy.core.request import CompletionRequest
from proxy.errors import InvalidParameter

FAR: Any = {"type": "url", "name": "far", "url": "https://mcp.example/a"}
SAID = [{"role": "user", "content": "Hi"}]


def parse(*servers: Any, **body: Any) -> CompletionRequest:
    given = {"messages": SAID, "max_tokens": 9, "mcp_servers": list(servers), **body}
    return anthropic.parse(given)


def test_number_of_servers_and_length_of_tokens_are_bounded() -> None:
    many = [{**FAR, "name": f"s{i}"} for i in range(mcp.MOST_SERVERS + 1)]
    assert len(parse(*many[:-1]).servers) == mcp.MOST_SERVERS
    with pytest.raises(InvalidParameter, match=f"at most {mcp.MOST_SERVERS}"):
        parse(*many)
    token = "t" * mcp.LONGEST_HEADER
    assert parse({**FAR, "authorization_token": token}).servers
    with pytest.raises(InvalidParameter, match=f"at most {mcp.LONGEST_HEADER}"):
        parse({**FAR, "authorization_token": token + "t"})
