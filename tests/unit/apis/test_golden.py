"""Golden files: request bodies of clients, and their parsed requests.

tests/cases/<dialect>/<name>.json holds {"body": …, "request": …}: the request without the fields
that have their default.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from proxy.apis import anthropic
from proxy.apis import schema_fields as doc
from proxy.apis.anthropic import request as anthropic_request
from proxy.apis.embeddings import request as embeddings
from proxy.apis.embeddings.request import parse_ranking
from proxy.apis.glm import chat as glm
from proxy.apis.llamacpp import native as llamacpp_native
from proxy.apis.ollama import dialects as ollama
from proxy.apis.ollama.dialects import chat as ollama_chat
from proxy.apis.ollama.dialects import generate as ollama_generate
from proxy.apis.openai import chat as openai_chat
from proxy.apis.openai import completions as openai_completions
from proxy.apis.responses import request as responses
from proxy.errors import InvalidParameter
from tests.thorough import share

Parse = Callable[[Any], Any]
CASES = Path(__file__).resolve().parents[2] / "cases"
SEARCHES = frozenset({"file_search", "web_search"})
PARSERS: dict[str, Parse] = {
    "openai_chat": openai_chat.parse,
    "openai_completions": openai_completions.parse,
    "anthropic": anthropic.parse,
    "ollama_chat": ollama_chat.parse,
    "ollama_generate": ollama_generate.parse,
    "glm": glm.parse,
    "llamacpp": llamacpp_native.parse,
    "llamacpp_infill": llamacpp_native.parse_infill,
    "responses": responses.parse,
    "responses_searches": lambda body: responses.parse(body, (), SEARCHES),
    "embeddings": embeddings.parse,
    "rerank": parse_ranking,
}
SCHEMAS = {
    "openai_chat": doc.body("messages", **openai_chat.FIELDS),
    "openai_completions": doc.body("prompt", **openai_completions.FIELDS),
    "anthropic": doc.body("messages max_tokens", **anthropic_request.FIELDS),
    "ollama_chat": doc.body(**ollama.CHAT),
    "ollama_generate": doc.body(**ollama.GENERATE),
    "glm": doc.body("prompt", **glm.FIELDS),
    "llamacpp": doc.body("prompt", **llamacpp_native.FIELDS),
    "llamacpp_infill": doc.body(**llamacpp_native.INFILL),
    "responses": doc.body("input", **responses.FIELDS),
    "responses_searches": doc.body("input", **responses.FIELDS),
    "embeddings": doc.body("input", **embeddings.OPENAI),
    "rerank": doc.body("query documents", **embeddings.RANKING),
}
FILES = [
    pytest.param(name, path, id=f"{name}-{path.stem}")
    for name in PARSERS
    for path in sorted((CASES / name).glob("*.json"))
]


def sparse(value: Any) -> Any:
    """Plain data, without fields that have their default."""
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(type(value))
        values = {f.name: getattr(value, f.name) for f in fields}
        return {
            f.name: sparse(values[f.name])
            for f in fields
            if values[f.name] != f.default and values[f.name] != {}
        }
    if isinstance(value, (list, tuple)):
        return [sparse(item) for item in value]
    return value


@pytest.mark.parametrize(("dialect", "path"), FILES)
def test_body_parses_to_its_golden_request(dialect: str, path: Path) -> None:
    case = json.loads(path.read_text("utf-8"))
    Draft202012Validator(SCHEMAS[dialect]).validate(case["body"])
    parsed = sparse(PARSERS[dialect](case["body"]))
    assert json.loads(json.dumps(parsed, default=sorted)) == case["request"]


USER = [{"role": "user", "content": "U"}]
A9 = {"max_tokens": 9, "messages": USER}
AFAR: Any = {"type": "url", "name": "far", "url": "https://mcp.example/a"}
ONE = {"allowed_tools": [1]}
TOOLSET = {"type": "mcp_toolset", "mcp_server_name": "far"}
FAR: Any = {"type": "mcp", "server_label": "far"}
REMOTE: Any = {**FAR, "server_url": "https://mcp.example/a"}
TWO = {"headers": {"authorization": "a"}, "authorization": "b"}
WEB: Any = {"type": "web_search_20250305", "name": "web_search"}
SEARCH: Any = {"type": "file_search", "vector_store_ids": ["vs_1"]}
# Errors of an MCP server or a search, and their places within it.
SERVERS: list[tuple[Any, str]] = [
    ({"type": "url"}, ".name"),
    ({**AFAR, "name": "a b"}, ".name"),
    ({**AFAR, "type": "stdio"}, ".type"),
    ({**AFAR, "authorization_token": "a\nb"}, ".authorization_token"),
    ({**AFAR, "url": None, "authorization_token": "a"}, ".authorization_token"),
    (
        {**AFAR, "tool_configuration": {"allowed_tools": [1]}},
        ".tool_configuration.allowed_tools[0]",
    ),
]
TOOLS: list[tuple[str, Any, str]] = [
    *(
        ("responses", {"type": "mcp", "server_label": label}, "server_label")
        for label in (None, "a b", "a__b", "a_", "1a", "")
    ),
    ("responses", {**FAR, "connector_id": "connector_gmail"}, "connector_id"),
    ("responses", {**FAR, "allowed_tools": [1]}, "allowed_tools[0]"),
    ("responses", {**FAR, "require_approval": "sometimes"}, "require_approval"),
    ("responses", {**FAR, "headers": {"X-Key": "k"}}, "headers"),
    ("responses", {**FAR, "authorization": "t"}, "authorization"),
    ("responses", {**REMOTE, "headers": {"X Key": "k"}}, "headers"),
    ("responses", {**REMOTE, "headers": {"X-Key": "a\r\nHost: b"}}, "headers.X-Key"),
    ("responses", {**REMOTE, "headers": {"Host": "b"}}, "headers"),
    ("responses", {**REMOTE, **TWO}, "authorization"),
    ("responses_searches", {"type": "file_search"}, "vector_store_ids"),
    ("responses_searches", {**SEARCH, "vector_store_ids": [1]}, "vector_store_ids[0]"),
    ("responses_searches", {**SEARCH, "max_num_results": 51}, "max_num_results"),
    (
        "responses_searches",
        {**SEARCH, "ranking_options": {"score_threshold": 2}},
        "ranking_options.score_threshold",
    ),
    ("responses_searches", {**SEARCH, "filters": {"type": "like"}}, "filters.key"),
    (
        "responses_searches",
        {"type": "web_search", "search_context_size": "huge"},
        "search_context_size",
    ),
    ("anthropic", {**WEB, "name": "search"}, "name"),
    ("anthropic", {**WEB, "max_uses": 0}, "max_uses"),
    ("anthropic", {**WEB, "allowed_domains": ["https://a.example"]}, "allowed_domains"),
    ("anthropic", {**WEB, "blocked_domains": ["a.example/*/b/*"]}, "blocked_domains"),
    ("anthropic", {**WEB, "blocked_domains": ["*.a.example"]}, "blocked_domains"),
    (
        "anthropic",
        {**WEB, "allowed_domains": ["a.example"], "blocked_domains": ["b.example"]},
        "blocked_domains",
    ),
]


def said(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": [*parts]}


CALLED: Any = {"role": "assistant", "content": None}
# Incomplete blocks and items, and their missing fields.
BLOCKS: list[tuple[Any, str]] = [
    ({"type": "text"}, "text"),
    ({"type": "tool_use", "id": "t1", "input": {}}, "name"),
    ({"type": "tool_use", "name": "f", "input": {}}, "id"),
    ({"type": "tool_result", "content": "5"}, "tool_use_id"),
    ({"type": "tool_result", "tool_use_id": "", "content": "5"}, "tool_use_id"),
]
ITEMS: list[tuple[Any, str]] = [
    ({"role": "user"}, "content"),
    (said({"type": "input_text"}), "content[0].text"),
    ({"role": "assistant", "content": [{"type": "output_text"}]}, "content[0].text"),
    ({"type": "function_call", "call_id": "c1", "arguments": "{}"}, "name"),
    ({"type": "function_call", "name": "f", "arguments": "{}"}, "call_id"),
    ({"type": "custom_tool_call", "call_id": "c1", "input": "+a"}, "name"),
]
APPROVAL = {
    "type": "mcp_approval_request",
    "id": "mcpr_1",
    "server_label": "far",
    "name": "get",
    "arguments": "{}",
}
ANSWER = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
# A value of the wrong type or size for each of these fields of a chat.
FIELDS: dict[str, Any] = {
    "temperature": "hot",
    "top_p": 7,
    "top_k": 1.5,
    "max_tokens": "many",
    "max_completion_tokens": -2,
    "n": 17,
    "stop": [5],
    "stream": "yes",
    "stream_options": 1,
    "seed": "x",
    "logit_bias": {"": 1},
    "logprobs": 3,
    "top_logprobs": 3,
    "presence_penalty": [],
    "mirostat": 9,
    "grammar": 7,
    "model": 7,
    "user": {},
    "tools": {},
    "tool_choice": 3,
}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    *(("openai_chat", {"messages": USER, name: value}, name) for name, value in FIELDS.items()),
    ("openai_chat", {"messages": []}, "messages"),
    ("openai_chat", {"messages": ["x"]}, "messages[0]"),
    ("openai_chat", {"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role"),
    ("openai_chat", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ("openai_chat", {"messages": [said({"type": "odd"})]}, "messages[0].content[0].type"),
    ("openai_chat", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ("openai_chat", {"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ("openai_chat", {"messages": [{"role": "system"}]}, "messages[0].content"),
    ("openai_chat", {"messages": [{"role": "assistant"}]}, "messages[0].content"),
    ("openai_chat", {"messages": [{"role": "tool", "tool_call_id": "c"}]}, "messages[0].content"),
    ("openai_chat", {"messages": [said({"type": "text"})]}, "messages[0].content[0].text"),
    (
        "openai_chat",
        {"messages": [said({"type": "text", "text": None})]},
        "messages[0].content[0].text",
    ),
    (
        "openai_chat",
        {"messages": [{"role": "tool", "content": "5", "name": "f"}]},
        "messages[0].tool_call_id",
    ),
    (
        "openai_chat",
        {"messages": [{**CALLED, "tool_calls": [{"id": "c", "type": "function"}]}]},
        "messages[0].tool_calls[0].function",
    ),
    (
        "openai_chat",
        {"messages": [{**CALLED, "tool_calls": [{"id": "c", "function": {"arguments": ""}}]}]},
        "messages[0].tool_calls[0].function.name",
    ),
    *(
        ("anthropic", {**A9, "messages": [said(block)]}, f"messages[0].content[0].{place}")
        for block, place in BLOCKS
    ),
    *(("responses", {"input": [item]}, f"input[0].{place}") for item, place in ITEMS),
    ("responses", {"input": [ANSWER]}, "input"),
    ("responses", {"input": [APPROVAL, ANSWER], "tools": []}, "tools"),
    ("responses", {"input": [APPROVAL, {**ANSWER, "approve": None}]}, "input[1].approve"),
    ("responses", {"input": "x", "tools": [FAR, FAR]}, "tools[1].server_label"),
    ("anthropic", {"messages": USER}, "max_tokens"),
    ("anthropic", {"max_tokens": -1, "messages": USER}, "max_tokens"),
    ("anthropic", {"max_tokens": 9, "messages": []}, "messages"),
    (
        "anthropic",
        {"max_tokens": 9, "messages": [{"role": "tool", "content": ""}]},
        "messages[0].role",
    ),
    ("anthropic", {**A9, "messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    (
        "anthropic",
        {**A9, "messages": [{"role": "user", "content": [{}]}]},
        "messages[0].content[0].type",
    ),
    ("anthropic", {**A9, "system": 5}, "system"),
    ("anthropic", {**A9, "system": ["x"]}, "system[0]"),
    ("anthropic", {**A9, "temperature": "x"}, "temperature"),
    ("anthropic", {**A9, "top_k": 1.5}, "top_k"),
    ("anthropic", {**A9, "stop_sequences": [""]}, "stop_sequences"),
    ("anthropic", {**A9, "tools": [{"input_schema": {}}]}, "tools[0].function.name"),
    ("anthropic", {**A9, "tools": [{"name": "a\nb"}]}, "tools[0].function.name"),
    ("anthropic", {**A9, "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ("anthropic", {**A9, "tool_choice": {"type": "all"}}, "tool_choice.type"),
    ("anthropic", {**A9, "thinking": {"type": "hard"}}, "thinking.type"),
    (
        "anthropic",
        {**A9, "output_config": {"format": {"type": "json_schema"}}},
        "output_config.format.schema",
    ),
    ("anthropic", {**A9, "output_format": {"type": "json"}}, "output_format.type"),
    *(
        ("anthropic", {**A9, "mcp_servers": [server]}, f"mcp_servers[0]{place}")
        for server, place in SERVERS
    ),
    ("anthropic", {**A9, "mcp_servers": [AFAR, AFAR]}, "mcp_servers[1].name"),
    ("anthropic", {**A9, "tools": [TOOLSET]}, "tools[0].mcp_server_name"),
    *(
        (name, {**A9, "input": "x", "tools": [tool]}, f"tools[0].{place}")
        for name, tool, place in TOOLS
    ),
    ("ollama_chat", {"messages": []}, "messages"),
    ("ollama_chat", {"messages": [{"role": "ai"}]}, "messages[0].role"),
    ("ollama_chat", {"messages": USER, "format": "xml"}, "format"),
    ("ollama_chat", {"messages": USER, "think": 3}, "think"),
    ("ollama_chat", {"messages": USER, "options": {"temperature": "hot"}}, "temperature"),
    ("ollama_chat", {"messages": USER, "options": {"num_predict": "x"}}, "options.num_predict"),
    ("ollama_chat", {"messages": [{"role": "user", "images": [5]}]}, "messages[0].images[0]"),
    ("ollama_generate", {"prompt": "P", "template": "{{ .Prompt }}"}, "template"),
    ("ollama_generate", {"prompt": 5}, "prompt"),
    ("ollama_generate", {"prompt": "P", "raw": True, "images": ["iVBORw=="]}, "images"),
    ("glm", {}, "prompt"),
    ("glm", {"prompt": "P", "history": [["a"]]}, "history[0]"),
    ("glm", {"prompt": "P", "history": ["a", "b"]}, "history[0]"),
    ("glm", {"prompt": "P", "history": [["a", 5]]}, "history[0]"),
    ("glm", {"prompt": "P", "top_p": 2}, "top_p"),
    ("glm", {"prompt": "P", "max_length": -1}, "max_length"),
    ("llamacpp", {}, "prompt"),
    ("llamacpp", {"prompt": [1, 2.5]}, "prompt"),
    ("llamacpp", {"prompt": [1, *"a" * 65]}, "prompt"),
    ("llamacpp", {"prompt": {"prompt_string": 5}}, "prompt.prompt_string"),
    (
        "llamacpp",
        {"prompt": [{"prompt_string": "a", "multimodal_data": ["iVBORw=="]}]},
        "prompt[0].multimodal_data",
    ),
    ("llamacpp", {"prompt": "P", "return_progress": 1}, "return_progress"),
    ("llamacpp", {"prompt": "P", "temperature": "x"}, "temperature"),
    ("llamacpp", {"prompt": "P", "stop": [5]}, "stop"),
    ("llamacpp", {"prompt": "P", "json_schema": "x"}, "json_schema"),
    ("llamacpp", {"prompt": "P", "response_fields": [5]}, "response_fields[0]"),
    ("llamacpp", {"prompt": "P", "image_data": [{}]}, "image_data"),
    ("llamacpp_infill", {"input_prefix": 5}, "input_prefix"),
    ("llamacpp_infill", {"input_extra": ["x"]}, "input_extra[0]"),
    ("responses", {}, "input"),
    ("responses", {"input": 5}, "input"),
    ("responses", {"input": ["x"]}, "input[0]"),
    ("responses", {"input": [{"role": "x"}]}, "input[0].role"),
    ("responses", {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].id"),
    ("responses", {"input": "x", "conversation": ["conv_1"]}, "conversation"),
    ("responses", {"input": "x", "prompt": {"id": "pmpt_1"}}, "prompt"),
    ("responses", {"input": "x", "truncation": "some"}, "truncation"),
    ("responses", {"input": "x", "background": True, "stream": True}, "background"),
    ("responses", {"input": "x", "tool_choice": {"type": "function"}}, "tool_choice"),
    ("responses", {"input": "x", "tools": [{"type": "custom"}]}, "tools[0].function.name"),
    ("responses", {"input": "x", "text": {"format": {"type": "xml"}}}, "text.format.type"),
    ("responses", {"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
    ("embeddings", {}, "input"),
    ("embeddings", {"input": ""}, "input"),
    ("embeddings", {"input": ["a", ""]}, "input"),
    ("embeddings", {"input": [1, "a"]}, "input"),
    ("embeddings", {"input": [[1], ["a"]]}, "input"),
    ("embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ("embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
    ("rerank", {"documents": ["a"]}, "query"),
    ("rerank", {"query": "q"}, "documents"),
    ("rerank", {"query": "q", "documents": [5]}, "documents[0]"),
]


@pytest.mark.parametrize(("dialect", "body", "place"), WRONG)
def test_invalid_field_is_named(dialect: str, body: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        PARSERS[dialect](body)
    assert caught.value.param == place


MORE = set("role content type text name function input source output format".split())
NAMES = sorted(
    MORE.union(*(json.loads(param.values[1].read_text("utf-8"))["body"] for param in FILES))
)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["user", "assistant", "tool", "function", "message", "tool_result", "image"])
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=15,
)


def accepts(dialect: str, body: dict[str, Any]) -> bool:
    """Whether a body parses. Anything but a refusal is raised."""
    try:
        PARSERS[dialect](body)
    except InvalidParameter:
        return False
    return True


def golden_bodies(dialect: str) -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text("utf-8"))["body"]
        for path in sorted((CASES / dialect).glob("*.json"))
    ]


@pytest.mark.parametrize("dialect", PARSERS)
def test_body_with_any_value_in_one_place_is_parsed_or_refused(dialect: str) -> None:
    """A valid body with any value in one place, at any depth."""
    bodies = golden_bodies(dialect)
    seen: list[bool] = []

    @given(number=st.integers(0, len(bodies) - 1), value=VALUES, data=st.data())
    @settings(max_examples=share(25 * len(bodies)))
    def check(number: int, value: Any, data: st.DataObject) -> None:
        body = copy.deepcopy(bodies[number])
        here: Any = body
        while True:
            keys = sorted(here) if isinstance(here, dict) else list(range(len(here)))
            key = data.draw(st.sampled_from(keys))
            inside = here[key]
            if not isinstance(inside, (dict, list)) or not inside or data.draw(st.booleans()):
                here[key] = value
                break
            here = inside
        seen.append(accepts(dialect, body))

    check()
    assert True in seen and False in seen


def outcome(body: dict[str, Any]) -> Any:
    try:
        return openai_chat.parse(body)
    except InvalidParameter as error:
        return str(error)


SMALL = st.one_of(
    st.none(), st.booleans(), st.integers(0, 3), st.text(max_size=3), st.just([]), st.just({})
)
MESSAGES = st.dictionaries(
    st.sampled_from(["role", "content", "name", "x"]),
    st.one_of(SMALL, st.sampled_from(["user", "developer", "tool"])),
)


@settings(max_examples=share(300))
@given(message=MESSAGES)
def test_plain_message_fast_path_parses_identically(message: dict[str, Any]) -> None:
    # A message with further fields is read field by field.
    assert outcome({"messages": [message]}) == outcome({"messages": [{**message, "more": None}]})


def test_attributes_filter_files() -> None:
    filters = {"type": "eq", "key": "year", "value": 2026}
    body = {"input": "Hi", "tools": [{**SEARCH, "filters": filters}]}
    (search,) = PARSERS["responses_searches"](body).request.searches
    assert search.wanted({"year": 2026}) and not search.wanted({"year": 2025})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        (0, 0.0),
        ("0", 0.0),
        ("0s", 0.0),
        (300, 300.0),
        (1.5, 1.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("+10s", 10.0),
        (-1, math.inf),
        ("-1", math.inf),
        ("-1m", math.inf),
    ],
)
def test_keep_alive_is_read_as_ollama_does(value: object, seconds: float | None) -> None:
    assert ollama.keep_alive({"keep_alive": value}) == seconds


@pytest.mark.parametrize(
    ("setting", "asks"),
    [
        (None, "abc"),
        ("always", "abc"),
        ("never", ""),
        ({"never": {"tool_names": ["a"]}}, "bc"),
        ({"always": {"tool_names": ["a"]}}, "a"),
        ({"always": {"tool_names": ["a"]}, "never": {"tool_names": ["a", "b"]}}, "ac"),
        ({"never": {"read_only": True}}, "abc"),
    ],
)
def test_approval_is_required_as_the_request_says(setting: Any, asks: str) -> None:
    body = {"input": "x", "tools": [{**FAR, "require_approval": setting}]}
    (server,) = responses.parse(body).request.servers
    assert "".join(name for name in "abc" if server.approval.asks(name, False)) == asks
