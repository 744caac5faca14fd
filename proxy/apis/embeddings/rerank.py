"""Reranking in the format that Jina's and Cohere's APIs share: POST /v1/rerank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from ...errors import InvalidParameter
from ..fields import Body, entry, flag, integer, items, model_name, text
from ..ignored_fields import ignored_fields

MAX_DOCUMENTS = 1024
KNOWN = frozenset("model query documents top_n return_documents".split())


class RerankRequest(Struct, frozen=True):
    """A parsed request: return the best `top` of `documents`, with their texts if `texts` is
    set."""

    model: str
    query: str
    documents: tuple[str, ...]
    top: int
    texts: bool
    warnings: tuple[str, ...] = ()


def parse(body: Body) -> RerankRequest:
    """A document is a string or an object {text}. Raises InvalidParameter."""
    query = text(body, "query")
    if not query:
        raise InvalidParameter("query", "is missing")
    values = items(body, "documents")
    if not 0 < len(values) <= MAX_DOCUMENTS:
        raise InvalidParameter("documents", f"must contain 1 to {MAX_DOCUMENTS} strings")
    documents = tuple(
        document
        if type(document) is str
        else text(entry(document, f"documents[{i}]"), "text", at=f"documents[{i}].")
        for i, document in enumerate(values)
    )
    return RerankRequest(
        model_name(body),
        query,
        documents,
        min(integer(body, "top_n", 1, 1 << 30) or len(documents), len(documents)),
        flag(body, "return_documents"),
        ignored_fields(body, KNOWN),
    )


def reply(
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
