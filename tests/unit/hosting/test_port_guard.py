"""Whose sockets a connection to a model's port reaches."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from proxy.backends.driver import Driver
from proxy.backends.http import ConnectionPool
from proxy.backends.http_server import HTTPServer
from proxy.backends.llamacpp import EmbeddingServer, LlamaCpp
from proxy.backends.openai.driver import OpenAIServer
from proxy.errors import BackendDown
from proxy.hosting import process
from proxy.hosting.process import PortGuard
from tests.fakes import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def ask(guard: PortGuard, port: int) -> bytes:
    pool = ConnectionPool(f"http://127.0.0.1:{port}", timeout=10, check_peer=guard.check)
    try:
        return pool.ask("GET", "/")[1]
    finally:
        pool.close()


def listening(stack: ExitStack, at: str = "127.0.0.1") -> tuple[int, list[bytes]]:
    """The port of a server, and the bytes of each connection there."""
    family = socket.AF_INET6 if ":" in at else socket.AF_INET
    server = socket.create_server((at, 0), family=family, dualstack_ipv6=family == socket.AF_INET6)
    stack.enter_context(server)
    got: list[bytes] = []

    def listen() -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                with client:
                    client.settimeout(10)
                    got.append(client.recv(65536))
                    client.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")

    thread = threading.Thread(target=listen)
    thread.start()
    stack.callback(thread.join)
    stack.callback(server.shutdown, socket.SHUT_RDWR)
    return server.getsockname()[1], got


@pytest.mark.parametrize("at", ["127.0.0.1", "0.0.0.0", "::"])
def test_server_of_our_user_is_trusted(stack: ExitStack, at: str) -> None:
    if at == "::" and not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    guard = PortGuard()
    guard.watch(os.getpid())
    port, _ = listening(stack, at)
    assert ask(guard, port) == ask(guard, port) == b"ok"
    assert not guard.foreign


def test_program_of_another_user_gets_nothing(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    monkeypatch.setattr(process, "_users", lambda *_: {0, 4711, 4712})
    port, got = listening(stack)
    guard = PortGuard()
    guard.watch(1 << 30)
    with pytest.raises(BackendDown, match="a program of the user 4712 listens"):
        ask(guard, port)
    wait_until(lambda: bool(got), 10)
    assert not any(got)
    assert guard.foreign


@pytest.mark.parametrize("driver", [LlamaCpp, EmbeddingServer, OpenAIServer, HTTPServer])
def test_a_probe_of_a_foreign_server_sends_nothing(
    stack: ExitStack, driver: Callable[..., Driver]
) -> None:
    """Not the server's key, above all."""
    port, got = listening(stack)
    key = {} if driver is HTTPServer else {"api_key": "the key of the server"}
    probed = driver(f"http://127.0.0.1:{port}", check_peer=PortGuard().check, **key)
    stack.callback(probed.close)
    with pytest.raises(BackendDown):
        probed.probe(5.0)
    wait_until(lambda: bool(got), 10)
    assert not any(got)
