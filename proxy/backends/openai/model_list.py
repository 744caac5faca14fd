"""The list of models of a server that speaks OpenAI's API (``GET /v1/models``)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ...wire.router import LONGEST, MOST, as_count, as_dict


class ListedModel(Struct, frozen=True, kw_only=True):
    """`owner` is the entry's ``owned_by``; `n_ctx` its context in tokens, 0 if it tells none."""

    name: str
    owner: str = ""
    n_ctx: int = 0


def models(document: Any) -> tuple[ListedModel, ...]:
    """The models of a list that make text, in its order. Raises ValueError for anything but a list
    of models."""
    entries = as_dict(document).get("data")
    if not isinstance(entries, list):
        raise ValueError("not a list of models")
    named = (as_dict(entry) for entry in entries[:MOST])
    return tuple(
        _model(entry)
        for entry in named
        if 0 < len(_text(entry.get("id"))) <= LONGEST and _makes_text(entry)
    )


def _makes_text(entry: dict[str, Any]) -> bool:
    """OpenRouter, llama-server and slotproxy tell what a model makes, such as embeddings."""
    made = as_dict(entry.get("architecture")).get("output_modalities")
    return not isinstance(made, list) or "text" in made


def _model(entry: dict[str, Any]) -> ListedModel:
    """vLLM, SGLang and llm-d tell `max_model_len`; llama-server and slotproxy `meta.n_ctx`; LM
    Studio and some clouds tell other names."""
    told = (
        entry.get("max_model_len"),
        as_dict(entry.get("meta")).get("n_ctx"),
        entry.get("loaded_context_length"),
        entry.get("max_context_length"),
        entry.get("context_length"),
    )
    return ListedModel(
        name=_text(entry.get("id")),
        owner=_text(entry.get("owned_by")),
        n_ctx=next((count for value in told if (count := as_count(value))), 0),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
