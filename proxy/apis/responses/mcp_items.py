"""Output items of MCP servers."""

from __future__ import annotations

from typing import Any

from ...core.events import ApprovalRequested, ServerCall, ToolsListed

Item = dict[str, Any]


def list_tools(item_id: str, listed: ToolsListed) -> Item:
    return {
        "id": item_id,
        "type": "mcp_list_tools",
        "server_label": listed.label,
        "tools": [
            {
                "name": tool.name,
                "description": tool.description,
                "input_schema": tool.parameters,
                "annotations": tool.annotations or None,
            }
            for tool in listed.tools
        ],
        "error": listed.error or None,
    }


def call(item_id: str, made: ServerCall) -> Item:
    status = "failed" if made.error else "completed"
    return {
        "id": item_id,
        "type": "mcp_call",
        "server_label": made.label,
        "name": made.name,
        "arguments": made.arguments,
        "approval_request_id": made.approval or None,
        "output": made.output if made.over and not made.error else None,
        "error": _error(made) if made.error else None,
        "status": status if made.over else "in_progress",
    }


def _error(made: ServerCall) -> Item:
    if made.code:
        return {"type": "mcp_protocol_error", "code": made.code, "message": made.error}
    content = [{"type": "text", "text": made.error}]
    return {"type": "mcp_tool_execution_error", "content": content}


def approval_request(item_id: str, requested: ApprovalRequested) -> Item:
    return {
        "id": item_id,
        "type": "mcp_approval_request",
        "server_label": requested.label,
        "name": requested.name,
        "arguments": requested.arguments,
    }
