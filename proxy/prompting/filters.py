"""Filters of chat templates that replace or extend Jinja's own."""

from __future__ import annotations

import json
from typing import Any

from .bounds import modest_format


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON, as in Hugging Face's templates. Jinja's own filter escapes <, >, & and ' for
    HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def pyliteral(value: Any) -> str:
    """A JSON value as Python source, for families that write tool calls in Python (ChatGLM3)."""
    if not isinstance(value, str | int | float | bool | list | dict | None):
        raise TypeError("pyliteral accepts plain JSON values only")
    return repr(value)


def format(template: str, *args: Any, **kwargs: Any) -> str:
    """Jinja's ``format`` filter, with widths limited."""
    modest_format(template)
    return str(template) % (kwargs or args)
