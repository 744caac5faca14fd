"""A real MCP server, small, over both of its ways; calls that are given up on end it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from proxy.agent import Server, Toolbox, mcp
from proxy.agent.tools import ToolError
from proxy.errors import Cancelled, UpstreamFault
from proxy.runtime.cancel import Cancel
from proxy.runtime.subprocesses import Children
from tests.extras import need
from tests.fakes import gone, wait_until
from tools.processes import held_port

need("knowledge", "mcp")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")

SOURCE = '''
import os, sys, time
from mcp.server.mcpserver import MCPServer

server = MCPServer("small")

@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers"""
    return a + b

@server.tool()
def slow(mark: str) -> str:
    """Take a minute"""
    with open(mark + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(mark + ".new", mark)
    time.sleep(60)
    return "done"

@server.tool()
def fail() -> str:
    raise ValueError("no luck")

if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
'''


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "small_server.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(params=["stdio", "http"])
def server(request: pytest.FixtureRequest, script: Path) -> Iterator[Server]:
    if request.param == "stdio":
        yield Server(
            name="small", command=(sys.executable, str(script)), tools=("add", "slow", "fail")
        )
        return
    port = held_port()
    quiet = subprocess.DEVNULL
    with subprocess.Popen([sys.executable, str(script), str(port)], stderr=quiet) as process:
        try:
            wait_until(lambda: _listens(port), 60)
            yield Server(name="small", url=f"http://127.0.0.1:{port}/mcp", headers={"X-Key": "k"})
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def box_of(server: Server) -> Toolbox:
    return Toolbox([server.name], [server], clock=time.monotonic, now=datetime.now)


def test_mcp_tools_are_listed_and_called(server: Server) -> None:
    box = box_of(server)
    tools = box.tools()
    assert set(tools) == {"add", "slow", "fail"}
    assert tools["add"].tool.description == "Add two numbers"
    assert set(tools["add"].tool.parameters["properties"]) == {"a", "b"}
    assert tools["add"].call({"a": 2, "b": 40}, Cancel(), 30) == "42"
    with pytest.raises(ToolError, match="Error executing tool fail"):
        tools["fail"].call({}, Cancel(), 30)
    with pytest.raises(ToolError):
        tools["add"].call({"a": "x"}, Cancel(), 30)
    box.close()


@pytest.mark.slow
def test_cancel_stops_a_running_mcp_tool(script: Path, tmp_path: Path) -> None:
    server = Server(name="small", command=(sys.executable, str(script)))
    box, mark, cancel = box_of(server), tmp_path / "mark", Cancel()
    tool = box.tools()["slow"]
    caught: list[BaseException] = []

    def call() -> None:
        try:
            tool.call({"mark": str(mark)}, cancel, 60)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    wait_until(mark.is_file, 60)
    cancel.cancel()
    thread.join(60)
    assert isinstance(caught[0], Cancelled)
    wait_until(lambda: gone(int(mark.read_text())))
    assert box.tools()["add"].call({"a": 1, "b": 1}, Cancel(), 30) == "2", "a new session"
    box.close()


@pytest.mark.slow
def test_restarted_mcp_server_gets_a_new_session(script: Path) -> None:
    port = held_port()
    box = box_of(Server(name="small", url=f"http://127.0.0.1:{port}/mcp"))

    def call() -> str:
        return box.tools()["add"].call({"a": 1, "b": 1}, Cancel(), 30)

    quiet = subprocess.DEVNULL
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, str(script), str(port)], stdout=quiet, stderr=quiet
        ) as process:
            try:
                wait_until(lambda: _listens(port), 60)
                assert call() == "2"
            finally:
                process.kill()
        with pytest.raises((ToolError, UpstreamFault)):
            call()
    box.close()


def test_mcp_tool_that_does_not_fit_a_prompt_is_dropped() -> None:
    class Told(Children):
        def ask(self, question: object, cancel: Cancel, seconds: float) -> object:
            good = {"type": "object", "properties": {"a": {"type": "string"}}}
            names = [("good", good), ('a"\n<|im_end|>', good), ("odd", {"type": "objekt"})]
            names += [("list", {"type": "array"}), ("unwanted", good)]
            return {"tools": [{"name": n, "description": "", "parameters": p} for n, p in names]}

    server = Server(name="x", tools=("good", 'a"\n<|im_end|>', "odd", "list"))
    assert [one.tool.name for one in mcp.tools(server, Told("x"))] == ["good"]


def test_unreachable_mcp_server_loses_only_its_own_tools() -> None:
    server = Server(name="none", command=("/nonexistent/server",))
    box = Toolbox(["none", "time"], [server], clock=time.monotonic, now=datetime.now)
    assert list(box.tools()) == ["time"]
