"""Writes calls in the form of a shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .base import NAME, CallShape, TaggedArguments
from .tagged import kind_of


def write_calls(shape: CallShape, *calls: tuple[str, Mapping[str, Any]]) -> str:
    """Calls in the form of the shape, with ID for their ids."""
    texts = [
        shape.before_name
        + name
        + shape.after_name.replace(NAME, name)
        + write_arguments(shape, arguments)
        + shape.suffix
        for name, arguments in calls
    ]
    return shape.prefix + shape.separator.join(texts) + shape.end


def write_arguments(shape: CallShape, arguments: Mapping[str, Any]) -> str:
    """The arguments of a call in the form of the shape."""
    tags = shape.tagged
    if tags is None:
        return json.dumps(arguments, ensure_ascii=False)
    return tags.separator.join(
        _write_argument(tags, key, value) for key, value in arguments.items()
    )


def _write_argument(tags: TaggedArguments, key: str, value: Any) -> str:
    before, after = tags.around(key, kind_of(value))
    is_text = isinstance(value, str) and not tags.json_text
    return before + (value if is_text else json.dumps(value, ensure_ascii=False)) + after
