"""Keywords that no grammar expresses are named in a header of the answer, whole and streamed. What
each dialect makes of schemas and tools is in its golden files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from werkzeug.test import TestResponse

from tests.fakes import CAPS, ScriptedDriver, make_app, say

HEADER = "x-slotproxy-warning"
ODD = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
PLAIN = {"type": "array", "items": {"type": "string"}}
AWAY = {"$ref": "https://example.com/schema.json"}
# The sampler of an old server cannot hold two objects that begin alike.
ALIKE = {
    "anyOf": [
        {"type": "object", "properties": {"a": {"type": "string"}}},
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "null"}}},
    ]
}
CHECKED = "no grammar for uniqueItems in the schema: checked when the answer is complete"
UNCHECKED = "no grammar for uniqueItems in the tools: not enforced"
MODERN = msgspec.structs.replace(CAPS, dialect="llama-server", modern_sampling=True, queues=True)

Body = Callable[[Any], dict[str, Any]]

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
DOCUMENTS: dict[str, Body] = {
    "/v1/chat/completions": lambda schema: {
        **CHAT,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    },
    "/api/chat": lambda schema: {**CHAT, "format": schema},
}
TOOLS: dict[str, Body] = {
    "/v1/chat/completions": lambda schema: {**CHAT, "tools": [_function(schema)]},
    "/v1/messages": lambda schema: {
        **CHAT,
        "max_tokens": 9,
        "tools": [{"name": "f", "input_schema": schema}],
    },
}


def _function(schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


def _reply(
    route: str, body: dict[str, Any], stream: bool, text: str = '["a","b"]', modern: bool = True
) -> TestResponse:
    driver = ScriptedDriver(say(text), caps=MODERN if modern else CAPS)
    answer = make_app(driver).test_client().post(route, json={**body, "stream": stream})
    assert answer.status_code == 200, answer.get_data(as_text=True)
    answer.get_data()
    return answer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", DOCUMENTS)
def test_keyword_of_a_document_without_grammar_is_named(route: str, stream: bool) -> None:
    body = DOCUMENTS[route]
    assert _reply(route, body(ODD), stream).headers.getlist(HEADER) == [CHECKED]
    assert HEADER not in _reply(route, body(PLAIN), stream).headers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", TOOLS)
def test_keyword_of_a_tool_without_grammar_is_named(route: str, stream: bool) -> None:
    def parameters(schema: Any) -> Any:
        return {"type": "object", "properties": {"names": schema}}

    body = TOOLS[route]
    assert _reply(route, body(parameters(ODD)), stream).headers.getlist(HEADER) == [UNCHECKED]
    assert HEADER not in _reply(route, body(parameters(PLAIN)), stream).headers


def test_tools_that_may_not_be_called_are_not_named() -> None:
    route = "/v1/chat/completions"
    body = TOOLS[route]({"type": "object", "properties": {"a": ODD}})
    assert HEADER not in _reply(route, {**body, "tool_choice": "none"}, False).headers
    assert HEADER in _reply(route, {**body, "tool_choice": "auto"}, False).headers


def test_old_server_has_more_gaps_than_a_new_one() -> None:
    body = DOCUMENTS["/api/chat"](ALIKE)
    assert HEADER not in _reply("/api/chat", body, False, "{}").headers
    answer = _reply("/api/chat", body, False, "{}", modern=False)
    assert "anyOf" in answer.headers[HEADER]


def test_text_beside_tools_needs_no_grammar_of_a_call() -> None:
    """An old server has no grammar for this strict tool, which matters only if it is called."""
    tool = _function({"type": "object", "properties": {"a": ALIKE}})
    tool["function"]["strict"] = True
    body = {**CHAT, "tools": [tool]}
    answer = _reply("/v1/chat/completions", body, False, "Hi", modern=False)
    assert HEADER not in answer.headers


def test_schema_without_any_grammar_names_the_reason() -> None:
    many = [{"type": "object", "required": [f"a{i}"], "minProperties": 1} for i in range(600)]
    body = DOCUMENTS["/api/chat"]({"anyOf": many})
    answer = _reply("/api/chat", body, False, '{"a7":1}')
    reason = "no grammar for any keyword (because of anyOf) in the schema"
    assert answer.headers[HEADER] == f"{reason}: checked when the answer is complete"


@pytest.mark.parametrize("schema", [AWAY, {"properties": {"a": AWAY}}])
def test_reference_to_another_document_is_refused(schema: dict[str, Any]) -> None:
    """Nothing is fetched, so no answer could be checked."""
    driver = ScriptedDriver(say("{}"))
    body = DOCUMENTS["/v1/chat/completions"](schema)
    answer = make_app(driver).test_client().post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert "'$ref'" in answer.get_data(as_text=True)
    assert not driver.tasks


def test_names_of_a_client_are_not_in_the_header() -> None:
    """The header holds keywords of the standard alone, whatever the schema contains."""
    name = "a\r\nset-cookie: x\u2028"
    schema = {"type": "object", "properties": {name: ODD}, "$comment": name}
    assert _reply("/api/chat", DOCUMENTS["/api/chat"](schema), False, "{}").headers[HEADER] == (
        CHECKED
    )
