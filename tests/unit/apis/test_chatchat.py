"""Langchain-Chatchat's shapes: bodies as its client sends them, documents as it reads them.

tests/cases/chatchat/<route>-<what>.json holds {"body": …, "asked": …}: what is asked, without the
fields that have their default. The bodies are those that its ApiRequest builds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.apis.chatchat import answer, bases, params
from proxy.apis.chatchat.answer import error_of_list, error_of_table, error_reply
from proxy.apis.chatchat.params import (
    ChatchatModel,
    changed_model,
    configured_models,
    running_models,
    template_of,
    texts_of,
)
from proxy.errors import InvalidParameter, QueueFull, Unauthorized
from tests.unit.apis.test_golden import CASES, sparse

PARSERS: dict[str, Callable[[Any], Any]] = {
    "chat": params.chat,
    "knowledge_base_chat": params.knowledge,
    "file_chat": params.file,
    "search_engine_chat": params.search,
    "agent_chat": params.agent,
    "feedback": params.feedback,
    "completion": params.completion,
    "create_knowledge_base": bases.create,
    "delete_knowledge_base": bases.named,
    "upload_docs": bases.upload,
    "upload_temp_docs": bases.temporary,
    "delete_docs": bases.delete,
    "update_docs": bases.update,
    "update_docs_by_id": bases.edit,
    "update_info": bases.info,
    "search_docs": bases.search,
    "recreate_vector_store": bases.recreate,
    "change": changed_model,
    "get_prompt_template": template_of,
    "embed_texts": texts_of,
}
FILES = sorted((CASES / "chatchat").glob("*.json"))


def route_of(path: Path) -> str:
    return path.stem.split("-")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_body_parses_to_its_golden_question(path: Path) -> None:
    case = json.loads(path.read_text("utf-8"))
    parsed = PARSERS[route_of(path)](case["body"])
    plain = parsed if isinstance(parsed, str | tuple) else sparse(parsed)
    assert json.loads(json.dumps(plain)) == case["asked"]


def test_every_route_with_a_body_has_cases() -> None:
    assert {route_of(path) for path in FILES} == set(PARSERS)


Q = {"query": "q"}
B = {"knowledge_base_name": "b"}


@pytest.mark.parametrize(
    ("route", "body", "place"),
    [
        ("chat", {}, "query"),
        ("chat", {"query": " "}, "query"),
        ("chat", {"query": 5}, "query"),
        ("chat", {"messages": []}, "messages"),
        ("chat", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ("chat", {"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
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
        ("delete_knowledge_base", "a\\b", "knowledge_base_name"),
        ("delete_knowledge_base", 5, "the body"),
        ("upload_docs", {**B, "override": "maybe"}, "override"),
        ("upload_docs", {**B, "chunk_size": "²"}, "chunk_size"),
        ("upload_docs", {**B, "chunk_size": "50", "chunk_overlap": "50"}, "chunk_overlap"),
        ("upload_docs", {**B, "docs": "{"}, "docs"),
        ("upload_docs", {**B, "docs": '{"a": [5]}'}, "docs.a[0]"),
        ("delete_docs", {**B, "file_names": [5]}, "file_names"),
        ("update_docs_by_id", {**B, "docs": {"1": 5}}, "docs.1"),
        ("get_prompt_template", {"type": "../chat"}, "type"),
        ("embed_texts", {"texts": []}, "texts"),
        ("change", {"model_name": "a"}, "new_model_name"),
    ],
)
def test_invalid_field_is_named(route: str, body: Any, place: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        PARSERS[route](body)
    assert caught.value.param == place


NAMES = sorted(
    {
        name
        for path in FILES
        if isinstance(body := json.loads(path.read_text("utf-8"))["body"], dict)
        for name in body
    }
    | {"role", "content", "page_content", "source"}
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.sampled_from(sorted(PARSERS)), st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_any_body_parses_or_is_refused(route: str, body: dict[str, Any]) -> None:
    if route in ("upload_docs", "upload_temp_docs"):
        body = {name: str(value) for name, value in body.items()}  # the fields of a form
    try:
        PARSERS[route](body)
    except InvalidParameter as refused:
        assert refused.param


@given(st.lists(st.sampled_from(["text", "answer", "final_answer", "tools", "docs"])))
def test_whole_answer_equals_streamed_answer(kinds: list[str]) -> None:
    source = answer.Source(1, "a.pdf", "http://x/a", "body")
    makers = {
        "text": lambda: answer.text("id", "t"),
        "answer": lambda: answer.answer("a"),
        "final_answer": lambda: answer.final_answer("f"),
        "tools": lambda: answer.tools("clock", "{}", "now"),
        "docs": lambda: answer.docs([source]),
    }
    documents = [json.loads(answer.chunk(makers[kind]())) for kind in kinds]
    whole = answer.whole(documents)
    for name in ("text", "answer", "final_answer"):
        assert whole.get(name, "") == "".join(one.get(name, "") for one in documents)
    for name in ("tools", "docs"):
        assert whole.get(name, []) == [line for one in documents for line in one.get(name, [])]
    assert whole.get("chat_history_id", "id") == "id"


def test_source_is_a_link_with_its_text() -> None:
    source = answer.Source(2, "a [draft].pdf", "http://x/d?id=1", "the text")
    assert answer.docs([source]) == {
        "docs": ["Source [2] [a (draft).pdf](http://x/d?id=1)\n\nthe text\n\n"]
    }


def test_empty_search_result_is_reported() -> None:
    (line,) = answer.docs([])["docs"]
    assert "the model alone" in line


def test_errors_have_the_form_of_the_dialect() -> None:
    fault = QueueFull("too many wait")
    assert error_reply(fault) == {"code": 429, "msg": "too many wait", "data": None}
    assert error_of_list(Unauthorized("no key"))["data"] == []
    assert error_of_table(Unauthorized("no key"))["data"] == {}


def test_models_are_listed_without_addresses() -> None:
    models = [ChatchatModel("tiny", True, "llamacpp", 2048), ChatchatModel("glm", False, "chatglm")]
    assert list(running_models(models)) == ["tiny"]
    told = configured_models({"types": ["local", "online"]}, models)
    assert told["local"]["tiny"] == {
        "online_api": False,
        "model_name": "tiny",
        "device": "llamacpp",
        "running": True,
        "context_length": 2048,
    }
    assert told["local"]["glm"]["running"] is False
    assert configured_models({"types": ["online"]}, models) == {}
