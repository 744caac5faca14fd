"""Only addresses of the open internet are public."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from proxy.agent import mcp
from proxy.errors import Forbidden


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
