"""What one client or server sends in great numbers does not delay the answers to others.

Each test has a gateway of its own, and a process that requests /livez all the while (see `held`).
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.extras import need
from tests.http_fakes import FakeHandler, FakeServer
from tests.integration.held import watched
from tests.scripted_server import ScriptedServer
from tests.ws import connected
from tools.processes import Gateway, ask

# The time that a process waits for a processor is only in /proc; without it, a busy machine fails.
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LONGEST = 0.5  # seconds that the loop may be blocked
SENT = 20_000_000  # bytes

FRAMES = {
    "pings": b"\x89\x80aaaa" * 10_000,
    "pongs": b"\x8a\x80aaaa" * 10_000,
    "empty fragments": b"\x01\x80aaaa" + b"\x00\x80aaaa" * 10_000,
    "fragments of a byte": b"\x01\x81aaaaa" + b"\x00\x81aaaaa" * 10_000,
}


@pytest.fixture
def backend() -> Iterator[ScriptedServer]:
    with ScriptedServer(lambda prompt: "Hello!") as server:
        yield server


@contextlib.contextmanager
def prompt_answers(running: Gateway) -> Iterator[None]:
    """Fails if the loop is blocked for longer than LONGEST while the block runs."""
    with watched(running) as held:
        yield
    assert held.count and held.longest < LONGEST


def flood(url: str, frames: bytes) -> int:
    """Open a WebSocket, send frames until it is closed, and read. Returns the number of bytes."""
    sent = 0
    with connected(url) as client:
        assert client.head.startswith(b"HTTP/1.1 101")
        sock = client.sock
        sock.settimeout(5.0)
        reader = threading.Thread(target=drain, args=(sock,))
        reader.start()
        try:
            while sent < SENT:
                sock.sendall(frames)
                sent += len(frames)
        except OSError:
            pass
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        reader.join()
    return sent


def drain(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while sock.recv(65536):
            pass


@pytest.mark.parametrize("kind", FRAMES)
def test_small_websocket_frames_do_not_delay_others(
    gateway: Callable[..., Gateway], backend: ScriptedServer, kind: str
) -> None:
    running = gateway("--llama-api", backend.url)
    sent, end = 0, time.monotonic() + 15.0
    with prompt_answers(running):
        while sent < SENT and time.monotonic() < end:
            sent += flood(running.url, FRAMES[kind])


class _McpServer(FakeHandler):
    """Lists the tools that the last part of its path names."""

    def do_GET(self) -> None:
        self.send(b"", 405)

    do_DELETE = do_GET

    def do_POST(self) -> None:
        message = self.body()
        if "id" not in message:
            self.send(b"", 202)
            return
        result: dict[str, Any] = {}
        if message["method"] == "initialize":
            result["protocolVersion"] = message["params"]["protocolVersion"]
            result |= {"capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}
        elif message["method"] == "tools/list":
            result["tools"] = TOOLS[self.path.rpartition("/")[2]]
        self.send({"jsonrpc": "2.0", "id": message["id"], "result": result})


def _tool(name: str, schema: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object", **schema}}


SMALL = _tool("small", {"properties": {"a": {"type": "string"}}})
TOOLS = {
    "properties": [
        SMALL,
        _tool("large", {"properties": {f"property{i}": {"type": "string"} for i in range(60_000)}}),
    ],
    "many": [SMALL, *(_tool(f"t{i}", SMALL["inputSchema"]) for i in range(20_000))],
    "pattern": [SMALL, _tool("large", {"patternProperties": {"(a|b)*" * 300_000: {}}})],
}


@pytest.fixture
def mcp_server() -> Iterator[str]:
    with FakeServer(_McpServer) as server:
        yield server.url


@pytest.mark.parametrize("kind", TOOLS)
def test_endless_list_of_mcp_tools_does_not_delay_others(
    gateway: Callable[..., Gateway], backend: ScriptedServer, mcp_server: str, kind: str
) -> None:
    need("knowledge", "mcp")
    flags = ("--chat-template", "chatml", "--mcp-url", f"{mcp_server}/*")
    running = gateway("--llama-api", backend.url, *flags)
    at = {"type": "mcp", "server_label": "x", "server_url": f"{mcp_server}/{kind}"}
    with prompt_answers(running):
        status, data = ask(
            f"{running.url}/v1/responses",
            {"input": "Hi", "tools": [{**at, "allowed_tools": ["small"]}], "store": False},
            seconds=120.0,
        )
    assert status == 200, data
    listed, *_ = json.loads(data)["output"]
    assert [tool["name"] for tool in listed["tools"]] == ["small"]
