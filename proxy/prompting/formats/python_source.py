"""Parses calls written as Python source, without evaluating them."""

from __future__ import annotations

import ast
import json
import warnings
from typing import Any

from .reader import Malformed
from .scanner import is_json

_MAX_SOURCE = 65_536


def parse_call(source: str) -> tuple[str, str]:
    """Name (dotted as written) and JSON arguments of ``name(key=literal, …)``.

    Only keyword arguments with literal values are accepted: strings, numbers, True, False, None,
    lists, tuples and dicts of these, and a minus before a number. Raises Malformed for anything
    else."""
    if len(source) > _MAX_SOURCE:
        raise Malformed
    try:
        # Invalid escapes in a model's strings must not emit warnings.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source.strip(), mode="eval").body
        if not isinstance(tree, ast.Call) or tree.args:
            raise Malformed
        arguments: dict[str, Any] = {}
        for keyword in tree.keywords:
            if keyword.arg is None or keyword.arg in arguments:
                raise Malformed
            arguments[keyword.arg] = ast.literal_eval(keyword.value)
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        if not is_json(text):
            raise Malformed
        return _dotted(tree.func), text
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        # ast raises MemoryError for deep nesting. Sets, bytes and complex numbers are Python
        # literals that json rejects.
        raise Malformed from error


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise Malformed
