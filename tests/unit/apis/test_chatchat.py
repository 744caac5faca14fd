"""Langchain-Chatchat's shapes: bodies as its client sends them, documents as it reads them.

tests/cases/chatchat/<route>-<what>.json holds {"body": …, "asked": …}: the values that are parsed.
The bodies are those that its ApiRequest builds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from proxy.apis.chatchat.bodies import BODIES
from proxy.apis.chatchat.routes.view import error_of_list, error_of_table, error_reply
from proxy.errors import InvalidParameter, QueueFull, Unauthorized
from tests.unit.apis.test_golden import CASES, sparse

ROUTES = {
    "chat": "ChatRequest",
    "messages": "MessagesRequest",
    "knowledge_base_chat": "KnowledgeChatRequest",
    "file_chat": "FileChatRequest",
    "search_engine_chat": "SearchChatRequest",
    "agent_chat": "ChatRequest",
    "feedback": "Feedback",
    "completion": "CompletionRequest",
    "create_knowledge_base": "NewBase",
    "delete_knowledge_base": "Base",
    "upload_docs": "Documents",
    "upload_temp_docs": "ChatFiles",
    "delete_docs": "Delete",
    "update_docs": "Update",
    "update_docs_by_id": "Edit",
    "update_info": "BaseInfo",
    "search_docs": "Search",
    "recreate_vector_store": "Rebuild",
    "change": "ModelChange",
    "get_prompt_template": "Template",
    "embed_texts": "Texts",
}
FORMS = {route: BODIES[f"Chatchat{name}"] for route, name in ROUTES.items()}
FILES = sorted((CASES / "chatchat").glob("*.json"))


def route_of(path: Path) -> str:
    return path.stem.split("-")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_body_fits_its_schema_and_parses_to_its_values(path: Path) -> None:
    case = json.loads(path.read_text("utf-8"))
    form = FORMS[route_of(path)]
    if not route_of(path).startswith("upload"):
        Draft202012Validator(form.schema).validate(case["body"])
    plain = {name: sparse(value) for name, value in form.parse(case["body"]).items()}
    assert json.loads(json.dumps(plain)) == case["asked"]


def test_every_route_with_a_body_has_cases() -> None:
    assert {route_of(path) for path in FILES} == set(FORMS)


Q = {"query": "q"}
B = {"knowledge_base_name": "b"}


@pytest.mark.parametrize(
    ("route", "body", "place"),
    [
        ("chat", {}, "query"),
        ("chat", {"query": " "}, "query"),
        ("chat", {"query": 5}, "query"),
        ("messages", {"messages": []}, "messages"),
        ("messages", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ("messages", {"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ("chat", {**Q, "history": [["user"]]}, "history[0]"),
        ("chat", {**Q, "history": "x"}, "history"),
        ("chat", {**Q, "temperature": "hot"}, "temperature"),
        ("chat", {**Q, "max_tokens": "x"}, "max_tokens"),
        ("chat", {**Q, "stream": "yes"}, "stream"),
        ("chat", {**Q, "prompt_name": 5}, "prompt_name"),
        ("knowledge_base_chat", Q, "knowledge_base_name"),
        ("knowledge_base_chat", {**Q, **B, "score_threshold": 2.5}, "score_threshold"),
        ("knowledge_base_chat", {**Q, **B, "score_threshold": True}, "score_threshold"),
        ("knowledge_base_chat", {**Q, **B, "top_k": 0}, "top_k"),
        ("file_chat", Q, "knowledge_id"),
        ("search_engine_chat", Q, "search_engine_name"),
        ("feedback", {"score": 3}, "message_id"),
        ("feedback", {"chat_history_id": "x", "score": 101}, "score"),
        ("completion", {}, "query"),
        ("create_knowledge_base", {"knowledge_base_name": " "}, "knowledge_base_name"),
        ("create_knowledge_base", {"knowledge_base_name": "a\nb"}, "knowledge_base_name"),
        ("create_knowledge_base", {"knowledge_base_name": "x" * 201}, "knowledge_base_name"),
        ("create_knowledge_base", {"knowledge_base_name": "../a"}, "knowledge_base_name"),
        ("delete_knowledge_base", {"knowledge_base_name": "a\\b"}, "knowledge_base_name"),
        ("upload_docs", {**B, "override": "maybe"}, "override"),
        ("upload_docs", {**B, "chunk_size": "²"}, "chunk_size"),
        ("upload_docs", {**B, "chunk_size": "50", "chunk_overlap": "50"}, "chunk_overlap"),
        ("upload_docs", {**B, "docs": "{"}, "docs"),
        ("upload_docs", {**B, "docs": '{"a": [5]}'}, "docs.a[0]"),
        ("delete_docs", {**B, "file_names": [5]}, "file_names[0]"),
        ("update_docs_by_id", {**B, "docs": {"1": 5}}, "docs.1"),
        ("get_prompt_template", {"type": "../chat"}, "type"),
        ("embed_texts", {"texts": []}, "texts"),
        ("change", {"model_name": "a"}, "new_model_name"),
    ],
)
def test_invalid_field_is_named(route: str, body: Any, place: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        FORMS[route].parse(body)
    assert caught.value.param == place


def test_errors_have_the_form_of_the_dialect() -> None:
    fault = QueueFull("too many wait")
    assert error_reply(fault) == {"code": 429, "msg": "too many wait", "data": None}
    assert error_of_list(Unauthorized("no key"))["data"] == []
    assert error_of_table(Unauthorized("no key"))["data"] == {}
