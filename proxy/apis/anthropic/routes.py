"""Anthropic's routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from flask import Response, request
from msgspec import Struct

from ...core.fold import Completion
from ...core.request import CompletionRequest
from ...errors import BadRequest
from ...gateway import Caller
from ...runtime.cancel import Cancel
from ...web.admitted import counted
from ...web.body import parsed
from ...web.fastpath import BodyAndHeaders, Environ, post
from ...web.model_tables import read_request
from ...web.observability import Record
from ...web.permissions import check_model, of_caller
from ...web.routes import SSE, Api
from ...web.services import Services
from ...web.spine import completion_view, json_route, json_view
from ...web.stream import EventSource
from .. import anthropic
from .. import schema_fields as doc
from ..response_meta import ResponseMeta
from . import context_edits
from .answer import status
from .request import FIELDS, parse

blueprint = Api(
    "anthropic",
    __name__,
    group="messages",
    tag="Anthropic",
    ledger="anthropic",
    error=anthropic.error,
    error_schema="AnthropicError",
    owns="/v1/messages",
    schemas={
        "MessageRequest": doc.body("messages max_tokens", **FIELDS),
        "CountTokensRequest": doc.body("messages", **FIELDS),
        "AnthropicError": doc.object_of(
            "type error",
            type=doc.TEXT,
            error=doc.object_of("type message", type=doc.TEXT, message=doc.TEXT),
        ),
    },
)
Sent = TypeVar("Sent", bound=Response | BodyAndHeaders)


class MessagesDialect(Struct, eq=False):
    """The dialect of one request, which applies its `context_management` edits."""

    services: Services
    environ: Environ
    error = staticmethod(anthropic.error)
    _edits: Sequence[context_edits.Edit] | None = None
    _applied: list[dict[str, Any]] | None = None

    def parse(self, body: Mapping[str, Any]) -> CompletionRequest:
        if body.get("context_management"):
            self._edits = context_edits.parse(body).edits
        message = parsed(partial(anthropic.parse, body), self.environ, body)
        if message.searches and "web_search" not in self.services.dialogues.searches:
            raise BadRequest("web search is not configured: set --search-engine", param="tools")
        return message

    def begin(self, message: CompletionRequest, cancel: Cancel, caller: Caller) -> EventSource:
        """Raises the errors of `check_model` and `Gateway.count`, too."""
        services = self.services
        if self._edits is not None:
            check_model(services, self.environ, message.model)
            if caller.allowance is not None:
                caller.allowance.check()  # tokens are counted before the answer is admitted
            count = partial(services.gateway.count, cancel=cancel, may=caller.may)
            message, self._applied = context_edits.apply(message, self._edits, count)
        if message.runs_tools:
            return services.dialogues.answer(message, caller.key, cancel, caller)
        return services.gateway.answer(message, cancel, caller)

    def reply(
        self, meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
    ) -> dict[str, Any]:
        return anthropic.reply(meta, request, completions, self._applied)

    def Encoder(self, meta: ResponseMeta, request: CompletionRequest) -> anthropic.Encoder:
        return anthropic.Encoder(meta, request, self._applied)


@post(blueprint, "/v1/messages", body="MessageRequest", streams=SSE)
def messages(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A message, streamed or whole."""
    dialect = MessagesDialect(services, environ)
    sent = completion_view(services, environ, dialect, "msg_", begin=dialect.begin)
    return _theirs(sent, environ)


@json_route(
    blueprint,
    "POST",
    "/v1/messages/count_tokens",
    respond=lambda view, shape: _theirs(json_view(view, shape), request.environ),
    body="CountTokensRequest",
)
def count_tokens(services: Services, record: Record) -> Any:
    """How many tokens an input has."""
    raw = read_request(services, record, request.environ)
    message = parsed(partial(parse, raw, counting=True), request.environ, raw)
    message = of_caller(services, request.environ, message)
    with counted(services, record, message.model) as (cancel, may):
        count = partial(services.gateway.count, cancel=cancel, may=may)
        original = count(message)
        if not raw.get("context_management"):
            return {"input_tokens": original}
        edited, applied = context_edits.apply(message, context_edits.parse(raw).edits, count)
        return {
            "input_tokens": count(edited) if applied else original,
            "context_management": {"original_input_tokens": original},
        }


def _theirs(sent: Sent, environ: Environ) -> Sent:
    """Apply Anthropic's status for "overloaded" and its name for the request id header."""
    record = Record.of(environ)
    if isinstance(sent, Response):
        sent.status_code = status(sent.status_code, record.info.outcome)
        sent.headers["request-id"] = record.id
    else:
        sent[1].append(("request-id", record.id))
    return sent
