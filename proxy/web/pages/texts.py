"""The texts of the pages: one JSON file for each language, which scripts read too. A text may have
placeholders, `{name}`, and forms for numbers, `{"one", "other"}`.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

STATIC = Path(__file__).resolve().parents[1] / "static"
LANGUAGES = ("en", "zh")


def words(language: str, key: str, **values: object) -> str:
    """Return a text with `values` in its placeholders; `n` decides its form. Raises KeyError."""
    text = _find(language, key)
    if text is None:
        raise KeyError(key)
    if isinstance(text, dict):
        text = text["one" if str(values.get("n")) == "1" else "other"]
    return re.sub(r"\{(\w+)\}", lambda name: str(values[name[1]]), text)


def known(key: str) -> bool:
    return _find("en", key) is not None


def file(language: str) -> str:
    return f"texts/{language}.json"


def _find(language: str, key: str) -> Any:
    node: Any = _load(language)
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


@functools.cache
def _load(language: str) -> Any:
    return json.loads((STATIC / file(language)).read_bytes())
