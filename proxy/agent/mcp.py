"""Tools of an MCP server, through the kept `mcp` package.

The package is made for asyncio and anyio, which do not live beside gevent: it runs in a child, one
for each session (`python -m proxy.agent.mcp`). A call that is given up on ends its child, and with
it the session and, over standard streams, the server: nothing goes on unseen. The next call begins
a new session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from ..cancel import Cancel
from ..children import LAST, Children, channel
from ..core.request import Tool
from ..errors import UpstreamFault
from .values import Runs, Server, ToolError

log = logging.getLogger("slotproxy.tools")

PATIENCE = 30.0  # seconds until a server has told its tools
MOST_PAGES = 20
# It stands in prompts and grammars as it is: nothing that could end a quotation or a line.
NAME = re.compile(r"[\w./:@-]{1,128}")


class McpTool:
    """A tool of a server."""

    def __init__(self, tool: Tool, children: Children) -> None:
        self.tool = tool
        self._children = children

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        question = {"call": self.tool.name, "arguments": arguments}
        answer = self._children.ask(question, cancel, seconds)
        if "wrong" in answer:
            raise ToolError(answer["wrong"])
        return str(answer["text"])


def tools(server: Server, children: Children) -> list[Runs]:
    """What a server offers, of what may be used. Raises UpstreamFault, UpstreamTimeout."""
    told = children.ask({}, Cancel(), PATIENCE)
    if "wrong" in told:
        raise UpstreamFault(f"the MCP server {server.name}: {told['wrong']}")
    found: list[Runs] = []
    for one in told["tools"]:
        name, parameters = one["name"], one["parameters"]
        if server.tools and name not in server.tools:
            continue
        if not NAME.fullmatch(name) or not _is_schema(parameters):
            log.warning("a tool of %s is left out: its name or its schema is no good", server.name)
            continue
        found.append(McpTool(Tool(name, one["description"], parameters), children))
    return found


def _is_schema(value: Any) -> bool:
    """Whether it can be told to a model, and bound by a grammar."""
    try:
        Draft202012Validator.check_schema(value)
    except SchemaError:
        return False
    return isinstance(value, dict) and value.get("type", "object") == "object"


def children(server: Server) -> Children:
    return Children(__name__, msgspec.to_builtins(server), whole=True)


# the child's side


async def _serve(setup: Mapping[str, Any], questions: asyncio.Queue[Any], answers: Any) -> None:
    def tell(value: Any) -> None:
        answers.write(msgspec.json.encode(value) + b"\n")

    try:
        async with contextlib.AsyncExitStack() as stack:
            client = await _connected(setup, stack)
            while True:
                question = await questions.get()
                if "call" not in question:
                    tell({"tools": await _listed(client)})
                    continue
                answer = await _called(client, question["call"], question["arguments"])
                tell(answer)
                if LAST in answer:
                    return
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # also groups of them: whatever came between, said in a line
        tell({"wrong": _why(error), LAST: True})


async def _connected(setup: Mapping[str, Any], stack: contextlib.AsyncExitStack) -> Any:
    try:
        import httpx2  # the package's own HTTP client
        from mcp import Client, StdioServerParameters  # the extra `knowledge`
        from mcp.client.streamable_http import streamable_http_client
    except ImportError:
        raise RuntimeError("needs the extra: pip install slotproxy[knowledge]") from None
    if setup["command"]:
        command, *args = setup["command"]
        at: Any = StdioServerParameters(command=command, args=args, env=dict(setup["env"]))
    else:
        wait = httpx2.Timeout(30.0, read=300.0)
        http = httpx2.AsyncClient(headers=dict(setup["headers"]), timeout=wait)
        await stack.enter_async_context(http)
        at = streamable_http_client(setup["url"], http_client=http)
    return await stack.enter_async_context(Client(at))


async def _listed(client: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = None
    for _ in range(MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += (
            {"name": one.name, "description": one.description or "", "parameters": one.input_schema}
            for one in page.tools
        )
        cursor = page.next_cursor
        if not cursor:
            break
    return found


async def _called(client: Any, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    try:
        result = await client.call_tool(name, dict(arguments))
    except Exception as error:
        # The session may be over, as where its server began anew: so is this child.
        return {"wrong": _why(error), LAST: True}
    texts = [part.text for part in result.content if getattr(part, "type", "") == "text"]
    text = "\n".join(texts)
    if not texts and result.structured_content is not None:
        text = msgspec.json.encode(result.structured_content).decode()
    return {"wrong": text or "the tool failed"} if result.is_error else {"text": text}


def _why(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:500]


async def _main() -> None:
    source, answers = channel()
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), source)
    setup = msgspec.json.decode(await lines.readline())
    questions: asyncio.Queue[Any] = asyncio.Queue()
    task = asyncio.ensure_future(_serve(setup, questions, answers))

    async def read() -> None:
        while line := await lines.readline():
            questions.put_nowait(msgspec.json.decode(line))
        task.cancel()

    reading = asyncio.ensure_future(read())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    reading.cancel()


if __name__ == "__main__":
    if sys.platform == "win32":  # no pipe can be read by its loop
        raise SystemExit("MCP servers need a POSIX system")
    asyncio.run(_main())
