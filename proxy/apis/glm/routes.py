"""Routes of the GLM HTTP API, and POST / of chatglm.cpp's LangChain server."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from ...errors import CharacterCut
from ...web.admitted import counted
from ...web.fastpath import BodyAndHeaders, Environ, post
from ...web.observability import Record
from ...web.permissions import check_model, permissions
from ...web.routes import SSE, Api
from ...web.services import Services
from ...web.spine import completion_view
from . import chat as glm

blueprint = Api(
    "glm",
    __name__,
    group="glm",
    tag="GLM",
    ledger="glm",
    error=glm.error,
    error_schema="GLMError",
)


MOST_PIECES = 8192  # each distinct token is a request to the backend


@post(blueprint, "/chat", body="GLMChatRequest", reply="GLMChat")
def chat(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A chat."""
    return completion_view(services, environ, glm.chat, "")


@post(blueprint, "/chat-stream", body="GLMChatRequest", streams=SSE)
def chat_stream(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A chat, streamed."""
    return completion_view(services, environ, glm.chat_stream, "")


@post(blueprint, "/", body="GLMChatRequest")
def langchain(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A chat, as chatglm.cpp's langchain server."""
    return completion_view(services, environ, glm.langchain, "")


def tokenized(services: Services, record: Record, asked: dict[str, Any]) -> dict[str, Any]:
    """Answer /tokenize in the GLM form: {prompt} gives the token ids and the text of each."""
    wanted = glm.parse_tokenize(asked)
    check_model(services, request.environ, wanted.model)
    barred = permissions(services, request.environ).barred_tiers
    gateway = services.gateway
    model, _ = gateway.registry.answering(wanted.model)
    most = min(wanted.max_length, MOST_PIECES)
    with counted(services, record, wanted.model) as cancel:
        tokens = gateway.tokenize(model, wanted.prompt, cancel=cancel, most=most, barred=barred)
        tokens = tokens[:most]
        texts = {token: _piece(services, model, token, barred) for token in dict.fromkeys(tokens)}
    return glm.tokenized([(token, texts[token]) for token in tokens])


def _piece(services: Services, model: str, token: int, barred: frozenset[str]) -> str:
    """Return a token's text; U+FFFD for a part of a character."""
    try:
        return services.gateway.detokenize(model, [token], barred=barred)
    except CharacterCut:
        return "\ufffd"
