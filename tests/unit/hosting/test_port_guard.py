"""Whose sockets a connection to a model's port reaches."""

from __future__ import annotations

import socket
import subprocess
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
from proxy.hosting import port_guard
from proxy.hosting.port_guard import PortGuard
from tests.fakes import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")

LISTENS = """
import os, signal, socket, sys, time
if sys.argv[2] and os.fork() == 0:  # as a container's port: a process of another session
    os.setsid()
    signal.alarm(30)  # it outlives the process that the test ends
    time.sleep(0.05)
elif sys.argv[2]:
    time.sleep(60)
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
both = family == socket.AF_INET6
at = sys.argv[1], 0
with socket.create_server(at, family=family, dualstack_ipv6=both) as server:
    print(server.getsockname()[1], flush=True)
    server.settimeout(0.2)
    parent = os.getppid()
    while os.getppid() == parent:
        try:
            client, _ = server.accept()
        except TimeoutError:
            continue
        with client:
            client.settimeout(10)
            client.recv(65536)
            client.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def started(stack: ExitStack, *args: str) -> tuple[int, int]:
    """The process id of a program that listens, in a session of its own, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENS, *args], stdout=subprocess.PIPE, start_new_session=True
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    stack.enter_context(process.stdout)
    return process.pid, int(process.stdout.readline())


def ask(guard: PortGuard, port: int) -> bytes:
    pool = ConnectionPool(f"http://127.0.0.1:{port}", timeout=10, check_peer=guard.check)
    try:
        return pool.ask("GET", "/")[1]
    finally:
        pool.close()


def stolen(stack: ExitStack) -> tuple[int, list[bytes]]:
    """The port of a program that is no model's server, and what each connection there brought."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    got: list[bytes] = []

    def listen() -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                with client:
                    client.settimeout(10)
                    got.append(client.recv(65536))

    thief = threading.Thread(target=listen)
    thief.start()
    stack.callback(thief.join)
    stack.callback(server.shutdown, socket.SHUT_RDWR)
    return server.getsockname()[1], got


@pytest.mark.parametrize("at", ["127.0.0.1", "0.0.0.0", "::"])
@pytest.mark.parametrize("container", ["", "yes"])
def test_server_and_port_of_a_container_are_trusted(
    stack: ExitStack, at: str, container: str
) -> None:
    if at == "::" and not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    guard = PortGuard()
    pid, port = started(stack, at, container)
    guard.watch(pid)
    assert ask(guard, port) == b"ok"
    assert ask(guard, port) == b"ok"
    assert not guard.foreign


def test_program_of_another_user_gets_nothing(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    monkeypatch.setattr(port_guard, "_users", lambda *_: {0, 4711, 4712})
    port, got = stolen(stack)
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
    port, got = stolen(stack)
    key = {} if driver is HTTPServer else {"api_key": "the key of the server"}
    probed = driver(f"http://127.0.0.1:{port}", check_peer=PortGuard().check, **key)
    stack.callback(probed.close)
    with pytest.raises(BackendDown):
        probed.probe(5.0)
    wait_until(lambda: bool(got), 10)
    assert not any(got)
