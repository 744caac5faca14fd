"""Valid bodies for every route, by its endpoint: those of the golden files, and some of our own.

A text that begins with "$" stands for the id of something that is there: see `World`.
"""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "tests" / "cases"

# The golden files of a folder are bodies of these endpoints.
FOLDERS = {
    "anthropic": ("anthropic.messages", "anthropic.count_tokens"),
    "glm": ("glm.chat", "glm.chat_stream", "glm.langchain"),
    "llamacpp": ("native.completion", "openai.both_completions"),
    "llamacpp_infill": ("native.infill",),
    "ollama_chat": ("ollama.chat_",),
    "ollama_generate": ("ollama.generate_",),
    "openai_chat": ("openai.chat_completions", "openai.input_tokens", "native.apply_template"),
    "openai_completions": ("openai.completions", "openai.both_completions"),
    "embeddings": ("embeddings.openai_",),
    "rerank": ("embeddings.ranked",),
    "responses": ("responses.create", "responses.input_tokens"),
}

OURS: dict[str, list[Any]] = json.loads((Path(__file__).with_name("seeds.json")).read_text("utf-8"))


@cache
def bodies(endpoint: str) -> list[Any]:
    """Valid bodies of an endpoint; an empty object if none is known."""
    found = list(OURS.get(endpoint, ()))
    for folder, endpoints in FOLDERS.items():
        if endpoint in endpoints:
            found += [_body(one) for one in sorted((CASES / folder).glob("*.json"))]
    if endpoint.startswith("chatchat."):
        rule = endpoint.removeprefix("chatchat.")
        found += [_body(one) for one in sorted((CASES / "chatchat").glob(f"{rule}-*.json"))]
    return found or [{}]


def _body(file: Path) -> Any:
    return json.loads(file.read_text("utf-8")).get("body", {})


def words() -> list[str]:
    """Names that our dialects and routes know: every short text in their source."""
    found: set[str] = set()
    for folder in ("apis", "web", "core"):
        for file in sorted((ROOT / "proxy" / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and re.fullmatch(r"[A-Za-z_][\w.-]{1,30}", node.value)
                ):
                    found.add(node.value)
    return sorted(found)
