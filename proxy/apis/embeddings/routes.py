"""Routes for embeddings and reranking in all APIs that have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any, TypeVar

from flask import request

from ...core.task import Embedded, Ranked
from ...core.usage import Usage
from ...errors import Unsupported
from ...gateway import Caller, Embedder
from ...web.admitted import within_limits
from ...web.body import parsed
from ...web.observability import Record
from ...web.permissions import check_model, local_model, shown_names
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import asking, json_route, sent_json, v1_route
from .. import schema_fields as doc
from ..media.routes import by_other_server
from ..ollama import dialects as ollama
from . import request as embeddings
from .request import parse_ranking, ranking_reply

blueprint = Api(
    "embeddings",
    __name__,
    group="embeddings",
    tag="OpenAI: embeddings",
    ledger="embeddings",
    schemas={
        "EmbeddingRequest": doc.body("input", **embeddings.OPENAI),
        "RerankRequest": doc.body("query documents", **embeddings.RANKING),
        "OllamaEmbedRequest": doc.body("input", **embeddings.OLLAMA),
        "PromptEmbeddingRequest": doc.body("prompt", **embeddings.PROMPT),
    },
)


Result = TypeVar("Result", Embedded, Ranked)
_ollama_route = partial(
    json_route, blueprint, "POST", shape=ollama.error, tag="Ollama", error_schema="OllamaError"
)


@v1_route(blueprint, "POST", "/embeddings", body="EmbeddingRequest")
def openai_(services: Services, record: Record) -> Any:
    """Vectors of texts or tokens."""
    raw = sent_json()
    if (answer := by_other_server(services, record, "/v1/embeddings", raw)) is not None:
        return answer
    embedding, name, vectors, tokens = vectors_of(services, record, raw, embeddings.OPENAI)
    return embeddings.reply(embedding, name, vectors, tokens)


@_ollama_route("/api/embed", body="OllamaEmbedRequest")
def ollama_(services: Services, record: Record) -> Any:
    """Vectors of texts."""
    _, name, vectors, tokens = vectors_of(services, record, sent_json(), embeddings.OLLAMA)
    return {
        "model": name,
        "embeddings": vectors,
        "total_duration": round(record.elapsed() * 1e9),  # in nanoseconds
        "load_duration": 0,
        "prompt_eval_count": tokens,
    }


@_ollama_route("/api/embeddings", body="PromptEmbeddingRequest")
def ollama_older(services: Services, record: Record) -> Any:
    """A vector, in the older form."""
    _, _, vectors, _ = vectors_of(services, record, sent_json(), embeddings.PROMPT)
    return {"embedding": vectors[0]}


def vectors_of(
    services: Services, record: Record, raw: Mapping[str, Any], table: Mapping[str, doc.Field]
) -> tuple[embeddings.EmbeddingRequest, str, list[list[float]], int]:
    """Return the parsed request, the model's name, the vectors, and the tokens of all inputs."""
    embedding = parsed(partial(embeddings.parse, raw, table), request.environ, raw)
    name, result = embedded(services, record, embedding.model, embedding.inputs)
    vectors, warnings = embeddings.shaped(embedding, result)
    record.warnings += (*embedding.warnings, *warnings)
    return embedding, name, vectors, result.tokens


def embedded(
    services: Services, record: Record, model: str, inputs: Sequence[str | tuple[int, ...]]
) -> tuple[str, Embedded]:
    """The name of the model and the vectors. The local model serves its own name, and any unknown
    one if no backend makes embeddings. Raises like `check_model`, `within_limits`,
    `Embedder.embed`."""
    local, others = services.local_embedder, services.embedder
    caller = services.callers.caller(record.key, request.environ)  # counts one request

    def by(embedder: Embedder, model: str) -> tuple[str, Embedded]:
        ask = partial(embedder.embed, model, inputs)
        return _asked(services, record, caller, embedder, model, inputs, ask)

    if local is not None and local.makes(model):
        return by(local, model)
    try:
        return by(others, model)
    except Unsupported:
        name = local_model(services, request.environ)
        if local is None or not name or others.makes(model):
            raise
        return by(local, name)


def _asked(
    services: Services,
    record: Record,
    caller: Caller,
    embedder: Embedder,
    model: str,
    texts: Sequence[str | tuple[int, ...]],
    ask: Callable[..., tuple[str, Result]],
) -> tuple[str, Result]:
    """The model's name and what `ask` returns of an embedder, within the caller's limits."""
    check_model(services, request.environ, model, embedder)
    with (
        asking(services, record, request.environ) as cancel,
        within_limits(caller, record, embedder, model, texts) as admitted,
    ):
        record.shown = shown_names(services, record.key)
        began, info = record.elapsed(), record.info
        name, result = ask(cancel, caller, info=info, on_slot=admitted.on_slot)
        info.forwarding = record.elapsed() - began - info.queue_wait
        info.model, info.usage = name, Usage(result.tokens, 0)
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
    raw = sent_json()
    if (answer := by_other_server(services, record, "/v1/rerank", raw)) is not None:
        return answer
    ranking = parse_ranking(raw)
    record.warnings += ranking.warnings
    # Each is evaluated with the query; they are only counted, so nothing is joined.
    texts = (*ranking.documents, *repeat(ranking.query, len(ranking.documents)))
    caller = services.callers.caller(record.key, request.environ)
    ranker, model = services.ranker, ranking.model
    ask = partial(ranker.rerank, model, ranking.query, ranking.documents)
    name, result = _asked(services, record, caller, ranker, model, texts, ask)
    return ranking_reply(ranking, record.id, name, result.scores, result.tokens)
