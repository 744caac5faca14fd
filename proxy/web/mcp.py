"""The gateway as an MCP server, over streamable HTTP: POST /mcp.

Each message gets one answer as JSON, and nothing is kept between messages, so that any worker may
answer. The session id only tells apart the calls that clients cancel. There is no stream of the
server's own messages (GET is 405), as it has none to send. `site` refuses pages of other sites.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import msgspec
from flask import Blueprint, Response, request

from .. import __version__
from ..core.request import Tool
from ..dialects import mcp_server
from ..dialects.mcp_server import INVALID_PARAMS, NO_METHOD, Message, RpcError, ToolCall
from ..dialogue import ToolError
from ..errors import Cancelled, GatewayError
from ..runtime.cancel import Cancel
from . import body, disconnect, mcp_chat
from .admitted import Admitted
from .observability import Record, new_id
from .permissions import visible
from .services import Services
from .spine import json_response, json_route

blueprint = Blueprint("mcp", __name__)

MODELS = "models"
INSTRUCTIONS = (
    "chat asks a language model; models lists them. Search tools return passages to be cited."
)
_MODELS = Tool(MODELS, "List the names of the models that chat may use")
_READS: Mapping[str, Any] = {"readOnlyHint": True}


@json_route(blueprint, "POST", "/mcp", shape=mcp_server.error)
def answer(services: Services, record: Record) -> Any:
    message = mcp_server.parse(body.read_json(request.environ, services.settings.max_body))
    session = mcp_server.session(request.headers.get(mcp_server.SESSION))
    if message.method == "initialize":
        result = mcp_server.initialized(message.params, __version__, INSTRUCTIONS)
        response = json_response(mcp_server.answer(message.id, result))
        response.headers[mcp_server.SESSION] = new_id()
        return response
    mcp_server.check_version(request.headers.get("MCP-Protocol-Version"))
    if message.id is None:
        if message.method == "notifications/cancelled":
            key = mcp_server.cancelled(message.params)
            if key is not None:
                services.mcp_calls.cancel(record.key, session, key)
        return Response(status=202)
    try:
        return mcp_server.answer(message.id, _result(services, record, session, message))
    except RpcError as error:
        return mcp_server.refusal(message.id, error.code, str(error))


def _result(
    services: Services, record: Record, session: str, message: Message
) -> Mapping[str, Any]:
    """Raises RpcError and GatewayError."""
    methods: Mapping[str, Callable[[], Mapping[str, Any]]] = {
        "ping": dict,
        "tools/list": lambda: _listed(services, record),
        "tools/call": lambda: _called(services, record, session, message),
    }
    method = methods.get(message.method)
    if method is None:
        raise RpcError(NO_METHOD, f"there is no method {message.method[:100]!r}")
    return method()


def _listed(services: Services, record: Record) -> Mapping[str, Any]:
    caller = services.callers.caller(record.key, request.environ)
    tools = services.dialogues.published(record.key, caller)
    offered: list[tuple[Tool, Mapping[str, Any]]] = [(mcp_chat.TOOL, {}), (_MODELS, _READS)]
    for name, tool in tools.items():
        said = getattr(tool, "annotations", _READS)
        offered.append((msgspec.structs.replace(tool.tool, name=name), said))
    return mcp_server.listed(offered)


def _called(
    services: Services, record: Record, session: str, message: Message
) -> Mapping[str, Any]:
    call = mcp_server.called(message.params)
    assert message.id is not None, "a notification calls nothing"
    with services.mcp_calls.running(record.key, session, message.id) as cancel:
        try:
            if call.name == mcp_chat.TOOL.name:
                return mcp_chat.chat(services, request.environ, call.arguments, cancel)
            return mcp_server.content(_observed(services, record, call, cancel))
        except ToolError as error:
            return mcp_server.content(str(error), failed=True)
        except Cancelled:
            raise
        except GatewayError as error:
            return mcp_server.content(error.message, failed=True)


def _observed(services: Services, record: Record, call: ToolCall, cancel: Cancel) -> str:
    """The text that a tool returns, within the limits of the caller: a call is a request, and has
    a place among those that run in parallel. Raises ToolError, RpcError and GatewayError."""
    if call.name == MODELS:
        return "\n".join(visible(services, request.environ, services.gateway.registry.names()))
    caller = services.callers.caller(record.key, request.environ)
    tool = services.dialogues.published(record.key, caller).get(call.name)
    if tool is None:
        raise RpcError(INVALID_PARAMS, f"there is no tool {call.name[:128]!r} for this key")
    stop = disconnect.watch(request.environ, cancel)
    try:
        with closing(Admitted(caller, cancel, model="", prompt=1)):
            return services.dialogues.call(tool, call.arguments, cancel)
    finally:
        stop()
