"""MCP in the Responses API: tools of type `mcp`, and their items.

    mcp_list_tools     the tools of a server, once for a conversation
    mcp_call           a call that the gateway made, with its result
    mcp_approval_request, mcp_approval_response
                       the response ends with the request; the client's next input answers it

The model sees a call as one to the function `label__tool`, and a refusal as its result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from ...core.events import ApprovalRequested, ServerCall, ToolsListed
from ...core.mcp import (
    LABEL,
    LABEL_RULE,
    Approval,
    ApprovedCall,
    McpServer,
    ToolFilter,
    function_name,
)
from ...core.request import Message, ToolCall
from ...errors import InvalidParameter
from ..fields import Body, entry, flag, items, mapping, required, text

KINDS = ("mcp_list_tools", "mcp_call", "mcp_approval_request", "mcp_approval_response")
MOST_SERVERS = 8
MOST_APPROVED = 16  # calls that a request approves
MOST_HEADERS = 32
LONGEST_HEADER = 8192  # characters
REFUSED = "The user did not approve this call."
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
# Set by the client of the server.
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "mcp-session-id"})
ELSEWHERE = ("connector_id", "tunnel_id")


class Approvals(Struct, frozen=True):
    """What became of requests for approval, by their id: the client's answers (with its reason),
    and which calls were made."""

    requests: Mapping[str, Body]
    answers: Mapping[str, tuple[bool, str]]
    made: frozenset[str]


def server(tool: Body, at: str) -> McpServer:
    """A tool of type `mcp`. Raises InvalidParameter."""
    label = required(tool, "server_label", at)
    if not LABEL.fullmatch(label):
        raise InvalidParameter(at + "server_label", LABEL_RULE)
    for name in ELSEWHERE:
        if tool.get(name) is not None:
            raise InvalidParameter(
                at + name,
                "is not supported: send a server_url, or the label of a configured server",
            )
    return McpServer(
        label=label,
        url=text(tool, "server_url", at=at),
        headers=_headers(tool, at),
        allowed=_allowed(tool.get("allowed_tools"), at + "allowed_tools"),
        approval=_approval(tool.get("require_approval"), at + "require_approval"),
    )


def _headers(tool: Body, at: str) -> dict[str, str]:
    given = mapping(tool, "headers", at)
    if len(given) > MOST_HEADERS:
        raise InvalidParameter(at + "headers", f"may contain at most {MOST_HEADERS}")
    headers = {}
    for name, value in given.items():
        if not _HEADER.fullmatch(name) or name.lower() in _OURS:
            raise InvalidParameter(at + "headers", f"cannot contain {name[:40]!r}")
        headers[name] = header_value(value, f"{at}headers.{name}")
    token = text(tool, "authorization", at=at)
    if token:
        if any(name.lower() == "authorization" for name in headers):
            raise InvalidParameter(at + "authorization", "is in headers, too: send one of them")
        headers["Authorization"] = f"Bearer {header_value(token, at + 'authorization')}"
    if headers and not tool.get("server_url"):
        raise InvalidParameter(
            at + ("authorization" if token else "headers"),
            "is for a server_url: the headers of a configured server are in its [[mcp]] table",
        )
    return headers


def header_value(value: Any, at: str) -> str:
    """Raises InvalidParameter."""
    if type(value) is not str or len(value) > LONGEST_HEADER or not _VALUE.fullmatch(value):
        raise InvalidParameter(at, f"must be printable ASCII of at most {LONGEST_HEADER}")
    return value


def _allowed(value: Any, at: str) -> ToolFilter:
    if value is None:
        return ToolFilter()
    if isinstance(value, list):
        return ToolFilter(_names(value, at))
    return _filter(entry(value, at), at)


def _approval(value: Any, at: str) -> Approval:
    if value is None or value == "always":
        return Approval()
    if value == "never":
        return Approval(never=ToolFilter())
    if not isinstance(value, dict):
        raise InvalidParameter(at, "must be always, never or an object with filters")
    always, never = value.get("always"), value.get("never")
    return Approval(
        None if always is None else _filter(entry(always, at + ".always"), at + ".always"),
        None if never is None else _filter(entry(never, at + ".never"), at + ".never"),
    )


def _filter(value: Body, at: str) -> ToolFilter:
    named = value.get("tool_names")
    names = None if named is None else _names(items(value, "tool_names", at + "."), at)
    return ToolFilter(
        names,
        read_only=None if value.get("read_only") is None else flag(value, "read_only", at=at + "."),
    )


def _names(values: list[Any], at: str) -> frozenset[str]:
    if not all(type(name) is str for name in values):
        raise InvalidParameter(at, "must be a list of names of tools")
    return frozenset(values)


def repeated(tool: Body) -> Body:
    """The tool as the Response repeats it: without secrets, and without the path of its URL."""
    shown = {name: value for name, value in tool.items() if name != "authorization"}
    if shown.get("headers"):
        shown["headers"] = None
    url = shown.get("server_url")
    if type(url) is str:
        scheme, _, rest = url.partition("://")
        host = re.split(r"[/?#]", rest.rpartition("@")[2], maxsplit=1)[0]
        shown["server_url"] = f"{scheme}://{host}/<redacted>"
    return shown


def listed_labels(values: Sequence[Any]) -> frozenset[str]:
    """Labels of the servers whose tools the conversation lists."""
    return frozenset(
        item["server_label"]
        for item in values
        if isinstance(item, dict)
        and item.get("type") == "mcp_list_tools"
        and type(item.get("server_label")) is str
        and not item.get("error")
    )


def approvals(values: Sequence[Any], at: str = "input") -> Approvals:
    """Raises InvalidParameter."""
    requests: dict[str, Body] = {}
    answers: dict[str, tuple[bool, str]] = {}
    made = set()
    for i, item in enumerate(values):
        kind = item.get("type") if isinstance(item, dict) else None
        if kind not in KINDS:
            continue
        place = f"{at}[{i}]."
        if kind == "mcp_approval_request":
            requests[required(item, "id", place)] = item
        elif kind == "mcp_call":
            made.add(text(item, "approval_request_id", at=place))
        elif kind == "mcp_approval_response":
            key = required(item, "approval_request_id", place)
            if type(item.get("approve")) is not bool:
                raise InvalidParameter(place + "approve", "must be true or false")
            answers[key] = (item["approve"], text(item, "reason", at=place))
    return Approvals(requests, answers, frozenset(made))


def approved(known: Approvals, servers: Mapping[str, McpServer]) -> tuple[ApprovedCall, ...]:
    """The calls to make. Raises InvalidParameter for an answer without its request, and for a call
    to a server that is not in the tools."""
    calls = []
    for key, (approve, _) in known.answers.items():
        if key not in known.requests:
            raise InvalidParameter(
                "input",
                f"has an mcp_approval_response for {key[:100]!r}, but not that"
                " mcp_approval_request: send the item, or previous_response_id",
            )
        if not approve or key in known.made:
            continue
        item = known.requests[key]
        label = text(item, "server_label", at="input.")
        if label not in servers:
            raise InvalidParameter(
                "tools", f"must contain the MCP server {label[:64]!r} of the approved call"
            )
        calls.append(
            ApprovedCall(
                key,
                label,
                text(item, "name", at="input."),
                text(item, "arguments", at="input."),
            )
        )
    if len(calls) > MOST_APPROVED:
        raise InvalidParameter(
            "input", f"may approve at most {MOST_APPROVED} calls at once, not {len(calls)}"
        )
    return tuple(calls)


def messages(item: Body, kind: str, at: str, known: Approvals) -> list[Message]:
    """What the model reads: the call where it stands, or the request for it, with its result."""
    if kind == "mcp_call":
        error = item.get("error")
        output = text(item, "output", at=at) if not error else f"Error: {_said(error)}"
        return _turn(item, text(item, "id", at=at), output, at)
    if kind != "mcp_approval_request":
        return []
    key = required(item, "id", at)
    if key in known.made or key not in known.answers:
        return []
    approve, reason = known.answers[key]
    # The result of an approved call is put in when it has been made.
    return _turn(item, key, "" if approve else f"{REFUSED} {reason}".strip(), at)


def _turn(item: Body, call_id: str, output: str, at: str) -> list[Message]:
    name = function_name(text(item, "server_label", at=at), text(item, "name", at=at))
    call = ToolCall(call_id, name, text(item, "arguments", at=at))
    return [
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content=output, name=name, tool_call_id=call_id),
    ]


def _said(error: Any) -> str:
    """The text of an error of a call."""
    if not isinstance(error, dict):
        return str(error)[:LONGEST_HEADER]
    content = error.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if type(text) is str)
    return str(error.get("message") or content or "")[:LONGEST_HEADER]


Item = dict[str, Any]


def listed_item(item_id: str, listed: ToolsListed) -> Item:
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


def call_item(item_id: str, made: ServerCall) -> Item:
    status = "failed" if made.error else "completed"
    return {
        "id": item_id,
        "type": "mcp_call",
        "server_label": made.label,
        "name": made.name,
        "arguments": made.arguments,
        "approval_request_id": made.approval or None,
        "output": made.output if made.over and not made.error else None,
        "error": _error_of(made) if made.error else None,
        "status": status if made.over else "in_progress",
    }


def _error_of(made: ServerCall) -> Item:
    if made.code:
        return {"type": "mcp_protocol_error", "code": made.code, "message": made.error}
    content = [{"type": "text", "text": made.error}]
    return {"type": "mcp_tool_execution_error", "content": content}


def approval_item(item_id: str, requested: ApprovalRequested) -> Item:
    return {
        "id": item_id,
        "type": "mcp_approval_request",
        "server_label": requested.label,
        "name": requested.name,
        "arguments": requested.arguments,
    }
