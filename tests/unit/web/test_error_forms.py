"""Requests that reach no view are refused in the form of the API that their path belongs to."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.fakes import client

OPENAI = {"error": {"message": str, "type": str, "param": type(None), "code": type(None)}}
OLLAMA = {"error": str}
ANTHROPIC = {"type": "error", "error": {"type": str, "message": str}}
MCP = {"jsonrpc": "2.0", "id": type(None), "error": {"code": int, "message": str}}


@pytest.fixture(scope="module")
def http() -> FlaskClient:
    return client()


def form_of(value: object, form: object) -> object:
    """The value, with types in the place of what the form leaves open."""
    if isinstance(value, dict) and isinstance(form, dict):
        return {name: form_of(part, form.get(name)) for name, part in value.items()}
    return type(value) if isinstance(form, type) else value


@pytest.mark.parametrize(
    ("method", "path", "status", "form"),
    [
        ("POST", "/api/nothing", 404, OLLAMA),
        ("PUT", "/api/chat", 405, OLLAMA),
        ("POST", "/api/blobs/sha256%3Aab%0Acd", 404, OLLAMA),  # no digest has a line break
        ("GET", "/v1/messages", 405, ANTHROPIC),
        ("GET", "/v1/messages/x", 404, ANTHROPIC),
        ("GET", "/mcp", 405, MCP),
        ("PUT", "/v1/nothing", 404, OPENAI),
        ("PUT", "/v1/responses/compact", 405, OPENAI),
    ],
)
def test_error_has_the_form_of_its_api(
    http: FlaskClient, method: str, path: str, status: int, form: object
) -> None:
    answer = http.open(path, method=method)
    assert answer.status_code == status
    assert form_of(answer.get_json(), form) == form


def test_prefix_of_the_gateway_is_no_part_of_the_path() -> None:
    answer = client(api_prefix="/llm").post("/llm/api/nothing")
    assert answer.status_code == 404
    assert type(answer.get_json()["error"]) is str
