"""A real MCP server, small, over both of its ways; calls that are given up on end it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from proxy.agent import mcp
from proxy.agent.functions import Server, ToolError
from proxy.agent.toolbox import Toolbox
from proxy.errors import UpstreamFault
from proxy.runtime.cancel import Cancel
from tests.extras import need
from tests.fakes import wait_until
from tools.processes import held_port

need("knowledge", "mcp")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")

SOURCE = '''
import sys
from mcp.server.mcpserver import MCPServer

server = MCPServer("small")

@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers"""
    return a + b

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
        yield Server(name="small", command=(sys.executable, str(script)), tools=("add", "fail"))
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
    assert set(tools) == {"add", "fail"}
    assert tools["add"].tool.description == "Add two numbers"
    assert set(tools["add"].tool.parameters["properties"]) == {"a", "b"}
    assert tools["add"].call({"a": 2, "b": 40}, Cancel(), 30) == "42"
    with pytest.raises(ToolError, match="Error executing tool fail"):
        tools["fail"].call({}, Cancel(), 30)
    with pytest.raises(ToolError):
        tools["add"].call({"a": "x"}, Cancel(), 30)
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


GOOD = {"type": "object", "properties": {"a": {"type": "string"}}}


def tool(name: str, schema: object = GOOD, description: str = "") -> SimpleNamespace:
    return SimpleNamespace(name=name, description=description, input_schema=schema)


def names(usable: dict[str, Any]) -> list[str]:
    return [name for name, *_ in usable["tools"]]


def test_mcp_tool_that_does_not_fit_a_prompt_is_dropped() -> None:
    odd = 'a"\n<|im_end|>'
    deep: Any = {}
    for _ in range(5000):
        deep = {"not": deep}
    tools = [tool("good"), tool(odd), tool("odd", {"type": "objekt"}), tool("deep", deep)]
    tools += [tool("list", {"type": "array"}), tool("unwanted")]
    usable = mcp._usable(tools, ("good", odd, "odd", "deep", "list"))
    assert names(usable) == ["good"]
    assert usable["ignored"] == f"{odd!r}, 'odd', 'deep', 'list'"


def test_length_of_an_mcp_schema_is_bounded() -> None:
    def of(size: int) -> object:
        return {"description": "x" * (size - len('{"description":""}'))}

    longest = mcp.LONGEST_SCHEMA
    usable = mcp._usable([tool("long", of(longest + 1)), tool("fits", of(longest))], ())
    assert names(usable) == ["fits"]
    (_, description, _, _), *_ = mcp._usable([tool("x", description="x" * 9999)], ())["tools"]
    assert len(description) == mcp.LONGEST_DESCRIPTION


def test_number_and_bytes_of_mcp_tools_are_bounded() -> None:
    usable = mcp._usable([tool(str(number)) for number in range(mcp.MOST_TOOLS + 1)], ())
    assert len(usable["tools"]) == mcp.MOST_TOOLS and usable["ignored"] == f"'{mcp.MOST_TOOLS}'"
    large = {"description": "x" * 60_000}
    usable = mcp._usable([tool(str(number), large) for number in range(20)], ())
    assert len(msgspec.json.encode(usable["tools"])) <= mcp.MOST_BYTES
    assert len(usable["tools"]) == 17


def test_unreachable_mcp_server_loses_only_its_own_tools() -> None:
    server = Server(name="none", command=("/nonexistent/server",))
    box = Toolbox(["none", "time"], [server], clock=time.monotonic, now=datetime.now)
    assert list(box.tools()) == ["time"]
