"""A real MCP server for tests, over standard streams or streamable HTTP:
`python mcp_server.py [PORT]`. `slow` writes its process id to a file and takes a minute."""

import os
import sys
import time

from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("weather")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def get_weather(city: str) -> str:
    """Get the current weather of a city"""
    return '{"temperature": 4}'


@server.tool()
def slow(mark: str) -> str:
    """Take a minute"""
    with open(mark + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(mark + ".new", mark)
    time.sleep(60)
    return "done"


@server.tool()
def fail(city: str) -> str:
    """Fail"""
    raise ValueError("no luck")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
