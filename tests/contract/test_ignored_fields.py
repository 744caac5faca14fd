"""No field that changes an answer vanishes: it is obeyed, or the answer says that it is ignored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from flask.testing import FlaskClient
from msgspec import structs

from proxy.backends.driver import Capabilities, Input
from proxy.core.task import Embedded
from proxy.gbnf import NEW, check, matches
from proxy.runtime.cancel import Cancel
from tests.fakes import CAPS, ScriptedDriver, make_app, say

SAID = {"messages": [{"role": "user", "content": "U"}], "max_tokens": 9}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: SAID,
    TEXT: {"prompt": "p", "max_tokens": 9},
    "/completion": {"prompt": "p", "n_predict": 9},
    "/infill": {"input_prefix": "p", "n_predict": 9},
    "/v1/messages": SAID,
    "/v1/responses": {"input": "U"},
    "/api/chat": {"messages": SAID["messages"], "stream": False},
    "/api/generate": {"prompt": "p", "stream": False},
    "/chat": {"prompt": "p"},
}


class Vectors(ScriptedDriver):
    def embed(self, inputs: Sequence[Input], caps: Capabilities, cancel: Cancel) -> Embedded:
        return Embedded(tuple((1.0, 0.0) for _ in inputs), 1)


class House:
    def __init__(self) -> None:
        self.driver = ScriptedDriver(say("yes"))
        self.http: FlaskClient = make_app(self.driver).test_client()

    def send(self, path: str, **fields: Any) -> Any:
        return self.http.post(path, json={**BODIES[path], **fields})

    def warnings(self, path: str, **fields: Any) -> list[str]:
        answer = self.send(path, **fields)
        assert answer.status_code == 200, answer.text
        warnings: list[str] = answer.headers.getlist("x-slotproxy-warning")
        return warnings


@pytest.fixture
def house() -> House:
    return House()


@pytest.mark.parametrize("path", [path for path in BODIES if path != "/infill"])
def test_a_field_that_nobody_knows_is_reported(house: House, path: str) -> None:
    assert house.warnings(path) == []
    assert house.warnings(path, no_such_field=3) == ["no_such_field is ignored"]
    assert house.warnings(path, no_such_field=None) == []


CUSTOM = {"type": "custom", "name": "f"}
LARK = {"type": "grammar", "syntax": "lark", "definition": "x"}
REPORTED: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"verbosity": "low"}, "verbosity"),
    (CHAT, {"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
    (CHAT, {"stop_token_ids": [3]}, "stop_token_ids"),
    (CHAT, {"bad_words": ["x"]}, "bad_words"),
    (CHAT, {"min_tokens": 3}, "min_tokens"),
    (CHAT, {"reasoning": {"exclude": True}}, "reasoning.exclude"),
    (CHAT, {"documents": [{"text": "t"}]}, "documents"),
    (CHAT, {"chat_template": "x"}, "chat_template"),
    (CHAT, {"add_generation_prompt": False}, "add_generation_prompt"),
    (CHAT, {"truncate_prompt_tokens": 9}, "truncate_prompt_tokens"),
    (CHAT, {"echo": True}, "echo"),
    (CHAT, {"skip_special_tokens": False}, "skip_special_tokens"),
    (CHAT, {"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
    (TEXT, {"enable_thinking": True}, "enable_thinking"),
    ("/completion", {"system_prompt": {"prompt": "x"}}, "system_prompt"),
    ("/v1/messages", {"container": "c"}, "container"),
    ("/v1/responses", {"text": {"verbosity": "high"}}, "text.verbosity"),
    ("/v1/responses", {"context_management": [{"type": "compaction"}]}, "context_management"),
    ("/v1/responses", {"tools": [{**CUSTOM, "format": LARK}]}, "tools[0].format"),
    ("/api/chat", {"options": {"num_ctx": 9}}, "the option num_ctx"),
]


@pytest.mark.parametrize(("path", "fields", "name"), REPORTED)
def test_what_cannot_be_had_is_reported(
    house: House, path: str, fields: dict[str, Any], name: str
) -> None:
    (warning,) = house.warnings(path, **fields)
    assert warning == f"{name} is ignored"
    assert house.warnings(path, **dict.fromkeys(fields)) == []


def test_an_embedding_reports_its_fields_too() -> None:
    caps = structs.replace(CAPS, embeddings=True, queues=True)
    http = make_app(Vectors(caps=caps)).test_client()
    for path, body in (("/v1/embeddings", {"input": "a"}), ("/api/embed", {"input": "a"})):
        for field in ("truncate_prompt_tokens", "input_type"):
            answer = http.post(path, json={**body, field: "x"})
            assert answer.status_code == 200
            assert answer.headers["x-slotproxy-warning"] == f"{field} is ignored"


def test_what_changes_nothing_is_not_reported(house: House) -> None:
    """Fields that clients send by default, with their usual values."""
    quiet = {
        "verbosity": "medium",
        "web_search_options": {},
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "modalities": ["text"],
        "prediction": {"type": "content", "content": "x"},
        "top_logprobs": 0,
        "logprobs": False,
        "user": "u",
        "cache_prompt": True,
        "id_slot": 3,
        "skip_special_tokens": True,
        "add_generation_prompt": True,
        "stream_options": {"include_usage": True},
    }
    assert house.warnings(CHAT, **quiet) == []


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
CONSTRAINED: list[tuple[dict[str, Any], str, str]] = [
    ({"guided_json": SCHEMA}, '{"a": 3}', "yes"),
    ({"guided_json": json.dumps(SCHEMA)}, '{"a": 3}', "yes"),
    ({"structured_outputs": {"json": SCHEMA}}, '{"a": 3}', '{"b": 3}'),
    ({"structured_outputs": {"json_object": True}}, "{}", "yes"),
    ({"guided_choice": ["yes", "no"]}, "no", "maybe"),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes", "yesno"),
    ({"guided_regex": r"\d{3}-\d{4}"}, "555-1234", "555"),
    ({"regex": "^a+$"}, "aa", "b"),
    ({"guided_grammar": 'root ::= "x"'}, "x", "y"),
    ({"ebnf": 'root ::= "x"'}, "x", "y"),
]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(("fields", "right", "wrong"), CONSTRAINED)
def test_a_constraint_of_other_servers_binds_the_answer(
    path: str, fields: dict[str, Any], right: str, wrong: str
) -> None:
    house = House()
    house.driver.script = say(right)
    answer = house.send(path, **fields)
    assert answer.status_code == 200, answer.text
    assert "x-slotproxy-warning" not in answer.headers
    grammar = check(house.driver.tasks[-1].sampling["grammar"], NEW)
    assert matches(grammar, right) and not matches(grammar, wrong)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": "no schema"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["a" * 200_000, "b" * 100_000]}, "guided_choice"),
        ({"guided_choice": ["a", ""]}, "guided_choice"),
        ({"guided_regex": "(?=a)"}, "guided_regex"),
        ({"guided_regex": "a" * 9000}, "guided_regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "regex"),
        ({"structured_outputs": {"regex": 3}}, "structured_outputs.regex"),
        ({"structured_outputs": []}, "structured_outputs"),
        ({"repetition_penalty": "much"}, "repetition_penalty"),
        ({"thinking": {"type": 3}}, "thinking.type"),
        ({"continue_final_message": True}, "continue_final_message"),  # that of a user
    ],
)
def test_a_wrong_constraint_is_refused_by_its_name(
    house: House, fields: dict[str, Any], param: str
) -> None:
    answer = house.send(CHAT, **fields)
    assert answer.status_code == 400
    assert answer.json["error"]["param"] == param


def test_message_is_either_continued_or_followed_by_a_new_one(house: House) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hel"}]
    begun = {"messages": messages, "continue_final_message": True}
    assert house.send(CHAT, **begun).status_code == 200
    assert house.send(CHAT, **begun, add_generation_prompt=True).status_code == 400


def test_samplers_of_other_servers_are_obeyed(house: House) -> None:
    assert (
        house.warnings(CHAT, repetition_penalty=1.25, random_seed=7)
        == ["seed is ignored: this model's backend does not support it"]
        or house.driver.tasks
    )
    sampling = house.driver.tasks[-1].sampling
    assert (sampling["repeat_penalty"], sampling["seed"]) == (1.25, 7)
    house.send(CHAT, repetition_penalty=1.25, repeat_penalty=1.5)
    assert house.driver.tasks[-1].sampling["repeat_penalty"] == 1.5


@pytest.mark.parametrize(
    ("fields", "thinks", "effort"),
    [
        ({"enable_thinking": False}, False, ""),
        ({"thinking": {"type": "disabled"}}, False, ""),
        ({"thinking": {"type": "enabled"}}, True, ""),
        ({"thinking": True}, True, ""),
        ({"reasoning": {"enabled": False}}, False, ""),
        ({"reasoning": {"effort": "low"}}, None, "low"),
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, False, ""),
    ],
)
def test_switches_of_reasoning_reach_the_template(
    house: House, fields: dict[str, Any], thinks: bool | None, effort: str
) -> None:
    assert house.warnings(CHAT, **fields) == []
    request = house.driver.tasks[-1].request
    assert request.template_kwargs.get("enable_thinking") is thinks
    assert request.reasoning_effort == effort


def test_a_response_obeys_llama_cpps_fields(house: House) -> None:
    answer = house.send(
        "/v1/responses", top_k=3, stop=["es"], chat_template_kwargs={"enable_thinking": False}
    )
    task = house.driver.tasks[-1]
    assert task.sampling["top_k"] == 3
    assert task.request.template_kwargs == {"enable_thinking": False}
    assert answer.json["output"][-1]["content"][0]["text"] == "y"


def test_a_custom_tool_takes_what_its_regular_expression_allows(house: House) -> None:
    form = {"type": "grammar", "syntax": "regex", "definition": "[0-9]+"}
    answer = house.send("/v1/responses", tools=[{**CUSTOM, "format": form}])
    assert "x-slotproxy-warning" not in answer.headers
    (known,) = house.driver.tasks[-1].request.tools
    assert known.parameters["properties"]["input"]["pattern"] == "^(?:[0-9]+)$"
