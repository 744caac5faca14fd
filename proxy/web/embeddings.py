"""Routes for embeddings and reranking in all APIs that have them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Blueprint, Response, request

from ..core.usage import Usage
from ..dialects import embeddings, glm, openai, rerank
from ..dialects.ollama import common as ollama
from ..errors import GatewayError
from . import body, disconnect
from .large import parsed
from .observability import Record
from .services import Services
from .spine import json_route, json_view

blueprint = Blueprint("embeddings", __name__)

Asked = embeddings.EmbeddingRequest
Vectors = list[list[float]]


@blueprint.post("/v1/embeddings")
@blueprint.post("/embeddings")
def openai_() -> Response:
    def answer(asked: Asked, name: str, vectors: Vectors, tokens: int, record: Record) -> Any:
        return embeddings.reply(asked, name, vectors, tokens)

    return _embed(embeddings.parse, answer, openai.error)


@blueprint.post("/api/embed")
def ollama_() -> Response:
    def answer(asked: Asked, name: str, vectors: Vectors, tokens: int, record: Record) -> Any:
        return embeddings.ollama_reply(name, vectors, tokens, record.elapsed())

    return _embed(embeddings.parse_ollama, answer, ollama.error)


@blueprint.post("/api/embeddings")
def ollama_older() -> Response:
    def answer(asked: Asked, name: str, vectors: Vectors, tokens: int, record: Record) -> Any:
        return {"embedding": vectors[0]}

    return _embed(embeddings.parse_prompt, answer, ollama.error)


@blueprint.post("/embedding")
def glm_() -> Response:
    def answer(asked: Asked, name: str, vectors: Vectors, tokens: int, record: Record) -> Any:
        return embeddings.glm_reply(name, vectors)

    return _embed(embeddings.parse_prompt, answer, glm.error)


def _embed(
    parse: Callable[[Any], Asked],
    answer: Callable[[Asked, str, Vectors, int, Record], Any],
    shape: Callable[[GatewayError], dict[str, Any]],
) -> Response:
    def view(services: Services, record: Record) -> Any:
        raw = body.read_json(request.environ, services.settings.max_body)
        asked = parsed(partial(parse, raw), request.environ)
        services.observer.begin(record)
        with disconnect.watched(request.environ) as cancel:
            name, result = services.embedder.embed(asked.model, asked.inputs, cancel)
        record.info.model, record.info.usage = name, Usage(result.tokens, 0)
        vectors = embeddings.shaped(asked, result, services.settings.embedding_shortens)
        return answer(asked, name, vectors, result.tokens, record)

    return json_view(view, shape)


@json_route(blueprint, "POST", "/v1/rerank", "/v2/rerank", "/rerank", "/v1/reranking", "/reranking")
def ranked(services: Services, record: Record) -> Any:
    asked = rerank.parse(body.read_json(request.environ, services.settings.max_body))
    services.observer.begin(record)
    with disconnect.watched(request.environ) as cancel:
        name, result = services.ranker.rerank(asked.model, asked.query, asked.documents, cancel)
    record.info.model, record.info.usage = name, Usage(result.tokens, 0)
    return rerank.reply(asked, record.id, name, result.scores, result.tokens)
