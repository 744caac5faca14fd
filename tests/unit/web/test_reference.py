"""The OpenAPI document: valid, complete, and only of served routes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from proxy.app import create_app
from proxy.config import load
from tests.fakes import ScriptedDriver, make_app

Make = Callable[..., Flask]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    def app(*flags: str) -> Flask:
        data = str(tmp_path_factory.mktemp("data"))
        backend = ["--llama-api", "http://127.0.0.1:9", "--data", data]
        return create_app(load([*backend, "--metrics", *flags], {}))

    yield app


@pytest.fixture(scope="module")
def app(make: Make) -> Flask:
    return make("--chatchat")


@pytest.fixture(scope="module")
def document(app: Flask) -> dict[str, Any]:
    answer = app.test_client().get("/openapi.json")
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    schema: dict[str, Any] = answer.get_json()
    return schema


@pytest.mark.slow
def test_openapi_document_is_valid_3_1(document: dict[str, Any]) -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_schema_reference_resolves_and_every_schema_is_used(
    document: dict[str, Any],
) -> None:
    refs = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document["paths"])))
    assert refs == set(document["components"]["schemas"])


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    ids = [way["operationId"] for path in document["paths"].values() for way in path.values()]
    assert len(ids) == len(set(ids))


def test_document_lists_exactly_the_api_routes(app: Flask, document: dict[str, Any]) -> None:
    served = {
        (method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not _is_page(app, rule.endpoint)
        if not rule.websocket  # OpenAPI does not describe them
    }
    listed = {(method, path) for path, ways in document["paths"].items() for method in ways}
    assert listed == served


def _is_page(app: Flask, endpoint: str) -> bool:
    name = endpoint.rpartition(".")[0]
    return not name or app.blueprints[name].import_name.startswith("proxy.web.pages")


def test_every_operation_has_a_summary(document: dict[str, Any]) -> None:
    summaries = [each["summary"] for path in document["paths"].values() for each in path.values()]
    assert all(summaries)


def test_document_begins_with_what_readers_look_for(document: dict[str, Any]) -> None:
    assert [tag["name"] for tag in document["tags"]][:3] == ["OpenAI", "Anthropic", "Ollama"]
    assert next(iter(document["paths"])) == "/v1/chat/completions"
    operations = [(path, way) for path, ways in document["paths"].items() for way in ways.values()]
    tags = list(dict.fromkeys(way["tags"][0] for _, way in operations))
    assert tags == [tag["name"] for tag in document["tags"]]
    first = [path for path, way in operations if way["tags"] == ["OpenAI"]]
    assert first.index("/v1/models") < first.index("/v1/responses") < first.index("/models")
    assert document["paths"]["/models"]["get"]["summary"] == "The same as /v1/models"


def test_examples_of_bodies_are_short_and_valid(document: dict[str, Any]) -> None:
    chat = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]
    assert chat["application/json"]["example"] == {
        "model": "any",
        "messages": [{"role": "user", "content": "Hello!"}],
    }
    for ways in document["paths"].values():
        content = ways.get("post", {}).get("requestBody", {}).get("content", {})
        for media in content.values():
            if "example" in media:
                whole = {**media["schema"], "components": document["components"]}
                Draft202012Validator(whole).validate(media["example"])


def test_answers_to_the_examples_are_documented(document: dict[str, Any]) -> None:
    """The type of every answer is documented, and errors have the schema."""
    api = make_app(ScriptedDriver(), chatchat=True).test_client()
    schemas = document["components"]["schemas"]
    answered = 0
    for path, ways in document["paths"].items():
        content = ways.get("post", {}).get("requestBody", {}).get("content", {})
        if "{" in path or "application/json" not in content:
            continue
        schema = content["application/json"]["schema"]
        body = _example((schema.get("anyOf") or [schema])[0], schemas)
        answer = api.post(path, json=body)
        answer.get_data()  # a stream has its slot until it is read
        kind = answer.content_type.partition(";")[0]
        answers = ways["post"]["responses"]["200" if answer.status_code < 300 else "default"]
        assert kind in answers["content"], f"{path} answers with {kind}"
        described = answers["content"][kind].get("schema")
        if described:
            whole = {**described, "components": document["components"]}
            Draft202012Validator(whole).validate(answer.get_json())
        answered += answer.status_code < 300
    assert answered > 10


def test_answers_without_a_body_are_documented_without_one(document: dict[str, Any]) -> None:
    ways = document["paths"]["/mcp"]
    assert "content" not in ways["post"]["responses"]["202"]
    assert "content" in ways["post"]["responses"]["200"]
    assert set(ways["delete"]["responses"]) == {"204", "default"}
    assert "content" not in ways["delete"]["responses"]["204"]


def _example(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """A body with the required fields."""
    described = schemas[schema["$ref"].rpartition("/")[2]]
    fields = described["properties"]
    return {name: fields[name]["examples"][0] for name in described.get("required", ())}


def test_document_has_security_scheme_and_url_prefix(make: Make) -> None:
    app = make("--api-key", "sk-1", "--api-prefix", "/llm", "--no-pages")
    described = app.test_client().get("/llm/openapi.json").get_json()
    assert described["servers"] == [{"url": "/llm"}]
    assert "/v1/models" in described["paths"]
    assert described["security"] == [{"key": []}, {"x_api_key": []}]
    assert described["paths"]["/livez"]["get"]["security"] == []
    assert "security" not in described["paths"]["/v1/models"]["get"]
