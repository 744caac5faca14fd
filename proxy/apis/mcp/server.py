"""The Model Context Protocol as a server speaks it: JSON-RPC 2.0 messages. Pure.

The messages are few, so they are read and written here; the `mcp` package would bring pydantic and
asyncio into the gateway. The tests check every answer with the package's types and its client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from ...core.request import Tool
from ...errors import BadRequest, GatewayError
from ...wire import sse
from .. import schema_fields as doc
from ..fields import Body
from ..schema_fields import Schema

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")  # the newest first
SESSION = "Mcp-Session-Id"
INITIALIZE = "initialize"
_SESSION = re.compile(r"[!-~]{1,128}")
INVALID_REQUEST, NO_METHOD, INVALID_PARAMS = -32600, -32601, -32602
REFUSED = -32000  # the first code that servers define themselves
LONGEST_ID = 256  # characters
HEARTBEAT, frame = sse.HEARTBEAT, sse.encode

Id = str | int


class Message(Struct, frozen=True):
    """A request, or without an id a notification or an answer to the server."""

    id: Id | None
    method: str
    params: Body


class RpcError(Exception):
    """An error of the protocol, answered with status 200."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse(body: Body) -> Message:
    """Raises BadRequest for what is no JSON-RPC message."""
    key, method = body.get("id"), body.get("method")
    method = "" if method is None else method
    answers = body.get("result"), body.get("error")
    if body.get("jsonrpc") != "2.0" or type(method) is not str:
        raise BadRequest('a message must have "jsonrpc": "2.0" and a method')
    if not method and answers == (None, None):
        raise BadRequest("a message must have a method")
    if type(key) not in (str, int, type(None)) or len(str(key)) > LONGEST_ID:
        raise BadRequest(f"id must be a string or an integer of at most {LONGEST_ID} characters")
    params = body.get("params")
    if params is not None and not isinstance(params, dict):
        raise BadRequest("params must be an object")
    if method == INITIALIZE and key is None:
        raise BadRequest("initialize must have an id: it is a request")
    return Message(key if method else None, method, params or {})


def check_version(header: str | None) -> None:
    """Raises BadRequest for a revision in the header MCP-Protocol-Version that is not spoken."""
    if header is not None and header not in VERSIONS:
        raise BadRequest(f"MCP-Protocol-Version must be one of {', '.join(VERSIONS)}")


def session(header: str | None) -> str:
    if header is not None and not _SESSION.fullmatch(header):
        raise BadRequest(f"{SESSION} must be at most 128 visible ASCII characters")
    return header or ""


def initialized(params: Body, version: str, instructions: str) -> dict[str, Any]:
    """The answer to `initialize`; `version` is that of the gateway."""
    client_version = params.get("protocolVersion")
    return {
        "protocolVersion": client_version if client_version in VERSIONS else VERSIONS[0],
        "capabilities": {"tools": {"listChanged": False}},
        "serverInfo": {"name": "slotproxy", "title": "slotproxy", "version": version},
        "instructions": instructions,
    }


def listed(tools: Iterable[Tool]) -> dict[str, Any]:
    """The answer to `tools/list`: tools with their annotations."""
    return {
        "tools": [
            {
                "name": tool.name,
                "description": tool.description,
                "inputSchema": {"type": "object", **tool.parameters},
                **({"annotations": tool.annotations} if tool.annotations else {}),
            }
            for tool in tools
        ]
    }


def called(params: Body) -> tuple[str, Body]:
    """The tool and the arguments of `tools/call`. Raises RpcError."""
    name, arguments = params.get("name"), params.get("arguments")
    if type(name) is not str or not (arguments is None or isinstance(arguments, dict)):
        raise RpcError(INVALID_PARAMS, "params must have a name, and arguments that are an object")
    return name, arguments or {}


def progress_token(params: Body) -> Id | None:
    """The client's token for progress, None if it wants none. Raises RpcError."""
    meta = params.get("_meta")
    token = meta.get("progressToken") if isinstance(meta, dict) else None
    if token is None:
        return None
    if type(token) not in (str, int) or len(str(token)) > LONGEST_ID:
        raise RpcError(
            INVALID_PARAMS,
            f"progressToken must be a string or an integer of at most {LONGEST_ID} characters",
        )
    return token  # type: ignore[no-any-return]  # its type was checked


def progress(token: Id, done: int, message: str, total: int = 0) -> dict[str, Any]:
    """The notification that so much is done, of a total if that is known."""
    params: dict[str, Any] = {"progressToken": token, "progress": done, "message": message}
    if total:
        params["total"] = total
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}


def content(text: str, *, failed: bool = False) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": failed}


def answer(key: Id | None, result: Mapping[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": key, "result": result}


def refusal(key: Id | None, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": key, "error": {"code": code, "message": message}}


def error(fault: GatewayError) -> dict[str, Any]:
    code = INVALID_REQUEST if isinstance(fault, BadRequest) else REFUSED
    return refusal(None, code, fault.message)


SCHEMAS: dict[str, Schema] = {
    "McpMessage": doc.body(
        "jsonrpc",
        jsonrpc=doc.text("Always 2.0.", "2.0"),
        id=doc.one_of(
            "Names a request; a notification has none.", 1, doc.TEXT, {"type": "integer"}
        ),
        method=doc.text(
            "initialize, ping, tools/list, tools/call, or a notification.", "tools/list"
        ),
        params=doc.mapping("The parameters of the method.", {}),
        result=doc.mapping("The result of a request of the server, which makes none.", {}),
        error=doc.mapping("The error of a request of the server, which makes none.", {}),
    ),
    "McpError": doc.object_of(
        "jsonrpc error", error=doc.object_of("code message", code=doc.COUNT, message=doc.TEXT)
    ),
}
