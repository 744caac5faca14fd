"""Builds model entries for /api/tags, /api/ps and /api/show.

Backends do not report the size and digest of their file: the size is 0, except for a model that the
gateway starts, and the digest is that of the name, which suffices to tell models apart.
"""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from ..fields import Body, model_name, text

VERSION = "0.12.6"  # the Ollama version reported; clients require a minimum


class OllamaModel(Struct, frozen=True, kw_only=True):
    """A served model; `created` in seconds since 1970, `n_ctx` in tokens, 0 if unknown. `status` is
    that of a model that is loaded on demand, "" for others. `size` is the memory that it takes in
    bytes, `on_cards` of it on graphics cards, `on_disk` the size of its file, 0 if unknown;
    `expires` is when it is unloaded if nobody uses it, in seconds since 1970.
    `family`, `parameters` ("8B"), `quantization` and `trained` (tokens) are from its file."""

    name: str
    created: int
    n_ctx: int = 0
    template: str = ""
    infill: bool = False
    vision: bool = False
    embeddings: bool = False
    generates: bool = True
    status: str = ""
    size: int = 0
    on_cards: int = 0
    on_disk: int = 0
    expires: float = math.inf
    family: str = ""
    parameters: str = ""
    quantization: str = ""
    trained: int = 0


NEVER = "9999-12-31T23:59:59Z"
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "",
    "quantization_level": "",
}


def _details(model: OllamaModel) -> dict[str, Any]:
    family = model.family or DETAILS["family"]
    return {
        **DETAILS,
        "family": family,
        "families": [family],
        "parameter_size": model.parameters,
        "quantization_level": model.quantization,
    }


def _tagged(name: str) -> str:
    """The name with a tag, as Ollama lists all models: clients look for it there."""
    return name if ":" in name else f"{name}:latest"


def untagged(name: str) -> str:
    """The name in a request without the tag that lists add."""
    return name.removesuffix(":latest")


def _entry(model: OllamaModel) -> dict[str, Any]:
    name = _tagged(model.name)
    return {
        "name": name,
        "model": name,
        "size": model.size,
        "digest": hashlib.sha256(model.name.encode()).hexdigest(),
        "details": _details(model),
        **({"status": model.status} if model.status else {}),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def tag(model: OllamaModel) -> dict[str, Any]:
    """An entry of /api/tags."""
    size = model.on_disk or model.size
    return {**_entry(model), "size": size, "modified_at": _time(model.created)}


def running(model: OllamaModel) -> dict[str, Any]:
    """An entry of /api/ps, for a model that is loaded."""
    return {
        **_entry(model),
        "expires_at": NEVER if model.expires == math.inf else _time(model.expires),
        "size_vram": model.on_cards,
        "context_length": model.n_ctx,
    }


def parse_show(body: Body) -> str:
    """The name of the model that /api/show is asked about. Raises InvalidParameter."""
    return untagged(model_name(body) or text(body, "name"))


def show(model: OllamaModel) -> dict[str, Any]:
    """The answer of /api/show."""
    family = model.family or DETAILS["family"]
    can = {
        "completion": model.generates,
        "tools": model.generates,
        "insert": model.infill,
        "vision": model.vision,
        "embedding": model.embeddings,
    }
    return {
        "modelfile": "",
        "parameters": "",
        "template": model.template,
        "details": _details(model),
        "model_info": {
            "general.architecture": family,
            "general.basename": model.name,
            f"{family}.context_length": model.n_ctx or model.trained,
        },
        "capabilities": [name for name in can if can[name]],
        "modified_at": _time(model.created),
    }
