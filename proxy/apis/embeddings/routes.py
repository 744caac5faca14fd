"""Routes for embeddings and reranking in all APIs that have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from flask import request

from ...core.task import Embedded
from ...core.usage import Usage
from ...errors import Unsupported
from ...gateway import Caller, Embedder
from ...web import body
from ...web.admitted import within_limits
from ...web.body import parsed
from ...web.observability import Record
from ...web.permissions import check_model, local_model
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import asking, json_route
from .. import schema_fields as doc
from ..media.routes import by_other_server
from ..ollama import common as ollama
from . import request as embeddings
from .request import parse_ranking, ranking_reply

blueprint = Api(
    "embeddings",
    __name__,
    group="embeddings",
    tag="OpenAI",
    ledger="embeddings",
    schemas={
        "EmbeddingRequest": doc.body("input", **embeddings.OPENAI),
        "RerankRequest": doc.body("query documents", **embeddings.RANKING),
        "OllamaEmbedRequest": doc.body("input", **embeddings.OLLAMA),
        "PromptEmbeddingRequest": doc.body("prompt", **embeddings.PROMPT),
    },
)


@json_route(blueprint, "POST", "/v1/embeddings", "/embeddings", body="EmbeddingRequest")
def openai_(services: Services, record: Record) -> Any:
    """Vectors of texts or tokens."""
    raw = body.read_json(request.environ, services.settings.max_body)
    if (answer := by_other_server(services, record, "/v1/embeddings", raw)) is not None:
        return answer
    asked, name, vectors, tokens = vectors_of(services, record, embeddings.parse, raw)
    return embeddings.reply(asked, name, vectors, tokens)


@json_route(
    blueprint,
    "POST",
    "/api/embed",
    shape=ollama.error,
    body="OllamaEmbedRequest",
    tag="Ollama",
    error_schema="OllamaError",
)
def ollama_(services: Services, record: Record) -> Any:
    """Vectors of texts."""
    raw = body.read_json(request.environ, services.settings.max_body)
    _, name, vectors, tokens = vectors_of(services, record, embeddings.parse_ollama, raw)
    return {
        "model": name,
        "embeddings": vectors,
        "total_duration": round(record.elapsed() * 1e9),  # in nanoseconds
        "load_duration": 0,
        "prompt_eval_count": tokens,
    }


@json_route(
    blueprint,
    "POST",
    "/api/embeddings",
    shape=ollama.error,
    body="PromptEmbeddingRequest",
    tag="Ollama",
    error_schema="OllamaError",
)
def ollama_older(services: Services, record: Record) -> Any:
    """A vector, in the older form."""
    raw = body.read_json(request.environ, services.settings.max_body)
    _, _, vectors, _ = vectors_of(services, record, embeddings.parse_prompt, raw)
    return {"embedding": vectors[0]}


def vectors_of(
    services: Services,
    record: Record,
    parse: Callable[[Mapping[str, Any]], embeddings.EmbeddingRequest],
    raw: Mapping[str, Any],
) -> tuple[embeddings.EmbeddingRequest, str, list[list[float]], int]:
    """Return the parsed request, the model's name, the vectors, and the tokens of all inputs."""
    asked = parsed(partial(parse, raw), request.environ)
    name, result = embedded(services, record, asked.model, asked.inputs)
    vectors, warnings = embeddings.shaped(asked, result)
    record.warnings += (*asked.warnings, *warnings)
    return asked, name, vectors, result.tokens


def embedded(
    services: Services, record: Record, model: str, inputs: Sequence[str | tuple[int, ...]]
) -> tuple[str, Embedded]:
    """Embed the inputs for the caller. Returns the model's name and the vectors.

    The local model answers to its name, and for names of no model if the backends make no
    embeddings. Raises like `check_model`, `within_limits` and `Embedder.embed`."""
    local, others = services.local_embedder, services.embedder
    caller = services.callers.caller(record.key, request.environ)  # counts one request
    if local is not None and local.makes(model):
        return _embedded_by(local, caller, services, record, model, inputs)
    try:
        return _embedded_by(others, caller, services, record, model, inputs)
    except Unsupported:
        name = local_model(services, request.environ)
        if local is None or not name or others.makes(model):
            raise
        return _embedded_by(local, caller, services, record, name, inputs)


def _embedded_by(
    embedder: Embedder,
    caller: Caller,
    services: Services,
    record: Record,
    model: str,
    inputs: Sequence[str | tuple[int, ...]],
) -> tuple[str, Embedded]:
    environ = request.environ
    check_model(services, environ, model, embedder)
    with (
        asking(services, record, environ) as cancel,
        within_limits(
            caller, record, cancel, embedder=embedder, model=model, texts=inputs
        ) as admitted,
    ):
        name, result = embedder.embed(model, inputs, cancel, caller, on_slot=admitted.on_slot)
        record.info.model, record.info.usage = name, Usage(result.tokens, 0)
    return name, result


@json_route(
    blueprint,
    "POST",
    "/v1/rerank",
    "/v2/rerank",
    "/rerank",
    "/v1/reranking",
    "/reranking",
    body="RerankRequest",
    tag="Rankings",
    ledger="rankings",
)
def ranked(services: Services, record: Record) -> Any:
    """Documents ranked for a query, in Jina's and Cohere's form."""
    raw = body.read_json(request.environ, services.settings.max_body)
    if (answer := by_other_server(services, record, "/v1/rerank", raw)) is not None:
        return answer
    asked = parse_ranking(raw)
    record.warnings += asked.warnings
    check_model(services, request.environ, asked.model, services.ranker)
    texts = [asked.query + document for document in asked.documents]
    environ = request.environ
    caller = services.callers.caller(record.key, environ)
    with (
        asking(services, record, environ) as cancel,
        within_limits(
            caller, record, cancel, embedder=services.ranker, model=asked.model, texts=texts
        ) as admitted,
    ):
        name, result = services.ranker.rerank(
            asked.model,
            asked.query,
            asked.documents,
            cancel,
            caller,
            on_slot=admitted.on_slot,
        )
        record.info.model, record.info.usage = name, Usage(result.tokens, 0)
    return ranking_reply(asked, record.id, name, result.scores, result.tokens)
