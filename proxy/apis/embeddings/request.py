"""Embeddings in the formats of OpenAI (POST /v1/embeddings), the GLM API and Ollama."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from ...core.task import Embedded, Vector, normalised
from ...errors import InvalidParameter, Unsupported
from ..fields import Body, integer, model_name, text
from ..ignored_fields import ignored_fields
from ..ollama.models import untagged
from ..openai.completions import prompts

MAX_DIMENSIONS = 1 << 20
MAX_INPUTS = 2048


class EmbeddingRequest(Struct, frozen=True):
    """A parsed request. `dimensions` is 0 for the model's own number. `base64` returns each vector
    as the base64 of its little-endian 32-bit floats."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int = 0
    base64: bool = False
    warnings: tuple[str, ...] = ()


OPENAI = frozenset("model input encoding_format dimensions".split())
OLLAMA = frozenset("model input dimensions".split())
PROMPT = frozenset("model prompt".split())


def parse(body: Body) -> EmbeddingRequest:
    """Raises InvalidParameter naming the field."""
    form = text(body, "encoding_format", "float")
    if form not in ("float", "base64"):
        raise InvalidParameter("encoding_format", "must be float or base64")
    return EmbeddingRequest(
        model_name(body),
        _inputs(body.get("input"), "input"),
        integer(body, "dimensions", 1, MAX_DIMENSIONS) or 0,
        form == "base64",
        ignored_fields(body, OPENAI),
    )


def parse_ollama(body: Body) -> EmbeddingRequest:
    """Parses Ollama's /api/embed, where `input` is a string or a list. Raises InvalidParameter."""
    return EmbeddingRequest(
        untagged(model_name(body)),
        _inputs(body.get("input"), "input"),
        integer(body, "dimensions", 1, MAX_DIMENSIONS) or 0,
        warnings=ignored_fields(body, OLLAMA),
    )


def parse_prompt(body: Body) -> EmbeddingRequest:
    """Parses the GLM API's /embedding and Ollama's older /api/embeddings, where `prompt` is a
    string or a list. Raises InvalidParameter."""
    return EmbeddingRequest(
        untagged(model_name(body)),
        _inputs(body.get("prompt"), "prompt"),
        warnings=ignored_fields(body, PROMPT),
    )


def _inputs(value: Any, name: str) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(value, list) and len(value) > MAX_INPUTS:
        raise InvalidParameter(name, f"may contain at most {MAX_INPUTS} inputs")
    try:
        inputs = prompts(value, most=MAX_INPUTS)
    except InvalidParameter as error:
        raise InvalidParameter(error.param.replace("prompt", name, 1), error.reason) from None
    if any(len(one) == 0 for one in inputs):
        raise InvalidParameter(name, "must not contain an empty string")
    if any(type(part) is str for one in inputs if not isinstance(one, str) for part in one):
        raise InvalidParameter(name, "must not mix strings and token ids")
    return inputs  # type: ignore[return-value]  # mypy does not follow any()


def shaped(request: EmbeddingRequest, embedded: Embedded, shortens: bool) -> list[list[float]]:
    """Cuts the vectors to the requested dimensions and scales them to length 1.

    Only some models support shorter vectors, and no server reports which. Raises Unsupported if the
    request's dimensions differ from the model's, unless `shortens` is set and they are fewer."""
    wanted = request.dimensions
    have = len(embedded.vectors[0])
    if wanted and wanted != have and not (shortens and wanted < have):
        raise Unsupported(
            f"must not exceed the {have} dimensions of this model", param="dimensions"
        )
    return [normalised(vector[: wanted or have]) for vector in embedded.vectors]


def reply(
    request: EmbeddingRequest, name: str, vectors: Sequence[Vector], tokens: int
) -> dict[str, Any]:
    """The answer of /v1/embeddings."""
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": i,
                "embedding": _packed(vector) if request.base64 else vector,
            }
            for i, vector in enumerate(vectors)
        ],
        "model": name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _packed(vector: Vector) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def glm_reply(name: str, vectors: Sequence[Vector]) -> dict[str, Any]:
    """The answer of the GLM API's /embedding."""
    return {"data": vectors, "model": name, "object": "embedding"}


def ollama_reply(
    name: str, vectors: Sequence[Vector], tokens: int, seconds: float
) -> dict[str, Any]:
    """The answer of Ollama's /api/embed; durations in nanoseconds."""
    return {
        "model": name,
        "embeddings": vectors,
        "total_duration": round(seconds * 1e9),
        "load_duration": 0,
        "prompt_eval_count": tokens,
    }
