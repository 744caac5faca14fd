"""Tools of an MCP server, using the `mcp` package.

The package is based on asyncio and anyio, which do not work with gevent, so each session runs in a
child process (`python -m proxy.agent.mcp`). Abandoning a call ends its child, and with it the
session and a server on standard streams, so nothing keeps running. The next call starts a new
session.

What a server lists is untrusted: checking a schema of a megabyte takes seconds. So the child bounds
and checks the list, and the gateway gets a small one of tools that may be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..errors import Forbidden, GatewayError, UpstreamFault
from ..runtime.confinement import MEMORY, confine, limit
from ..runtime.subprocesses import LAST, channel
from .functions import FAILED, NAME

MOST_PAGES = 20
# Of a list: the tools, the bytes of a schema and of all tools, the characters of a description.
MOST_TOOLS = 1024
LONGEST_SCHEMA = 65_536
MOST_BYTES = 1 << 20
LONGEST_DESCRIPTION = 4096


async def _serve(setup: Mapping[str, Any], questions: asyncio.Queue[Any], answers: Any) -> None:
    def tell(value: Any) -> None:
        answers.write(msgspec.json.encode(value) + b"\n")

    try:
        async with contextlib.AsyncExitStack() as stack:
            client = await _connected(setup, stack)
            while True:
                question = await questions.get()
                if "call" not in question:
                    tell(_usable(await _listed(client), setup["tools"]))
                    continue
                answer = await _called(client, question["call"], question["arguments"])
                tell(answer)
                if LAST in answer:
                    return
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # also exception groups; reported in one line
        tell({**_why(error), LAST: True})


async def _connected(setup: Mapping[str, Any], stack: contextlib.AsyncExitStack) -> Any:
    try:
        import httpx2  # the mcp package's HTTP client
        from mcp import Client, StdioServerParameters  # the extra `knowledge`
        from mcp.client.streamable_http import streamable_http_client
    except ImportError:
        raise RuntimeError("needs the extra `knowledge`, which is not installed") from None
    if setup["command"]:
        command, *args = setup["command"]
        at: Any = StdioServerParameters(command=command, args=args, env=dict(setup["env"]))
    else:
        options: dict[str, Any] = {"timeout": httpx2.Timeout(30.0, read=300.0)}
        if setup["reach"]:
            transport = _checked(httpx2, public=setup["reach"] == "public")
            options |= {"transport": transport, "trust_env": False}
        http = httpx2.AsyncClient(headers=dict(setup["headers"]), **options)
        await stack.enter_async_context(http)
        at = streamable_http_client(setup["url"], http_client=http)
    return await stack.enter_async_context(Client(at))


# A server that a request names may only be at a public internet address, against server-side
# request forgery. A name is resolved once, all its addresses are checked, and the connection goes
# to a checked address, so a name that resolves differently a moment later (DNS rebinding) has no
# effect.

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def public(address: Address) -> bool:
    """Whether the address, and any IPv4 address embedded in it, is on the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return public(inner)
        if address.teredo is not None:
            return False
        if address.is_site_local:  # fec0::/10, deprecated private range; Python considers it global
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int, *, open_only: bool) -> str:
    """The address to connect to. Raises UpstreamFault if there is none, and Forbidden if
    `open_only` is set and any of the host's addresses is not public."""
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UpstreamFault("the server's host name cannot be resolved") from None
    addresses = [str(entry[4][0]) for entry in entries]
    for text in addresses if open_only else ():
        if not public(ipaddress.ip_address(text.partition("%")[0])):
            raise Forbidden("the address is not on the public internet")
    return addresses[0]


def _checked(httpx2: Any, *, public: bool) -> Any:
    """A transport that resolves a host once and connects to the address that was checked. It
    follows no redirects, and uses no proxy: that would resolve the host again."""

    # Imported only in the child, so mypy does not know its type.
    class Checked(httpx2.AsyncHTTPTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            url = request.url
            port = url.port or (443 if url.scheme == "https" else 80)
            address = await asyncio.to_thread(resolve, url.host, port, open_only=public)
            request.extensions = {**request.extensions, "sni_hostname": url.host}
            request.url = url.copy_with(host=address)
            return await super().handle_async_request(request)

    return Checked()


async def _listed(client: Any) -> list[Any]:
    tools: list[Any] = []
    cursor = None
    for _ in range(MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if not cursor:
            break
    return tools


def _usable(tools: Sequence[Any], allowed: Sequence[str]) -> dict[str, Any]:
    """Name, description, schema and annotations of the tools that may be used, and the names of
    some that are ignored. Bounds come first: they cost nothing."""
    usable: list[Any] = []
    ignored: list[str] = []
    left = MOST_BYTES
    for tool in tools:
        name, schema = tool.name, tool.input_schema
        if allowed and name not in allowed:
            continue
        hints = getattr(tool, "annotations", None)  # such as readOnlyHint
        annotations = hints and hints.model_dump(by_alias=True, exclude_none=True)
        described = (name, (tool.description or "")[:LONGEST_DESCRIPTION], schema, annotations)
        size = _size(described)
        fits = len(usable) < MOST_TOOLS and size <= left and _size(schema) <= LONGEST_SCHEMA
        if fits and NAME.fullmatch(name) and _is_schema(schema):
            usable.append(described)
            left -= size
        elif len(ignored) < 10:
            ignored.append(name[:128])
    return {"tools": usable, "ignored": ", ".join(map(repr, ignored))}


def _size(value: Any) -> int:
    """Its bytes as JSON; more than all bounds if it has no JSON, or is nested too deeply."""
    try:
        return len(msgspec.json.encode(value))
    except (RecursionError, ValueError, TypeError):
        return sys.maxsize


def _is_schema(value: Any) -> bool:
    """Whether a model can use it and a grammar can constrain it."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(value)
    except (SchemaError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("type", "object") == "object"


async def _called(client: Any, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    try:
        result = await client.call_tool(name, dict(arguments))
    except Exception as error:
        # The session may be lost, for example after the server restarted: end this child.
        code = getattr(getattr(error, "error", None), "code", FAILED)
        return {**_why(error), "code": code, LAST: True}
    texts = [part.text for part in result.content if getattr(part, "type", "") == "text"]
    text = "\n".join(texts)
    if not texts and result.structured_content is not None:
        text = msgspec.json.encode(result.structured_content).decode()
    return {"wrong": text or "the tool failed"} if result.is_error else {"text": text}


def _why(error: BaseException) -> dict[str, str]:
    """The message for clients, and the detail for the log. Only messages of the server and our own
    are sent: others may name paths, addresses and headers of this machine."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    text = str(getattr(getattr(error, "error", None), "message", ""))
    if isinstance(error, GatewayError):
        text = error.message
    return {
        "wrong": text[:500] or "it does not answer as it should",
        "detail": f"{type(error).__name__}: {error}"[:500],
    }


async def _main() -> None:
    source, answers = channel()
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), source)
    setup = msgspec.json.decode(await lines.readline())
    if setup["reach"]:
        limit(MEMORY)
        confine(network=True)
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
    if sys.platform == "win32":  # its event loop cannot read pipes
        raise SystemExit("MCP servers require a POSIX system")
    asyncio.run(_main())
