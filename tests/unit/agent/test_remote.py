"""MCP servers that requests name by URL: which, how many, and at which addresses."""

from __future__ import annotations

import sys

import pytest

from proxy.agent import toolbox
from proxy.agent.toolbox import Remotes
from proxy.errors import Forbidden, InvalidParameter, QueueFull, UpstreamFault
from tests.extras import need

URL = "https://mcp.example/a"


def use(remotes: Remotes, url: str = URL) -> None:
    with remotes.open("far", url, {}):
        pass


def test_only_allowed_urls_are_opened() -> None:
    for patterns in ([], ["https://other.example/*"]):
        with pytest.raises(Forbidden, match="--mcp-url"):
            use(Remotes(patterns))
    with pytest.raises(InvalidParameter, match="server_url"):
        use(Remotes(["https://*/*"]), "ftp://mcp.example")
    use(Remotes(["https://mcp.example/*"]))


def test_number_of_servers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolbox, "MOST_REMOTE", 1)
    remotes = Remotes([URL])
    with remotes.open("far", URL, {}), pytest.raises(QueueFull, match="too many MCP servers"):
        use(remotes)
    use(remotes)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")
def test_name_that_a_pattern_permits_must_have_a_public_address() -> None:
    """`localhost` itself is permitted by a pattern of that name alone."""
    need("knowledge", "mcp")
    for pattern, is_public in (("http://local*:9/mcp", True), ("http://localhost:9/mcp", False)):
        with Remotes([pattern]).open("far", "http://localhost:9/mcp", {}) as tools:
            with pytest.raises(UpstreamFault) as caught:
                tools()
            assert ("not on the public internet" in caught.value.message) is is_public
