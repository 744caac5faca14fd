"""MCP tools of /v1/responses by the official client, strict, on real model servers and with a real
MCP server. The bundled model answers a forced call; what it says about the result is its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import openai
from tests.extras import need
from tools.processes import Gateway, ModelServer

from .conftest import GENERATIONS, StartGateway

need("knowledge", "mcp")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")
TEMPLATE = Path(__file__).parents[2] / "models" / "tinychat.jinja"
SERVER = Path(__file__).parents[1] / "mcp_server.py"
ASKED = "What is the weather in Oslo?"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mcp") / "slotproxy.toml"
    command = json.dumps([sys.executable, str(SERVER)])
    path.write_text(f'tools = ["far"]\n[[mcp]]\nname = "far"\ncommand = {command}\n')
    return path


@pytest.fixture(scope="module", params=GENERATIONS)
def served(
    request: pytest.FixtureRequest,
    start_server: Callable[..., ModelServer],
    tiny_model: Path,
    module_gateway: StartGateway,
    config: Path,
) -> Iterator[Gateway]:
    server = start_server(request.param, model=tiny_model)
    flags = ("--config", str(config), "--chat-template", str(TEMPLATE))
    yield module_gateway("--llama-api", server.url, *flags)
    server.kill()


@pytest.fixture
def client(served: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=served.url + "/v1",
        api_key="x",
        max_retries=0,
        _strict_response_validation=True,
    ) as found:
        yield found


def fields(tool: str = "get_weather", **more: Any) -> dict[str, Any]:
    """A body whose model must call this tool of the server."""
    server = {"type": "mcp", "server_label": "far", **more}
    choice = {"type": "mcp", "server_label": "far", "name": tool}
    return {
        "model": "any",
        "input": ASKED,
        "tools": [server],
        "tool_choice": choice,
        "max_output_tokens": 200,
        "temperature": 0.0,
    }


def test_approved_call_is_made_and_the_model_continues(client: openai.OpenAI) -> None:
    asked = client.responses.create(**fields())
    listed, request = asked.output
    assert listed.type == "mcp_list_tools"
    assert [tool.name for tool in listed.tools] == ["get_weather", "slow", "fail"]
    assert asked.status == "completed"
    assert request.type == "mcp_approval_request"
    assert (request.server_label, request.name) == ("far", "get_weather")
    assert list(json.loads(request.arguments)) == ["city"]
    answer = {
        "type": "mcp_approval_response",
        "approval_request_id": request.id,
        "approve": True,
    }
    kinds = []
    given = {**fields(), "input": [answer], "tool_choice": "none"}
    with client.responses.stream(**given, previous_response_id=asked.id) as events:
        for event in events:
            kinds.append(event.type)
    done = event.response
    call, *rest = done.output
    assert call.type == "mcp_call"
    assert (call.approval_request_id, call.output) == (request.id, '{"temperature": 4}')
    assert [item.type for item in rest] == ["message"]
    assert kinds[:9] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.mcp_call.in_progress",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.mcp_call.completed",
        "response.output_item.done",
        "response.output_item.added",
    ]
    # What was approved and made once is not made again.
    again = client.responses.create(
        **{**fields(), "input": "Thanks.", "tool_choice": "none"}, previous_response_id=done.id
    )
    assert [item.type for item in again.output] == ["message"]


def test_refused_call_is_not_made(client: openai.OpenAI) -> None:
    asked = client.responses.create(**fields())
    request = asked.output[-1]
    answer = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": False}
    done = client.responses.create(
        **{**fields(), "input": [answer], "tool_choice": "none"}, previous_response_id=asked.id
    )
    assert [item.type for item in done.output] == ["message"]


def test_call_without_approval_is_made_at_once(client: openai.OpenAI) -> None:
    whole = client.responses.create(**fields(require_approval="never"))
    listed, call = whole.output[:2]
    assert listed.type == "mcp_list_tools"
    assert call.type == "mcp_call"
    assert (call.status, call.output, call.error) == ("completed", '{"temperature": 4}', None)
    assert whole.usage is not None


def test_failed_call_is_reported_and_the_model_continues(client: openai.OpenAI) -> None:
    whole = client.responses.create(
        **fields("fail", require_approval={"never": {"tool_names": ["fail"]}})
    )
    call = whole.output[1]
    assert call.type == "mcp_call"
    assert call.status == "failed"
    assert call.error is not None
    assert call.error.type == "mcp_tool_execution_error"


def test_server_that_is_not_configured_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no MCP server 'other'"):
        client.responses.create(
            model="any", input="Hi", tools=[{"type": "mcp", "server_label": "other"}]
        )
