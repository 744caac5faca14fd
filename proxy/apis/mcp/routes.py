"""The gateway as an MCP server, over streamable HTTP: POST /mcp.

Nothing is kept between messages, so any worker may answer. The session id only tells apart the
calls that clients cancel. `site` refuses pages of other sites.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, closing
from itertools import count
from typing import Annotated, Any

import msgspec
from flask import Response, request

from ... import __version__
from ...core.events import Failed, TextDelta
from ...core.request import Tool
from ...dialogue import RunnableTool, ToolError, arguments, schema_of
from ...dialogue.loop import result_of
from ...errors import BadRequest, Cancelled, GatewayError
from ...gateway import Caller
from ...runtime.cancel import Cancel
from ...web import disconnect
from ...web.admitted import Admitted
from ...web.fastpath import Environ
from ...web.model_tables import with_preset
from ...web.observability import Record, new_id
from ...web.permissions import shown_names, visible, word
from ...web.routes import SSE, Api
from ...web.services import Services
from ...web.spine import (
    STREAM_HEADERS,
    json_response,
    json_route,
    passthrough,
    read_chat,
    sent_json,
)
from ...web.stream import ClosingBody, SlotBody
from ..openai import chat as openai_chat
from . import server as mcp_server
from .server import INVALID_PARAMS, NO_METHOD, Id, RpcError

blueprint = Api(
    "mcp",
    __name__,
    group="mcp",
    tag="MCP",
    ledger="mcp",
    error=mcp_server.error,
    error_schema="McpError",
    owns="/mcp",
    schemas=mcp_server.SCHEMAS,
)

MODELS = "models"
VERSION = "MCP-Protocol-Version"
INSTRUCTIONS = (
    "chat asks a language model; models lists them. Search tools return passages to be cited."
)
_MODELS = Tool(
    MODELS, "List the names of the models that chat may use", annotations={"readOnlyHint": True}
)


@json_route(
    blueprint,
    "POST",
    "/mcp",
    body="McpMessage",
    streams=SSE,
    empty={"202": "A notification or an answer was accepted"},
)
def answer(services: Services, record: Record) -> Any:
    """A message of the Model Context Protocol, over streamable HTTP."""
    message = mcp_server.parse(sent_json())
    session = mcp_server.session(request.headers.get(mcp_server.SESSION))
    if message.method == mcp_server.INITIALIZE:
        result = mcp_server.initialized(message.params, __version__, INSTRUCTIONS)
        response = json_response(mcp_server.answer(message.id, result))
        response.headers[mcp_server.SESSION] = new_id()
        return response
    mcp_server.check_version(request.headers.get(VERSION))
    if message.id is None:
        key = message.params.get("requestId")
        if message.method == "notifications/cancelled" and isinstance(key, str | int):
            services.mcp_calls.cancel(record.key, session, key)
        return _empty(202)
    try:
        if message.method == "tools/call":
            return _called(services, record, session, message.id, message.params)
        return mcp_server.answer(message.id, _result(services, record, message.method))
    except RpcError as error:
        return mcp_server.refusal(message.id, error.code, str(error))


@json_route(blueprint, "DELETE", "/mcp", answer="", empty={"204": "The session was ended"})
def end(services: Services, record: Record) -> Response:
    """Ends a session of the Model Context Protocol: its calls are cancelled."""
    session = mcp_server.session(request.headers.get(mcp_server.SESSION))
    if not session:
        raise BadRequest(f"{mcp_server.SESSION} is missing: it names the session to end")
    services.mcp_calls.cancel(record.key, session)
    return _empty(204)


def _empty(status: int) -> Response:
    """A response without a body, and so without the type of one."""
    response = Response(status=status)
    del response.headers["Content-Type"]
    return response


def _result(services: Services, record: Record, method: str) -> Mapping[str, Any]:
    if method == "ping":
        return {}
    if method != "tools/list":
        methods = "initialize, ping, tools/list, tools/call"
        raise RpcError(NO_METHOD, f"there is no method {method[:100]!r}: this server has {methods}")
    caller = services.callers.caller(record.key, request.environ)
    published = services.dialogues.published(record.key, caller).items()
    offered = [msgspec.structs.replace(tool.tool, name=name) for name, tool in published]
    return mcp_server.listed([CHAT, _MODELS, *offered])


def _called(
    services: Services, record: Record, session: str, key: Id, params: Mapping[str, Any]
) -> Response | dict[str, Any]:
    """The answer to a call, perhaps as a stream. Raises RpcError and GatewayError."""
    name, given = mcp_server.called(params)
    token = mcp_server.progress_token(params)
    if SSE not in request.headers.get("Accept", ""):
        token = None
    with ExitStack() as stack:
        cancel = stack.enter_context(services.mcp_calls.running(record.key, session, key))
        try:
            if name == MODELS:
                names = visible(services, request.environ, services.gateway.registry.names())
                return mcp_server.answer(key, mcp_server.content("\n".join(names)))
            streamed, total = ClosingBody, 0
            if name == CHAT.name:
                chat = arguments(_Chat, given)
                streamed, total = SlotBody, chat.max_tokens
                work = _chatting(services, request.environ, chat, cancel)
            else:
                caller = services.callers.caller(record.key, request.environ)
                tool = services.dialogues.published(record.key, caller).get(name)
                if tool is None:
                    raise RpcError(INVALID_PARAMS, f"there is no tool {name[:128]!r} for this key")
                work = _running(services, request.environ, caller, tool, given, cancel, token)
            if token is None:
                return mcp_server.answer(key, mcp_server.content(result_of(work)))
            parts = notifications(work, key, token, total)
            stack.callback(services.observer.finish, record)
            record.status, record.stream = 200, True
            stream = streamed(parts, parts.close, stack.pop_all().close)
            return passthrough(stream, SSE, [*STREAM_HEADERS])
        except (ToolError, GatewayError) as error:
            if type(error) is Cancelled:  # others say why to their client
                raise
            return mcp_server.answer(key, _failure(error))


def _failure(error: ToolError | GatewayError) -> dict[str, Any]:
    text = error.message if isinstance(error, GatewayError) else str(error)
    return mcp_server.content(text, failed=True)


def _running(
    services: Services,
    environ: Environ,
    caller: Caller,
    tool: RunnableTool,
    arguments: Mapping[str, Any],
    cancel: Cancel,
    token: Id | None,
) -> Work:
    """A call of a tool, as a request within the limits of the caller. Yields once a second if
    the client asked for progress."""
    stop = disconnect.watch(environ, cancel)
    interval, seconds = 0.0 if token is None else SECOND, count(1)

    def tick() -> Progress:
        return (done := next(seconds)), f"running for {done} s"

    try:
        with closing(Admitted(caller, model="", prompt=1)):
            return (yield from services.dialogues.call(tool, arguments, cancel, interval, tick))
    finally:
        stop()


# Answers as streams of events: progress of a call, then its result. A client that sends a
# progress token hears of the call while it runs: the text of a model as it is written, and every
# second that a tool takes. A call that is cancelled gets no result.
SECOND = 1.0  # between two notifications about a tool
Progress = tuple[int, str]  # the amount done, and a message
Work = Generator[Progress | None, None, str]
"""A running call. It yields its progress, None for a heartbeat, and returns the text of its result.
Raises ToolError and GatewayError."""


def notifications(work: Work, key: Id, token: Id, total: int) -> Generator[bytes, None, None]:
    """The stream of a call; `total` is the longest answer in tokens, 0 without a limit."""
    try:
        while True:
            try:
                progress = next(work)
            except StopIteration as finished:
                result = mcp_server.content(finished.value)
                break
            if progress is None:
                yield mcp_server.HEARTBEAT
            else:
                yield mcp_server.frame(mcp_server.progress(token, *progress, total))
    except (ToolError, GatewayError) as error:
        if type(error) is Cancelled:
            return
        result = _failure(error)
    finally:
        work.close()
    yield mcp_server.frame(mcp_server.answer(key, result))


# The tool `chat`: a model answers one message, as it does a chat completion.


class _Chat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message: Annotated[str, msgspec.Meta(min_length=1, description="what to ask the model")]
    model: Annotated[
        str, msgspec.Meta(max_length=1024, description="its name; none: the default model")
    ] = ""
    system: Annotated[str, msgspec.Meta(description="instructions for the model")] = ""
    max_tokens: Annotated[
        int, msgspec.Meta(ge=0, le=1 << 24, description="the longest answer; 0: no limit")
    ] = 0


CHAT = Tool("chat", "Ask a language model and return its answer", schema_of(_Chat))


def _chatting(services: Services, environ: Environ, chat: _Chat, cancel: Cancel) -> Work:
    """A chat with a model, which yields the text as it is generated. The call and the chat share a
    record."""
    record = Record.of(environ)
    services.observer.begin(record, cancel)
    record.stop = disconnect.watch(environ, cancel)
    record.shown = shown_names(services, record.key)
    messages = [{"role": "user", "content": chat.message}]
    if chat.system:
        messages.insert(0, {"role": "system", "content": chat.system})
    body: dict[str, Any] = {"model": chat.model, "messages": messages}
    if chat.max_tokens:
        body["max_tokens"] = chat.max_tokens
    text: list[str] = []
    tokens = 0
    try:
        body = with_preset(services, body, record.path)
        completion, caller = read_chat(services, environ, openai_chat, body)
        answer = services.gateway.answer(completion, cancel, caller)
        record.info = answer.info
        with closing(answer):
            for _, batch in answer:
                before = len(text)
                for event in batch:
                    if isinstance(event, Failed):
                        raise event.error
                    if isinstance(event, TextDelta):
                        text.append(event.text)
                        tokens += event.pieces
                if piece := "".join(text[before:]):
                    yield tokens, piece
                elif not batch:
                    yield None
    except GatewayError as error:
        word(services, environ, record.key, error)
        record.info.outcome = record.info.outcome or error.code or error.type
        raise
    return "".join(text)
