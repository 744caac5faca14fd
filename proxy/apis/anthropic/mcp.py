"""MCP servers in the Messages API: `mcp_servers`, tools of type `mcp_toolset`, and their blocks.

Both forms of the API are read: a server with its `tool_configuration`, and a server whose tools a
toolset allows. Its header `anthropic-beta` is not needed. A server without a URL is a configured
one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...core.events import ServerCall
from ...core.mcp import Approval, McpServer, ToolFilter, function_name
from ...core.request import ToolCall
from ...errors import InvalidParameter
from ..fields import Body, choice, entry, flag, mapping, names, objects, required, text
from ..responses.mcp import MOST_SERVERS, authorization, server_label

TOOLSET = "mcp_toolset"
USE, RESULT = "mcp_tool_use", "mcp_tool_result"


def servers(body: Body) -> tuple[McpServer, ...]:
    """The servers whose tools the model may call. Raises InvalidParameter."""
    known: dict[str, McpServer] = {}
    off = set()
    for value, at in objects(body, "mcp_servers"):
        choice(value, "type", ("url",), "url", at)
        label, url = server_label(value, "name", at), text(value, "url", at=at)
        if label in known:
            raise InvalidParameter(at + "name", f"is used twice: {label}")
        if len(known) == MOST_SERVERS:
            raise InvalidParameter("mcp_servers", f"may contain at most {MOST_SERVERS}")
        config, place = mapping(value, "tool_configuration", at), at + "tool_configuration."
        allowed = config.get("allowed_tools")
        if allowed is not None:
            allowed = names(allowed, place + "allowed_tools")
        if not flag(config, "enabled", True, place):
            off.add(label)
        known[label] = McpServer(
            label=label,
            url=url,
            headers=authorization(value, "authorization_token", at, url),
            allowed=ToolFilter(allowed),
            approval=Approval(never=ToolFilter()),
            required=True,
        )
    for value, at in objects(body, "tools"):
        if value.get("type") != TOOLSET:
            continue
        label = required(value, "mcp_server_name", at)
        if label not in known:
            raise InvalidParameter(
                at + "mcp_server_name", f"names no server in mcp_servers: {label[:64]!r}"
            )
        known[label] = msgspec.structs.replace(known[label], allowed=_enabled(value, at))
    return tuple(server for server in known.values() if server.label not in off)


def _enabled(toolset: Body, at: str) -> ToolFilter:
    """The tools that a toolset enables."""
    default = flag(mapping(toolset, "default_config", at), "enabled", True)
    on: set[str] = set()
    off: set[str] = set()
    for name, value in mapping(toolset, "configs", at).items():
        config = entry(value, f"{at}configs.{name[:64]}")
        (on if flag(config, "enabled", default) else off).add(name)
    return ToolFilter(None if default else frozenset(on), frozenset(off))


def call(block: Body, at: str) -> ToolCall:
    """The call of an `mcp_tool_use` block that a client sends back."""
    name = function_name(text(block, "server_name", at=at), text(block, "name", at=at))
    arguments = msgspec.json.encode(mapping(block, "input", at)).decode()
    return ToolCall(text(block, "id", at=at), name, arguments)


def use(made: ServerCall, given: Body) -> dict[str, Any]:
    """A block for a call, with its arguments or, in a stream, none yet."""
    return {
        "type": USE,
        "id": made.id,
        "name": made.name,
        "server_name": made.label,
        "input": given,
    }


def result(made: ServerCall) -> dict[str, Any]:
    return {
        "type": RESULT,
        "tool_use_id": made.id,
        "is_error": bool(made.error),
        "content": [{"type": "text", "text": made.error or made.output}],
    }
