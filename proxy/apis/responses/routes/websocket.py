"""The WebSocket transport of /v1/responses.

The client sends `{"type": "response.create", …}` with the fields of a request, and gets the events
of a streamed response as messages, or an `error` event. Each message is a request of its own. The
last response can be continued even if it is not stored. Codex also sends `"generate": false`, to
have its prompt evaluated, and `response.processed`, which needs no answer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

import msgspec
from flask import Response

from ....errors import BadRequest, GatewayError, QueueFull
from ....runtime.cancel import Cancel
from ....store.responses import Stored
from ....web.body import check_cost, decode
from ....web.disconnect import CANCEL
from ....web.fastpath import Environ
from ....web.observability import Record
from ....web.observability.record import CAPTURE, RECORD
from ....web.services import Services
from ....web.spine import completion_view
from ....web.stream import ClosingBody
from .dialect import ResponsesDialect

if TYPE_CHECKING:
    from ....server.websocket import WebSocket

LONGEST = 3600.0  # seconds that a connection lasts, as Open Responses says
SEND_TIMEOUT = 60.0  # seconds for a client to accept a message
PING = 20.0  # seconds between two pings of an idle connection, for proxies
MOST_SOCKETS = 256  # open at once, for all keys together
VERSION = "13"  # RFC 6455, 4.1
ELSEWHERE = ("background", "stream_options")  # fields of HTTP requests alone

OLD = BadRequest(
    "the connection is an hour old: open a new one", code="websocket_connection_limit_reached"
)


class UpgradeRequired(BadRequest):
    status = 426
    code = "upgrade_required"


class Session(ClosingBody):
    """One connection. Iterating it, as the server does, serves it and yields nothing."""

    def __init__(self, services: Services, record: Record, environ: Environ, accept: str) -> None:
        """Takes a place. Raises QueueFull."""
        if not services.sockets.take(record.key):
            raise QueueFull("too many WebSockets are open: close one", retry_after=5.0)
        super().__init__(self._run(), self._end, partial(services.sockets.give, record.key))
        self._services = services
        self._record = record
        self._environ = environ
        self._accept = accept
        self._recent: dict[str, Stored] = {}  # the last response, by its id
        self._closed = Cancel()
        self._until = time.monotonic() + LONGEST

    def _run(self) -> Iterator[bytes]:
        # Imported late, as below: few gateways need its library.
        from ....server.websocket import LEAVING, NORMAL, WebSocket

        try:
            client = WebSocket(
                self._environ["gunicorn.socket"],
                self._accept,
                self._record.headers(),
                longest=self._services.settings.max_body,
                send_timeout=SEND_TIMEOUT,
                on_close=self._closed.cancel,
            )
        except OSError:
            return  # the client has disconnected
        is_old = False
        try:
            with contextlib.suppress(OSError):  # likewise
                is_old = self._serve(client)
        finally:
            self._closed.cancel()
            client.close(NORMAL if is_old else LEAVING)
        yield from ()

    def _end(self) -> None:
        self._record.status = 101

    def _serve(self, client: WebSocket) -> bool:
        """Answer messages. Returns whether they end because the connection is old. Raises OSError
        if the client leaves."""
        waits: Callable[[bool], object] = self._environ.get("slotproxy.waits", bool)
        while True:
            waits(True)
            try:
                message = client.receive(PING)
            except TimeoutError:
                message = ""
            finally:
                waits(False)
            if message is None:
                return False
            if time.monotonic() > self._until:
                client.send(_error(OLD))
                return True
            if message:
                self._answer(client, message)
            else:
                client.ping()

    def _answer(self, client: WebSocket, message: str) -> None:
        body: dict[str, Any] = {}
        try:
            body = _body(message)
            if not body or self._respond(client, body):
                return
        except GatewayError as fault:
            client.send(_error(fault))
        # What a failed answer continued is to be sent again as a whole.
        if body.get("previous_response_id") in list(self._recent):
            self._recent.clear()

    def _respond(self, client: WebSocket, body: dict[str, Any]) -> bool:
        """Stream one response. Returns whether it succeeded."""
        data = msgspec.json.encode(body)
        own = (RECORD, "gunicorn.socket", "slotproxy.is_last", "slotproxy.kept", "HTTP_UPGRADE")
        environ = {
            **{key: value for key, value in self._environ.items() if key not in own},
            "REQUEST_METHOD": "POST",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(data)),
            "wsgi.input": BytesIO(data),
            CANCEL: self._closed,
        }
        if (capture := environ.get(CAPTURE)) is not None:
            environ[CAPTURE] = capture.again(environ)
        record = Record.of(environ)
        dialect = ResponsesDialect(self._services, environ, self._recent)
        sent = completion_view(self._services, environ, dialect, "resp_", begin=dialect.begin)
        if isinstance(sent, Response):
            self._services.observer.finish(record)
            error = msgspec.json.decode(sent.get_data())["error"]
            client.send(_event(sent.status_code, error))
            return False
        parts: Any = sent[0]
        succeeded = True
        with contextlib.closing(parts):
            for part in parts if record.capture is None else record.capture.received.of(parts):
                for block in filter(None, part.decode().split("\n\n")):
                    kind, _, event = block.partition("\ndata: ")
                    if event:
                        client.send(event)
                        succeeded = succeeded and kind != "event: response.failed"
                    else:  # a comment
                        client.ping()
        return succeeded


def opened(services: Services, environ: Environ, record: Record) -> Response:
    """The response that becomes a WebSocket. Raises UpgradeRequired, BadRequest, QueueFull."""
    if "gunicorn.socket" not in environ:
        raise UpgradeRequired("this server has no WebSockets: send requests with POST")
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION") != VERSION:
        raise UpgradeRequired(f"the only supported Sec-WebSocket-Version is {VERSION}")
    from ....server.websocket import accepted

    accept = accepted(environ.get("HTTP_SEC_WEBSOCKET_KEY", ""))
    if accept is None:
        raise BadRequest("Sec-WebSocket-Key is missing or invalid")
    return Response(Session(services, record, environ, accept), direct_passthrough=True)


def _body(message: str) -> dict[str, Any]:
    """The fields of a request; none for a message without an answer. Raises BadRequest."""
    check_cost(data := message.encode())
    try:
        body = decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"the message is not valid JSON: {error}"[:200]) from None
    if not isinstance(body, dict):
        raise BadRequest("the message must be a JSON object")
    kind = body.pop("type", None)
    if kind == "response.processed":
        return {}
    if kind != "response.create":
        raise BadRequest("the message must have the type response.create", param="type")
    for name in ELSEWHERE:
        if body.pop(name, None):
            raise BadRequest(f"{name} cannot be used over a WebSocket", param=name)
    return {**body, "stream": True}


def _error(fault: GatewayError) -> str:
    error = {"type": fault.type, "code": fault.code, "message": fault.message, "param": fault.param}
    return _event(fault.status, error)


def _event(status: int, error: dict[str, Any]) -> str:
    """The schema wants a code for every error."""
    error = {**error, "code": str(error.get("code") or error.get("type"))}
    return msgspec.json.encode({"type": "error", "status": status, "error": error}).decode()
