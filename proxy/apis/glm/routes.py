"""Routes of the GLM HTTP API, and POST / of chatglm.cpp's LangChain server."""

from __future__ import annotations

from typing import Any

from flask import Response

from ...web.fastpath import BodyAndHeaders, Environ, post
from ...web.observability import Record
from ...web.routes import SSE, Api
from ...web.services import Services
from ...web.spine import completion_view, json_route, sent_json
from ..embeddings.request import PROMPT
from ..embeddings.routes import vectors_of
from . import chat as glm

blueprint = Api(
    "glm",
    __name__,
    group="glm",
    tag="GLM",
    ledger="glm",
    error=glm.error,
    error_schema="GLMError",
    schemas=glm.SCHEMAS,
)


@post(blueprint, "/chat", body="GLMChatRequest")
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


@json_route(
    blueprint,
    "POST",
    "/embedding",
    shape=glm.error,
    body="PromptEmbeddingRequest",
    group="embeddings",
    ledger="embeddings",
)
def embedding(services: Services, record: Record) -> Any:
    """A vector."""
    raw = sent_json()
    _, name, vectors, _ = vectors_of(services, record, raw, PROMPT)
    return {"data": vectors, "model": name, "object": "embedding"}
