"""Fields that the table of a model sets in the bodies of requests, or removes from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..core.sampling import FIELDS

# What Ollama's requests have in `options`, besides sampling fields.
_OPTIONS = frozenset(FIELDS) | {"num_ctx", "num_keep", "num_predict", "stop"}


def preset(
    body: Mapping[str, Any],
    remove: Collection[str],
    fields: Mapping[str, Any],
    *,
    options: bool = False,
) -> dict[str, Any]:
    """The body without the fields of `remove` and with `fields`, which replace those of the client.
    With `options`, it is one of Ollama's, which has most of them in an object of that name."""
    changed = {key: value for key, value in body.items() if key not in remove}
    if not options:
        return {**changed, **fields}
    inner = changed.get("options", {})
    if not isinstance(inner, dict):
        return changed  # refused by the dialect
    inner = {key: value for key, value in inner.items() if key not in remove}
    for key, value in fields.items():
        (inner if key in _OPTIONS else changed)[key] = value
    return {**changed, "options": inner}
