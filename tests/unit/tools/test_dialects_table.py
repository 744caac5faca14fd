"""The table of APIs: every test of the clients has its row, and results are read as they are."""

from __future__ import annotations

import ast

from tools import dialects_table as table
from tools import servers

ELSEWHERE = {
    "test_cached_tokens_are_counted_for_a_resumed_answer",
    "test_text_beyond_the_context_is_not_embedded",
    "test_embeddings_without_a_server_are_refused_by_name",
    "test_embeddings_and_rankings_use_dedicated_servers",
    "test_old_server_cannot_rerank",
    "test_token_ids_are_refused_where_only_text_is_embedded",
    "test_refused_call_is_not_made",
    "test_call_without_approval_is_made_at_once",
    "test_failed_call_is_reported_and_the_model_continues",
    "test_server_is_named_by_url",
    "test_name_of_a_private_address_is_not_connected_to",
    "test_url_that_is_not_allowed_is_forbidden",
    "test_server_that_is_not_configured_is_not_found",
}


def test_every_client_test_has_a_row() -> None:
    names = {
        node.name
        for file in table.FILES
        for node in ast.parse((servers.ROOT / file).read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert names - ELSEWHERE == set(table.ROWS)


def test_results_become_words() -> None:
    name = "test_ollama_chat"
    xml = f"""<testsuites><testsuite>
      <testcase name="{name}[llama-2023]"/>
      <testcase name="{name}[llama-2026]"><failure message="x"/></testcase>
      <testcase name="{name}[chatglm_cpp]"><skipped message="x"/></testcase>
      <testcase name="test_other[llama-2023]"/>
    </testsuite></testsuites>"""
    results = table.results(xml)
    assert results == {name: {"llama-2023": "yes", "llama-2026": "NO", "chatglm_cpp": "– x"}}
    results[name]["powerinfer"] = "yes"
    lines = table.markdown(results).splitlines()
    row = next(line for line in lines if "/api/chat" in line)
    assert row == "| Ollama | /api/chat | ollama | yes | yes | NO | – (3) | – (1) | – (1) | – (1) |"
    assert lines[-3:] == [f"1. {table.NOT_RUN}", f"2. {table.ABSENT['chatglm_cpp']}", "3. x"]
