"""Anthropic's GET /v1/models, distinguished from OpenAI's by the anthropic-version header."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

VERSION = "anthropic-version"


def model(name: str, created: int, n_ctx: int) -> dict[str, Any]:
    """One model; `created` in seconds since 1970, `n_ctx` in tokens, 0 if unknown."""
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": n_ctx or None,
        "max_tokens": n_ctx or None,
    }


def listed(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The list of all models, always on one page."""
    return {
        "data": list(models),
        "has_more": False,
        "first_id": models[0]["id"] if models else None,
        "last_id": models[-1]["id"] if models else None,
    }
