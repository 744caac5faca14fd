"""OpenAI embeddings: POST /v1/embeddings; and the GLM API's and Ollama's forms of the same."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from ..core.invalid import Invalid
from ..core.vectors import Embedded, Vector, normalised
from ..errors import Unsupported
from .fields import Body, integer, text
from .openai_completions import prompts

MAX_DIMENSIONS = 1 << 20
MAX_INPUTS = 2048


class EmbeddingRequest(Struct, frozen=True):
    """What is asked. `dimensions` 0: as many as the model has. `base64`: vectors as the base64 of
    their little-endian 32-bit floats."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int = 0
    base64: bool = False


def parse(body: Body) -> EmbeddingRequest:
    """Raises Invalid naming the field."""
    form = text(body, "encoding_format", "float")
    if form not in ("float", "base64"):
        raise Invalid("encoding_format", "must be float or base64")
    return EmbeddingRequest(
        text(body, "model"),
        _inputs(body.get("input"), "input"),
        integer(body, "dimensions", 1, MAX_DIMENSIONS) or 0,
        form == "base64",
    )


def parse_ollama(body: Body) -> EmbeddingRequest:
    """Ollama's /api/embed: `input` a text or several. Raises Invalid."""
    return EmbeddingRequest(
        text(body, "model").removesuffix(":latest"),
        _inputs(body.get("input"), "input"),
        integer(body, "dimensions", 1, MAX_DIMENSIONS) or 0,
    )


def parse_prompt(body: Body) -> EmbeddingRequest:
    """`prompt` a text or several: the GLM API's /embedding, and Ollama's older /api/embeddings.
    Raises Invalid."""
    return EmbeddingRequest(
        text(body, "model").removesuffix(":latest"), _inputs(body.get("prompt"), "prompt")
    )


def _inputs(value: Any, name: str) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(value, list) and len(value) > MAX_INPUTS:
        raise Invalid(name, f"may hold {MAX_INPUTS} inputs at most")
    try:
        found = prompts(value, most=MAX_INPUTS)
    except Invalid as error:
        raise Invalid(error.param.replace("prompt", name, 1), error.reason) from None
    if any(len(one) == 0 for one in found):
        raise Invalid(name, "must not hold an empty text")
    if any(type(part) is str for one in found if not isinstance(one, str) for part in one):
        raise Invalid(name, "must not mix texts with token ids")
    return found  # type: ignore[return-value]  # mypy does not follow any()


def shaped(request: EmbeddingRequest, found: Embedded, shortens: bool) -> list[list[float]]:
    """The vectors with length 1 and as many dimensions as asked for.

    Only some models bear shortening, and none says so: unless `shortens`, other dimensions than the
    model's raise Unsupported."""
    wanted = request.dimensions
    have = len(found.vectors[0])
    if wanted and wanted != have and not (shortens and wanted < have):
        raise Unsupported(f"the embeddings have {have} dimensions", param="dimensions")
    return [normalised(vector[: wanted or have]) for vector in found.vectors]


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
