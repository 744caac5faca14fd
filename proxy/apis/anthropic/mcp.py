"""MCP servers in the Messages API: `mcp_servers`, tools of type `mcp_toolset`, and their blocks.

Both forms of the API are read: a server with its `tool_configuration`, and a server whose tools a
toolset allows. Its header `anthropic-beta` is not needed. A server without a URL is a configured
one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...core.events import ServerCall
from ...core.mcp import LABEL, LABEL_RULE, Approval, McpServer, ToolFilter, function_name
from ...core.request import ToolCall
from ...errors import InvalidParameter
from ..fields import Body, entry, flag, items, mapping, required, text

TOOLSET = "mcp_toolset"
USE, RESULT = "mcp_tool_use", "mcp_tool_result"
MOST_SERVERS = 8
LONGEST_TOKEN = 8192  # characters


def servers(body: Body) -> tuple[McpServer, ...]:
    """The servers whose tools the model may call. Raises InvalidParameter."""
    found: dict[str, McpServer] = {}
    for i, value in enumerate(items(body, "mcp_servers")):
        at = f"mcp_servers[{i}]"
        server = _server(entry(value, at), at + ".")
        if server.label in found:
            raise InvalidParameter(at + ".name", f"is used twice: {server.label}")
        if len(found) == MOST_SERVERS:
            raise InvalidParameter("mcp_servers", f"may contain at most {MOST_SERVERS}")
        found[server.label] = server
    off = {
        value["name"]
        for value in items(body, "mcp_servers")
        if not flag(mapping(value, "tool_configuration"), "enabled", True)
    }
    for i, value in enumerate(items(body, "tools")):
        at = f"tools[{i}]."
        if not isinstance(value, dict) or value.get("type") != TOOLSET:
            continue
        label = required(value, "mcp_server_name", at)
        if label not in found:
            raise InvalidParameter(
                at + "mcp_server_name", f"names no server in mcp_servers: {label[:64]!r}"
            )
        found[label] = msgspec.structs.replace(found[label], allowed=_enabled(value, at))
    return tuple(server for server in found.values() if server.label not in off)


def _server(value: Body, at: str) -> McpServer:
    label = required(value, "name", at)
    if not LABEL.fullmatch(label):
        raise InvalidParameter(at + "name", LABEL_RULE)
    if text(value, "type", "url", at=at) != "url":
        raise InvalidParameter(at + "type", "must be url")
    url, token = text(value, "url", at=at), text(value, "authorization_token", at=at)
    if token and not url:
        raise InvalidParameter(
            at + "authorization_token",
            "is for a url: the headers of a configured server are in its [[mcp]] table",
        )
    if len(token) > LONGEST_TOKEN or not (token.isascii() and token.isprintable()):
        raise InvalidParameter(
            at + "authorization_token", f"must be printable ASCII of at most {LONGEST_TOKEN}"
        )
    config = mapping(value, "tool_configuration", at)
    names = config.get("allowed_tools")
    if names is not None:
        names = items(config, "allowed_tools", at + "tool_configuration.")
        if not all(type(name) is str for name in names):
            raise InvalidParameter(
                at + "tool_configuration.allowed_tools", "must be a list of names of tools"
            )
    return McpServer(
        label=label,
        url=url,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        allowed=ToolFilter(None if names is None else frozenset(names)),
        approval=Approval(never=ToolFilter()),
        required=True,
    )


def _enabled(toolset: Body, at: str) -> ToolFilter:
    """The tools that a toolset enables."""
    default = flag(mapping(toolset, "default_config", at), "enabled", True)
    on: set[str] = set()
    off: set[str] = set()
    configs = mapping(toolset, "configs", at)
    for name, value in configs.items():
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
