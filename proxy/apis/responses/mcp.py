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

from ...core.mcp import (
    LABEL,
    LABEL_RULE,
    Approval,
    McpServer,
    ServerCall,
    ToolFilter,
    function_name,
)
from ...core.request import Message, ToolCall
from ...errors import InvalidParameter
from ..fields import Body, entry, flag, mapping, required, strings, text

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


class Approvals(Struct, frozen=True):
    """Requests for approval by their id, the client's answers, and which calls were made."""

    requests: Mapping[str, Body]
    answers: Mapping[str, tuple[bool, str]]
    made: frozenset[str]


def server_label(value: Body, name: str, at: str) -> str:
    label = required(value, name, at)
    if not LABEL.fullmatch(label):
        raise InvalidParameter(at + name, LABEL_RULE)
    return label


def header_value(value: Any, at: str) -> str:
    if type(value) is not str or len(value) > LONGEST_HEADER or not _VALUE.fullmatch(value):
        raise InvalidParameter(at, f"must be printable ASCII of at most {LONGEST_HEADER}")
    return value


def authorization(value: Body, name: str, at: str, url: str) -> dict[str, str]:
    """The header for a token; none without one. `url` is the server's. Raises InvalidParameter."""
    token = header_value(text(value, name, at=at), at + name)
    if token and not url:
        raise InvalidParameter(
            at + name, "is for a URL: the headers of a configured server are in its [[mcp]] table"
        )
    return {"Authorization": f"Bearer {token}"} if token else {}


def server(tool: Body, at: str) -> McpServer:
    """A tool of type `mcp`. Raises InvalidParameter."""
    for name in ("connector_id", "tunnel_id"):
        if tool.get(name) is not None:
            raise InvalidParameter(
                at + name,
                "is not supported: send a server_url, or the label of a configured server",
            )
    return McpServer(
        label=server_label(tool, "server_label", at),
        url=text(tool, "server_url", at=at),
        headers=_headers(tool, at),
        allowed=_filter(tool.get("allowed_tools"), at + "allowed_tools") or ToolFilter(),
        approval=_approval(tool.get("require_approval"), at + "require_approval"),
    )


def _headers(tool: Body, at: str) -> dict[str, str]:
    headers = mapping(tool, "headers", at)
    url = text(tool, "server_url", at=at)
    if len(headers) > MOST_HEADERS:
        raise InvalidParameter(at + "headers", f"may contain at most {MOST_HEADERS}")
    if headers and not url:
        raise InvalidParameter(at + "headers", "are for a server_url")
    token = authorization(tool, "authorization", at, url)
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or name.lower() in _OURS:
            raise InvalidParameter(at + "headers", f"cannot contain {name[:40]!r}")
        if token and name.lower() == "authorization":
            raise InvalidParameter(at + "authorization", "is in headers, too: send one of them")
        header_value(value, f"{at}headers.{name}")
    return {**headers, **token}


def _approval(value: Any, at: str) -> Approval:
    if value is None or value == "always":
        return Approval()
    if value == "never":
        return Approval(never=ToolFilter())
    if not isinstance(value, dict):
        raise InvalidParameter(at, "must be always, never or an object with filters")
    return Approval(*(_filter(value.get(kind), f"{at}.{kind}") for kind in ("always", "never")))


def _filter(value: Any, at: str) -> ToolFilter | None:
    """A list of names, or an object."""
    if value is None:
        return None
    if isinstance(value, list):
        return ToolFilter(frozenset(strings({at: value}, at)))
    named, read_only = entry(value, at).get("tool_names"), value.get("read_only")
    return ToolFilter(
        None if named is None else frozenset(strings(value, "tool_names", at + ".")),
        read_only=None if read_only is None else flag(value, "read_only", at=at + "."),
    )


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


def approvals(values: Sequence[Any], at: str = "input") -> Approvals:
    requests: dict[str, Body] = {}
    answers: dict[str, tuple[bool, str]] = {}
    made = set()
    for i, item in enumerate(values):
        place = f"{at}[{i}]."
        match item:
            case {"type": "mcp_approval_request"}:
                requests[required(item, "id", place)] = item
            case {"type": "mcp_call"}:
                made.add(text(item, "approval_request_id", at=place))
            case {"type": "mcp_approval_response"}:
                key = required(item, "approval_request_id", place)
                if item.get("approve") is None:
                    raise InvalidParameter(place + "approve", "must be true or false")
                answers[key] = flag(item, "approve", at=place), text(item, "reason", at=place)
    return Approvals(requests, answers, frozenset(made))


def approved(approvals: Approvals, servers: Mapping[str, McpServer]) -> tuple[ServerCall, ...]:
    """The calls to make. Each answer needs its request, and a server among the tools."""
    calls = []
    for key, (approve, _) in approvals.answers.items():
        if key not in approvals.requests:
            raise InvalidParameter(
                "input",
                f"has an mcp_approval_response for {key[:100]!r}, but not that"
                " mcp_approval_request: send the item, or previous_response_id",
            )
        if not approve or key in approvals.made:
            continue
        item = approvals.requests[key]
        label, name, arguments = (
            text(item, field, at="input.") for field in ("server_label", "name", "arguments")
        )
        if label not in servers:
            raise InvalidParameter(
                "tools", f"must contain the MCP server {label[:64]!r} of the approved call"
            )
        calls.append(ServerCall(id=key, label=label, name=name, arguments=arguments, approval=key))
    if len(calls) > MOST_APPROVED:
        raise InvalidParameter(
            "input", f"may approve at most {MOST_APPROVED} calls at once, not {len(calls)}"
        )
    return tuple(calls)


def messages(item: Body, kind: str, at: str, approvals: Approvals) -> list[Message]:
    """What the model reads: the call where it stands, or the request for it, with its result."""
    key = text(item, "id", at=at)
    if kind == "mcp_call":
        error = item.get("error")
        output = f"Error: {_said(error)}" if error else text(item, "output", at=at)
    elif kind == "mcp_approval_request" and key in approvals.answers and key not in approvals.made:
        approve, reason = approvals.answers[key]
        # The result of an approved call is put in when it has been made.
        output = "" if approve else f"{REFUSED} {reason}".strip()
    else:
        return []
    name = function_name(text(item, "server_label", at=at), text(item, "name", at=at))
    call = ToolCall(key, name, text(item, "arguments", at=at))
    return [
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content=output, name=name, tool_call_id=key),
    ]


def _said(error: Any) -> str:
    match error:
        case {"content": list(content)}:
            texts = [part.get("text") for part in content if isinstance(part, dict)]
            return "\n".join(text for text in texts if type(text) is str)
        case {"message": str(message)}:
            return message[:LONGEST_HEADER]
    return str(error)[:LONGEST_HEADER]
