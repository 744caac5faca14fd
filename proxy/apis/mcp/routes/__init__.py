"""The gateway as an MCP server, over streamable HTTP: POST /mcp.

Each message gets one answer as JSON, or as a stream with its progress, and nothing is kept between
messages, so that any worker may answer. The session id only tells apart the calls that clients
cancel; ending a session (DELETE) cancels those of it. There is no stream of the server's own
messages (GET is 405), as it has none to send. `site` refuses pages of other sites.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import msgspec
from flask import Response, request

from .... import __version__
from ....core.request import Tool
from ....dialogue import ToolError
from ....dialogue.events import Tick
from ....errors import BadRequest, Cancelled, GatewayError
from ....runtime.cancel import Cancel
from ....web import body, disconnect
from ....web.admitted import Admitted
from ....web.observability import Record, new_id
from ....web.permissions import visible
from ....web.routes import SSE, Api
from ....web.services import Services
from ....web.spine import STREAM_HEADERS, json_response, json_route, passthrough
from ....web.stream import ClosingBody
from .. import server as mcp_server
from ..server import INVALID_PARAMS, NO_METHOD, Message, RpcError, ToolCall
from . import chat as mcp_chat
from . import progress as mcp_progress

blueprint = Api(
    "mcp",
    __name__,
    group="mcp",
    tag="MCP",
    ledger="mcp",
    error=mcp_server.error,
    error_schema="McpError",
    owns="/mcp",
)

MODELS = "models"
VERSION = "MCP-Protocol-Version"
INSTRUCTIONS = (
    "chat asks a language model; models lists them. Search tools return passages to be cited."
)
_MODELS = Tool(MODELS, "List the names of the models that chat may use")
_READS: Mapping[str, Any] = {"readOnlyHint": True}


@json_route(
    blueprint,
    "POST",
    "/mcp",
    shape=mcp_server.error,
    body="McpMessage",
    streams=SSE,
    reply="McpAnswer",
    empty={"202": "A notification or an answer was accepted"},
)
def answer(services: Services, record: Record) -> Any:
    """A message of the Model Context Protocol, over streamable HTTP."""
    sent = body.read_value(request.environ, services.settings.max_body)
    session = mcp_server.session(request.headers.get(mcp_server.SESSION))
    version = request.headers.get(VERSION)
    if isinstance(sent, list):
        messages = mcp_server.parse_batch(sent, version)
        streams = False
    elif isinstance(sent, dict):
        messages = [mcp_server.parse(sent)]
        streams = "text/event-stream" in request.headers.get("Accept", "")
    else:
        raise BadRequest("a message must be a JSON object")
    message = messages[0]
    if message.method == mcp_server.INITIALIZE:
        result = mcp_server.initialized(message.params, __version__, INSTRUCTIONS)
        response = json_response(mcp_server.answer(message.id, result))
        response.headers[mcp_server.SESSION] = new_id()
        return response
    mcp_server.check_version(version)
    answers = [_answer(services, record, session, one, streams=streams) for one in messages]
    answers = [one for one in answers if one is not None]
    if not answers:
        return _empty(202)
    return answers if isinstance(sent, list) else answers[0]


def _answer(
    services: Services, record: Record, session: str, message: Message, *, streams: bool
) -> Response | dict[str, Any] | None:
    """The answer to one message; None to a notification. Raises GatewayError."""
    if message.id is None:
        if message.method == "notifications/cancelled":
            key = mcp_server.cancelled(message.params)
            if key is not None:
                services.mcp_calls.cancel(record.key, session, key)
        return None
    try:
        if message.method == "tools/call":
            return _called(services, record, session, message, streams=streams)
        return mcp_server.answer(message.id, _result(services, record, message))
    except RpcError as error:
        return mcp_server.refusal(message.id, error.code, str(error))


@json_route(
    blueprint,
    "DELETE",
    "/mcp",
    shape=mcp_server.error,
    answer="",
    empty={"204": "The session was ended"},
)
def end(services: Services, record: Record) -> Response:
    """Ends a session of the Model Context Protocol: its calls are cancelled."""
    session = mcp_server.session(request.headers.get(mcp_server.SESSION))
    if not session:
        raise BadRequest(f"{mcp_server.SESSION} is missing: it names the session to end")
    services.mcp_calls.cancel_all(record.key, session)
    return _empty(204)


def _empty(status: int) -> Response:
    """A response without a body, and so without the type of one."""
    response = Response(status=status)
    del response.headers["Content-Type"]
    return response


def _result(services: Services, record: Record, message: Message) -> Mapping[str, Any]:
    """Raises RpcError and GatewayError."""
    methods: Mapping[str, Callable[[], Mapping[str, Any]]] = {
        "ping": dict,
        "tools/list": lambda: _listed(services, record),
    }
    method = methods.get(message.method)
    if method is None:
        known = ", ".join(("initialize", *methods, "tools/call"))
        raise RpcError(
            NO_METHOD, f"there is no method {message.method[:100]!r}: this server has {known}"
        )
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
    services: Services, record: Record, session: str, message: Message, *, streams: bool
) -> Response | dict[str, Any]:
    """The answer to a call, as a stream if its client reads them and asks for progress. Raises
    RpcError and GatewayError."""
    call = mcp_server.called(message.params)
    token = mcp_server.progress_token(message.params)
    key = message.id
    assert key is not None, "a notification calls nothing"
    if not streams:
        token = None
    with ExitStack() as stack:
        cancel = stack.enter_context(services.mcp_calls.running(record.key, session, key))
        try:
            if call.name == mcp_chat.TOOL.name:
                make = None if token is None else partial(mcp_progress.TextProgress, key, token)
                sent = mcp_chat.chat(services, request.environ, call.arguments, cancel, make)
                if isinstance(sent, tuple):
                    return _stream(stack, *sent)
                return mcp_server.answer(key, sent)
            if call.name == MODELS:
                names = visible(services, request.environ, services.gateway.registry.names())
                return mcp_server.answer(key, mcp_server.content("\n".join(names)))
            interval = 0.0 if token is None else mcp_progress.SECOND
            work = _running(services, record, call, cancel, interval)
            if token is None:
                return mcp_server.answer(key, mcp_server.content(_finished(work)))
            told = mcp_progress.told(work, key, token)
            body = ClosingBody(told, told.close, stack.pop_all().close)
            return passthrough(body, mcp_progress.TextProgress.content_type, [*STREAM_HEADERS])
        except ToolError as error:
            return mcp_server.answer(key, mcp_server.content(str(error), failed=True))
        except GatewayError as error:
            if type(error) is Cancelled:
                raise
            return mcp_server.answer(key, mcp_server.content(error.message, failed=True))


def _stream(stack: ExitStack, body: Any, headers: list[tuple[str, str]]) -> Response:
    """The response of a model's stream; the call is over when it is closed."""
    whole = mcp_progress.CallBody(iter(body), body.close, stack.pop_all().close)
    return Response(whole, 200, headers, direct_passthrough=True)


def _running(
    services: Services, record: Record, call: ToolCall, cancel: Cancel, interval: float
) -> Generator[Tick, None, str]:
    """A call of a tool, within the limits of the caller: it is a request, and has a place among
    those that run in parallel. Ticks every `interval` seconds. Raises RpcError now, and ToolError
    and GatewayError later."""
    caller = services.callers.caller(record.key, request.environ)
    tool = services.dialogues.published(record.key, caller).get(call.name)
    if tool is None:
        raise RpcError(INVALID_PARAMS, f"there is no tool {call.name[:128]!r} for this key")
    environ = request.environ

    def running() -> Generator[Tick, None, str]:
        stop = disconnect.watch(environ, cancel)
        try:
            with closing(Admitted(caller, cancel, model="", prompt=1)):
                work = services.dialogues.call(tool, call.arguments, cancel, interval)
                return (yield from work)
        finally:
            stop()

    return running()


def _finished(work: Generator[Tick, None, str]) -> str:
    """What a call without ticks returns."""
    try:
        next(work)
    except StopIteration as finished:
        text: str = finished.value
        return text
    raise AssertionError("there are no ticks")
