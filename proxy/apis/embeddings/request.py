"""Embeddings in the formats of OpenAI (POST /v1/embeddings) and Ollama."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from ...core.task import Embedded, Vector, normalised
from ...errors import InvalidParameter, Unsupported
from .. import fields
from .. import schema_fields as doc
from ..fields import Body
from ..ollama.dialects import untagged
from ..openai.completions import prompts
from ..schema_fields import Field

MAX_DIMENSIONS = 1 << 20
MAX_INPUTS = 2048
SHORTENED = (
    "dimensions: cut to {} of {}; only a model trained for it keeps its quality (Matryoshka)"
)


class EmbeddingRequest(Struct, frozen=True):
    """A parsed request. `dimensions` is 0 for the model's own number. `base64` returns each vector
    as the base64 of its little-endian 32-bit floats."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int = 0
    base64: bool = False
    warnings: tuple[str, ...] = ()


def _inputs(body: Body, name: str) -> tuple[str | tuple[int, ...], ...]:
    value = body.get(name)
    if isinstance(value, list) and len(value) > MAX_INPUTS:  # of token ids, too
        raise InvalidParameter(name, f"may contain at most {MAX_INPUTS} inputs")
    try:
        inputs = prompts(value, most=MAX_INPUTS)
    except InvalidParameter as error:
        raise InvalidParameter(error.param.replace("prompt", name, 1), error.reason) from None
    if not all(inputs):
        raise InvalidParameter(name, "must not contain an empty string")
    if any(type(part) is str for tokens in inputs if type(tokens) is tuple for part in tokens):
        raise InvalidParameter(name, "must not mix strings and token ids")
    return inputs  # type: ignore[return-value]  # mypy does not follow any()


_MODEL = Field(doc.MODEL, "model", lambda body, name: untagged(fields.model_name(body, name)))
_INPUTS = Field(
    doc.one_of(
        f"A string, a list of token ids, or up to {MAX_INPUTS} of either.",
        "Hello!",
        doc.TEXT,
        {"type": "array", "maxItems": MAX_INPUTS},
    ),
    "inputs",
    _inputs,
)
# Ollama's /api/embed, OpenAI's /v1/embeddings, and Ollama's older /api/embeddings.
OLLAMA: dict[str, Field] = {
    "model": _MODEL,
    "input": _INPUTS,
    "dimensions": doc.count_field(
        "dimensions",
        "Fewer than the model's shorten the vectors, with a warning.",
        1,
        MAX_DIMENSIONS,
        64,
        0,
    ),
}
OPENAI: dict[str, Field] = {
    **OLLAMA,
    "model": _MODEL._replace(read=fields.model_name),
    "encoding_format": Field(
        doc.text("The encoding of vectors.", "float", enum=["float", "base64"]),
        "base64",
        lambda body, name: fields.choice(body, name, ("float", "base64"), "float") == "base64",
    ),
}
PROMPT: dict[str, Field] = {"model": _MODEL, "prompt": _INPUTS}


def parse(body: Body, table: Mapping[str, Field] = OPENAI) -> EmbeddingRequest:
    warnings = fields.ignored_fields(body, table.keys())
    return EmbeddingRequest(**doc.read_all(body, table), warnings=warnings)


def shaped(
    request: EmbeddingRequest, embedded: Embedded
) -> tuple[list[list[float]], tuple[str, ...]]:
    """Vectors of the requested dimensions and length 1, and warnings. Raises Unsupported."""
    have = len(embedded.vectors[0])
    dimensions = request.dimensions or have
    if dimensions > have:
        raise Unsupported(
            f"must not exceed the {have} dimensions of this model", param="dimensions"
        )
    warnings = (SHORTENED.format(dimensions, have),) if dimensions < have else ()
    return [normalised(vector[:dimensions]) for vector in embedded.vectors], warnings


def reply(
    request: EmbeddingRequest, name: str, vectors: Sequence[Vector], tokens: int
) -> dict[str, Any]:
    packed: Sequence[Any] = vectors
    if request.base64:
        packed = [
            base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            for vector in vectors
        ]
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": vector}
            for i, vector in enumerate(packed)
        ],
        "model": name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


MAX_DOCUMENTS = 1024


def _documents(body: Body, name: str) -> tuple[str, ...]:
    values = fields.items(body, name)
    if not 0 < len(values) <= MAX_DOCUMENTS:
        raise InvalidParameter(name, f"must contain 1 to {MAX_DOCUMENTS} strings")
    return tuple(
        document
        if type(document) is str
        else fields.text(fields.entry(document, f"{name}[{i}]"), "text", at=f"{name}[{i}].")
        for i, document in enumerate(values)
    )


RANKING: dict[str, Field] = {
    "model": OPENAI["model"],
    "query": doc.text_field("query", "The query to rank documents for.", read=fields.filled),
    "documents": Field(
        doc.array(
            "Strings, or objects with a `text`.",
            ["a", {"text": "b"}],
            minItems=1,
            maxItems=MAX_DOCUMENTS,
        ),
        "documents",
        _documents,
    ),
    "top_n": doc.count_field("top", "Number of documents to return.", 1, 1 << 30, 1),
    "return_documents": doc.flag_field("texts", "Return the documents' texts too."),
}


class RerankRequest(Struct, frozen=True):
    """Ask for the best `top` of `documents` (None: all), with their `texts` or without."""

    model: str
    query: str
    documents: tuple[str, ...]
    top: int | None
    texts: bool
    warnings: tuple[str, ...] = ()


def parse_ranking(body: Body) -> RerankRequest:
    warnings = fields.ignored_fields(body, RANKING.keys())
    return RerankRequest(**doc.read_all(body, RANKING), warnings=warnings)


def ranking_reply(
    request: RerankRequest, request_id: str, name: str, scores: Sequence[float], tokens: int
) -> dict[str, Any]:
    """The whole answer: highest score first, equal scores in the order of the request."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[: request.top]
    results: list[dict[str, Any]] = []
    for i in order:
        result: dict[str, Any] = {"index": i, "relevance_score": scores[i]}
        if request.texts:
            result["document"] = {"text": request.documents[i]}
        results.append(result)
    return {
        "id": request_id,
        "model": name,
        "object": "list",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": results,
        "meta": {"billed_units": {"search_units": 1}},
    }
