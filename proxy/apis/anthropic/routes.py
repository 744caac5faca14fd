"""Anthropic's routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from flask import Response, request

from ...core.fold import Completion
from ...core.request import CompletionRequest
from ...errors import GatewayError
from ...gateway import Caller
from ...runtime.cancel import Cancel
from ...web.admitted import counted
from ...web.body import parsed
from ...web.fastpath import BodyAndHeaders, Environ, post
from ...web.model_tables import read_request
from ...web.observability import Record
from ...web.permissions import check_model, permissions
from ...web.routes import SSE, Api
from ...web.services import Services
from ...web.spine import completion_view, json_view
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
    },
)
Sent = TypeVar("Sent", bound=Response | BodyAndHeaders)


class EditingDialect:
    """The dialect of one request, whose prompt is edited as its `context_management` says."""

    def __init__(self, services: Services, environ: Environ, cancel: Cancel) -> None:
        self._services = services
        self._environ = environ
        self._cancel = cancel
        self._applied: list[dict[str, Any]] = []

    def parse(self, body: Mapping[str, Any]) -> CompletionRequest:
        """Raises InvalidParameter, and the errors of `check_model` and `Gateway.count`."""
        asked = parsed(partial(anthropic.parse, body), self._environ)
        check_model(self._services, self._environ, asked.model)
        barred = permissions(self._services, self._environ).barred_tiers
        key = Record.of(self._environ).key
        allowance = self._services.callers.caller(key, self._environ).allowance
        if allowance is not None:
            allowance.check()  # tokens are counted before the answer is admitted
        asked, self._applied = _edited(self._services, asked, body, self._cancel, barred)
        return asked

    def reply(
        self, meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
    ) -> dict[str, Any]:
        return anthropic.reply(meta, request, completions, self._applied)

    def Encoder(self, meta: ResponseMeta, request: CompletionRequest) -> anthropic.Encoder:
        return anthropic.Encoder(meta, request, self._applied)

    def error(self, fault: GatewayError) -> dict[str, Any]:
        return anthropic.error(fault)


def _editing(
    services: Services,
    record: Record,
    environ: Environ,
    body: Mapping[str, Any],
    cancel: Cancel,
) -> EditingDialect | None:
    edits = body.get("context_management")
    return EditingDialect(services, environ, cancel) if edits else None


def _edited(
    services: Services,
    asked: CompletionRequest,
    body: Mapping[str, Any],
    cancel: Cancel,
    barred: frozenset[str],
) -> tuple[CompletionRequest, list[dict[str, Any]]]:
    """The request after its edits, and those that applied."""
    edits, _ = context_edits.parse(body)
    count = partial(services.gateway.count, cancel=cancel, barred=barred)
    return context_edits.apply(asked, edits, count)


@post(blueprint, "/v1/messages", body="MessageRequest", streams=SSE, reply="Message")
def messages(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A message, streamed or whole."""

    def begin(asked: CompletionRequest, cancel: Cancel, caller: Caller) -> EventSource:
        if asked.runs_tools:
            return services.dialogues.answer(asked, caller.key, cancel, caller)
        return services.gateway.answer(asked, cancel, caller)

    sent = completion_view(services, environ, anthropic, "msg_", begin=begin, own=_editing)
    return _theirs(sent, environ)


@blueprint.post("/v1/messages/count_tokens", body="CountTokensRequest")
def count_tokens() -> Response:
    """How many tokens an input has."""

    def view(services: Services, record: Record) -> Any:
        raw = read_request(services, record, request.environ)
        asked = parse(raw, counting=True)
        with counted(services, record, asked.model) as (cancel, barred):
            count = services.gateway.count(asked, cancel, barred=barred)
            if not raw.get("context_management"):
                return {"input_tokens": count}
            edited, applied = _edited(services, asked, raw, cancel, barred)
            left = services.gateway.count(edited, cancel, barred=barred) if applied else count
            original = {"original_input_tokens": count}
            return {"input_tokens": left, "context_management": original}

    return _theirs(json_view(view, anthropic.error), request.environ)


def _theirs(sent: Sent, environ: Environ) -> Sent:
    """Apply Anthropic's status for "overloaded" and its name for the request id header."""
    record = Record.of(environ)
    if isinstance(sent, Response):
        sent.status_code = status(sent.status_code, record.info.outcome)
        sent.headers["request-id"] = record.id
    else:
        sent[1].append(("request-id", record.id))
    return sent
