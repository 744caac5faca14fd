"""Requests that reach no view are refused in the form of the API that their path belongs to."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.fakes import client


@pytest.fixture(scope="module")
def http() -> FlaskClient:
    return client()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/nothing", 404),
        ("PUT", "/api/chat", 405),
        ("POST", "/api/blobs/sha256%3Aab%0Acd", 404),  # no digest has a line break
    ],
)
def test_ollama_error_is_a_text(http: FlaskClient, method: str, path: str, status: int) -> None:
    answer = http.open(path, method=method)
    assert answer.status_code == status
    assert [type(value) for value in answer.get_json().values()] == [str]


@pytest.mark.parametrize(("path", "status"), [("/v1/messages", 405), ("/v1/messages/x", 404)])
def test_anthropic_error_has_the_type_error(http: FlaskClient, path: str, status: int) -> None:
    answer = http.get(path)
    assert answer.status_code == status
    assert answer.get_json()["type"] == "error"
    assert answer.get_json()["error"]["message"]


def test_mcp_error_is_of_json_rpc(http: FlaskClient) -> None:
    answer = http.get("/mcp")
    assert answer.status_code == 405
    assert answer.get_json()["jsonrpc"] == "2.0"
    assert answer.get_json()["error"]["message"]


@pytest.mark.parametrize(("path", "status"), [("/v1/nothing", 404), ("/v1/responses/compact", 405)])
def test_all_other_errors_have_the_form_of_openai(
    http: FlaskClient, path: str, status: int
) -> None:
    answer = http.put(path)
    assert answer.status_code == status
    assert set(answer.get_json()["error"]) == {"message", "type", "param", "code"}


def test_prefix_of_the_gateway_is_no_part_of_the_path() -> None:
    answer = client(api_prefix="/llm").post("/llm/api/nothing")
    assert answer.status_code == 404
    assert type(answer.get_json()["error"]) is str


def test_browser_gets_a_page(http: FlaskClient) -> None:
    answer = http.get("/api/nothing", headers={"Accept": "text/html"})
    assert answer.status_code == 404
    assert answer.content_type.startswith("text/html")
