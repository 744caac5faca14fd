"""MCP servers that requests name by URL: which, how many, and at which addresses."""

from __future__ import annotations

import sys

import pytest

from proxy.agent import toolbox
from proxy.agent.toolbox import Remotes
from proxy.errors import Forbidden, InvalidParameter, QueueFull, UpstreamFault
from tests.extras import need

URL = "https://mcp.example/a"


def test_only_allowed_urls_are_opened() -> None:
    with pytest.raises(Forbidden, match="--mcp-url"):
        Remotes().open("far", URL, {})
    with pytest.raises(Forbidden, match="--mcp-url"):
        Remotes(["https://other.example/*"]).open("far", URL, {})
    with pytest.raises(InvalidParameter, match="server_url"):
        Remotes(["https://*/*"]).open("far", "ftp://mcp.example", {})
    Remotes(["https://mcp.example/*"]).open("far", URL, {}).close()


def test_number_of_servers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolbox, "MOST_REMOTE", 1)
    remotes = Remotes([URL])
    first = remotes.open("far", URL, {})
    with pytest.raises(QueueFull, match="too many MCP servers"):
        remotes.open("far", URL, {})
    first.close()
    first.close()
    remotes.open("far", URL, {}).close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")
def test_name_that_a_pattern_permits_must_have_a_public_address() -> None:
    """`localhost` itself is permitted by a pattern of that name alone."""
    need("knowledge", "mcp")
    server = Remotes(["http://local*:9/mcp"]).open("far", "http://localhost:9/mcp", {})
    try:
        with pytest.raises(UpstreamFault, match="not on the public internet"):
            server.tools()
    finally:
        server.close()
    server = Remotes(["http://localhost:9/mcp"]).open("far", "http://localhost:9/mcp", {})
    try:
        with pytest.raises(UpstreamFault) as caught:
            server.tools()
        assert "public" not in caught.value.message
    finally:
        server.close()
