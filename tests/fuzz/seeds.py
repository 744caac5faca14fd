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
        rule = _CHATCHAT.get(endpoint, "")
        found += [_body(one) for one in sorted((CASES / "chatchat").glob(f"{rule}-*.json")) if rule]
    return found or [{}]


# Endpoints whose golden files are named otherwise: by the end of the path.
_CHATCHAT = {
    "chatchat.chats.chat": "chat",
    "chatchat.chats.knowledge_base_chat": "knowledge_base_chat",
    "chatchat.chats.file_chat": "file_chat",
    "chatchat.chats.search_engine_chat": "search_engine_chat",
    "chatchat.chats.agent_chat": "agent_chat",
    "chatchat.chats.feedback": "feedback",
    "chatchat.chats.completion": "completion",
    "chatchat.bases.create": "create_knowledge_base",
    "chatchat.bases.delete": "delete_knowledge_base",
    "chatchat.bases.update_info": "update_info",
    "chatchat.bases.search": "search_docs",
    "chatchat.bases.edit": "update_docs_by_id",
    "chatchat.bases.recreate": "recreate_vector_store",
    "chatchat.files.delete_files": "delete_docs",
    "chatchat.files.update": "update_docs",
    "chatchat.files.upload_files": "upload_docs",
    "chatchat.files.upload_temporary": "upload_temp_docs",
    "chatchat.server.change": "change",
    "chatchat.server.embed_texts": "embed_texts",
    "chatchat.server.prompt_template": "get_prompt_template",
}


def _body(file: Path) -> Any:
    return json.loads(file.read_text("utf-8")).get("body", {})


def words() -> list[str]:
    """Names that our dialects and routes know: every short text in their source."""
    found: set[str] = set()
    for folder in ("dialects", "web", "core"):
        for file in sorted((ROOT / "proxy" / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and re.fullmatch(r"[A-Za-z_][\w.-]{1,30}", node.value)
                ):
                    found.add(node.value)
    return sorted(found)
