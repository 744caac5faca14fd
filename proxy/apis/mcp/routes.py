"""The gateway as an MCP server, over streamable HTTP: POST /mcp.

Nothing is kept between messages, so any worker may answer. The session id only tells apart the
calls that clients cancel. `site` refuses pages of other sites.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from io import BytesIO
from typing import Annotated, Any

import msgspec
from flask import Response, request
from msgspec import Struct

from ... import __version__
from ...core.events import Batch, TextDelta
from ...core.fold import Completion
from ...core.request import CompletionRequest, Tool
from ...dialogue import RunnableTool, ToolError, arguments, schema_of
from ...dialogue.events import Tick
from ...dialogue.loop import result_of
from ...errors import BadRequest, Cancelled, GatewayError
from ...gateway import Answer, Caller
from ...runtime.cancel import Cancel
from ...web import body, disconnect
from ...web.admitted import Admitted
from ...web.fastpath import BodyAndHeaders, Environ
from ...web.observability import Record, new_id
from ...web.permissions import visible
from ...web.routes import SSE, Api
from ...web.services import Services
from ...web.spine import STREAM_HEADERS, completion_view, json_response, json_route, passthrough
from ...web.stream import ClosingBody, SlotBody
from ..openai import chat as openai_chat
from ..response_meta import RouteDialect
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
    message = mcp_server.parse(body.read_json(request.environ, services.settings.max_body))
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
            if name == CHAT.name:
                chat = arguments(_Chat, given)
                progress = None if token is None else TextProgress(key, token, chat.max_tokens)
                sent = chat_result(services, request.environ, chat, cancel, progress)
                if isinstance(sent, tuple):
                    parts: Any = sent[0]
                    body = SlotBody(iter(parts), parts.close, stack.pop_all().close)
                    return Response(body, 200, sent[1], direct_passthrough=True)
                return mcp_server.answer(key, sent)
            if name == MODELS:
                names = visible(services, request.environ, services.gateway.registry.names())
                return mcp_server.answer(key, mcp_server.content("\n".join(names)))
            caller = services.callers.caller(record.key, request.environ)
            tool = services.dialogues.published(record.key, caller).get(name)
            if tool is None:
                raise RpcError(INVALID_PARAMS, f"there is no tool {name[:128]!r} for this key")
            work = _running(services, request.environ, caller, tool, given, cancel, token)
            if token is None:
                return mcp_server.answer(key, mcp_server.content(result_of(work)))
            parts = notifications(work, key, token)
            stream = ClosingBody(parts, parts.close, stack.pop_all().close)
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
    given: Mapping[str, Any],
    cancel: Cancel,
    token: Id | None,
) -> Generator[Tick, None, str]:
    """A call of a tool, as a request within the limits of the caller. Ticks if a client asks for
    progress. Raises ToolError and GatewayError."""
    stop = disconnect.watch(environ, cancel)
    interval = 0.0 if token is None else SECOND
    try:
        with closing(Admitted(caller, model="", prompt=1)):
            return (yield from services.dialogues.call(tool, given, cancel, interval))
    finally:
        stop()


# Answers as streams of events: progress of a call, then its result. A client that sends a
# progress token hears of the call while it runs: the text of a model as it is written, and every
# second that a tool takes. A call that is cancelled gets no result.
SECOND = 1.0  # between two notifications about a tool


class TextProgress(Struct, eq=False, dict=True):
    """Encodes events as notifications, each with the new text, and the result at the end. `total`
    is the longest answer in tokens, 0 without a limit."""

    content_type = SSE

    key: Id
    token: Id
    total: int

    def __post_init__(self) -> None:
        self._text: list[str] = []
        self._tokens = 0

    def encode(self, choice: int, batch: Batch) -> bytes:
        if not batch:
            return mcp_server.HEARTBEAT
        written = [event for event in batch if isinstance(event, TextDelta) and event.text]
        if not written:
            return b""
        text = "".join(event.text for event in written)
        self._text.append(text)
        self._tokens += sum(event.pieces for event in written)
        return mcp_server.frame(mcp_server.progress(self.token, self._tokens, text, self.total))

    def fail(self, fault: GatewayError) -> bytes:
        return mcp_server.frame(mcp_server.answer(self.key, _failure(fault)))

    def end(self) -> bytes:
        result = mcp_server.content("".join(self._text))
        return mcp_server.frame(mcp_server.answer(self.key, result))


def notifications(
    work: Generator[Tick, None, str], key: Id, token: Id
) -> Generator[bytes, None, None]:
    """The stream of a call of a tool, which ticks every second and returns its text."""
    seconds = 0
    try:
        while True:
            try:
                next(work)
            except StopIteration as finished:
                result = mcp_server.content(finished.value)
                break
            seconds += 1
            yield mcp_server.frame(mcp_server.progress(token, seconds, f"running for {seconds} s"))
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


def chat_result(
    services: Services, environ: Environ, chat: _Chat, cancel: Cancel, progress: TextProgress | None
) -> Mapping[str, Any] | BodyAndHeaders:
    """The result of the tool; with `progress`, the stream that has it."""
    messages = [{"role": "user", "content": chat.message}]
    if chat.system:
        messages.insert(0, {"role": "system", "content": chat.system})
    body: dict[str, Any] = {"model": chat.model, "messages": messages}
    if progress is not None:
        body["stream"] = True
    if chat.max_tokens:
        body["max_tokens"] = chat.max_tokens
    data = msgspec.json.encode(body)
    inner = {**environ, "wsgi.input": BytesIO(data), "CONTENT_LENGTH": str(len(data))}

    def begin(request: CompletionRequest, own: Cancel, caller: Caller) -> Answer:
        cancel.pass_on(own)
        return services.gateway.answer(request, own, caller)

    def reply(meta: Any, request: Any, completions: Sequence[Completion]) -> Any:
        return mcp_server.content(completions[0].text)

    dialect = RouteDialect(openai_chat.parse, reply, _failure, lambda meta, request: progress)
    sent = completion_view(services, inner, dialect, "chatcmpl-", begin=begin)
    if isinstance(sent, Response):
        Record.of(environ).status = 200  # the error is in the result
        data = sent.get_data()
    elif progress is not None:
        return sent
    else:
        data = b"".join(sent[0])
    result: Mapping[str, Any] = msgspec.json.decode(data)
    return result
