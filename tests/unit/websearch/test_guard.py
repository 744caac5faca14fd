"""Pages are read of the open internet alone: by address, by name, by redirect."""

from __future__ import annotations

import ipaddress
import socket
import time

import pytest

from proxy.errors import Forbidden, GatewayError, UpstreamFault, UpstreamTimeout
from proxy.websearch import fetch as fetching
from proxy.websearch import guard
from proxy.websearch.fetch import LARGEST, fetch
from proxy.websearch.guard import EngineRequest

from .conftest import Web


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
    assert not guard.public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_accepted(text: str) -> None:
    assert guard.public(ipaddress.ip_address(text))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::1]"])
def test_private_address_is_never_fetched(web: Web, host: str) -> None:
    web.page("/", "secret")
    port = web.url.rpartition(":")[2]
    with pytest.raises(GatewayError) as caught:
        fetch(EngineRequest(f"http://{host}:{port}/"), 5)
    assert isinstance(caught.value, Forbidden | UpstreamFault)
    assert web.seen == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x.example/", "http://", "gopher://x", "http://a:b@c.example/"]
)  # fmt: skip
def test_other_url_schemes_are_refused(url: str) -> None:
    with pytest.raises(Forbidden):
        fetch(EngineRequest(url), 5)


def names(monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, ...]) -> list[str]:
    """The resolver says these, one after the other; gives the names it was asked for."""
    asked: list[str] = []
    left = list(answers)

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(0, 0, 0, "", (address, port)) for address in left.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def redirect_connections(monkeypatch: pytest.MonkeyPatch, port: int) -> list[object]:
    """Every connection goes to this port of ours; gives the addresses that were meant."""
    meant: list[object] = []
    connect = socket.socket.connect

    def connected(sock: socket.socket, address: tuple[str, int]) -> None:
        meant.append(address)
        connect(sock, ("127.0.0.1", port))

    monkeypatch.setattr(socket.socket, "connect", connected)
    return meant


def test_host_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ("8.8.8.8", "10.0.0.1"))
    with pytest.raises(Forbidden):
        fetch(EngineRequest("http://x.example/"), 5)


def test_connection_goes_to_the_checked_address(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is public when judged and private a moment later is not asked again."""
    port = web.url.rpartition(":")[2]
    web.page("/", "hello")
    asked = names(monkeypatch, ("8.8.8.8",), ("127.0.0.1",))
    went = redirect_connections(monkeypatch, int(port))
    page = fetch(EngineRequest(f"http://x.example:{port}/"), 60)
    assert page.data == b"hello"
    assert (went, asked) == ([("8.8.8.8", int(port))], ["x.example"])
    assert web.seen[0][2]["Host"] == f"x.example:{port}"


def test_redirect_target_is_checked(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    port = web.url.rpartition(":")[2]
    web.pages["/"] = 302, {"Location": f"http://inner.example:{port}/secret"}, b""
    web.page("/secret", "secret")
    names(monkeypatch, ("8.8.8.8",), ("127.0.0.1",))
    redirect_connections(monkeypatch, int(port))
    with pytest.raises(Forbidden):
        fetch(EngineRequest(f"http://x.example:{port}/"), 60)
    assert [path for _, path, _, _ in web.seen] == ["/"]


def test_number_of_redirects_is_bounded(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "resolve", lambda host, port, open_only: "127.0.0.1")
    web.pages["/"] = 302, {"Location": "/"}, b""
    with pytest.raises(UpstreamFault, match="too many redirects"):
        fetch(EngineRequest(web.url), 60)
    assert len(web.seen) == 4


def test_fetch_size_and_time_are_bounded(web: Web) -> None:
    web.pages["/large"] = 200, {"Content-Type": "text/plain"}, b"x" * (LARGEST + 100_000)
    page = fetch(EngineRequest(web.url + "/large"), 60, open_only=False)
    assert len(page.data) == LARGEST
    web.silent.add("/slow")
    began = time.monotonic()
    with pytest.raises(UpstreamTimeout):
        fetch(EngineRequest(web.url + "/slow"), 0.3, open_only=False)
    assert time.monotonic() - began < 40
