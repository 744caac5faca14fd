"""MCP servers that requests name by URL: which, how many, and at which addresses."""

from __future__ import annotations

import ipaddress
import socket
import sys

import pytest

from proxy.agent import mcp, toolbox
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


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "224.0.0.1", "255.255.255.255", "198.18.0.1", "240.0.0.1", "::", "::1",
        "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
        "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2001:0:7f00:1::1",
        "2001:db8::1", "fec0::1", "feff:ffff::1",
    ],
)  # fmt: skip
def test_non_public_addresses_are_refused(text: str) -> None:
    assert not mcp.public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_accepted(text: str) -> None:
    assert mcp.public(ipaddress.ip_address(text))


def test_host_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(0, 0, 0, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(Forbidden):
        mcp.resolve("x.example", 80, open_only=True)
