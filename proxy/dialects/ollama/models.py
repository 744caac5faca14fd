"""What /api/tags, /api/ps and /api/show say about a model.

A backend does not tell the size and digest of its file; they are 0 and a digest of the name, which
is what clients use them for.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

VERSION = "0.12.6"  # of Ollama, whose API this is; clients ask for a least one


class Model(Struct, frozen=True):
    """A served model; `created` in seconds since 1970, `n_ctx` in tokens, 0 unknown. `status` says
    whether it is loaded, "" where its server has no other."""

    name: str
    created: int
    n_ctx: int = 0
    template: str = ""
    infill: bool = False
    vision: bool = False
    embeddings: bool = False
    status: str = ""


def _details(model: Model) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "",
        "quantization_level": "",
    }


def _entry(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "size": 0,
        "digest": hashlib.sha256(model.name.encode()).hexdigest(),
        "details": _details(model),
        **({"status": model.status} if model.status else {}),
    }


def _time(model: Model) -> str:
    return datetime.fromtimestamp(model.created, UTC).isoformat().replace("+00:00", "Z")


def tag(model: Model) -> dict[str, Any]:
    """An entry of /api/tags."""
    return {**_entry(model), "modified_at": _time(model)}


def running(model: Model) -> dict[str, Any]:
    """An entry of /api/ps, for a model that is loaded."""
    return {
        **_entry(model),
        "expires_at": "9999-12-31T23:59:59Z",
        "size_vram": 0,
        "context_length": model.n_ctx,
    }


def show(model: Model) -> dict[str, Any]:
    """The answer of /api/show."""
    capabilities = ["completion", "tools"]
    for name, there in (
        ("insert", model.infill),
        ("vision", model.vision),
        ("embedding", model.embeddings),
    ):
        if there:
            capabilities.append(name)
    return {
        "modelfile": "",
        "parameters": "",
        "template": model.template,
        "details": _details(model),
        "model_info": {
            "general.architecture": "llama",
            "general.basename": model.name,
            "llama.context_length": model.n_ctx,
        },
        "capabilities": capabilities,
        "modified_at": _time(model),
    }
