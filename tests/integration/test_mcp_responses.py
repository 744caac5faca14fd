"""MCP tools of /v1/responses by the official client, strict, on real model servers and with a real
MCP server. The bundled model answers a forced call; what it says about the result is its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import anthropic, openai
from tests.extras import need
from tests.fakes import wait_until
from tests.integration.asking import openai_client
from tools.processes import Gateway, ModelServer, held_port

from .conftest import GENERATIONS, StartGateway
from .test_mcp_server import names_of

need("knowledge", "mcp")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")
TEMPLATE = Path(__file__).parents[2] / "models" / "tinychat.jinja"
SERVER = Path(__file__).parents[1] / "mcp_server.py"
ASKED = "What is the weather in Oslo?"


@pytest.fixture(scope="module")
def remote() -> Iterator[int]:
    """The port of a server over HTTP."""
    port = held_port()
    quiet = subprocess.DEVNULL
    words = [sys.executable, str(SERVER), str(port)]
    with subprocess.Popen(words, stdout=quiet, stderr=quiet) as process:
        wait_until(lambda: _listens(port), 60)
        yield port
        process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mcp") / "slotproxy.toml"
    command = json.dumps([sys.executable, str(SERVER)])
    path.write_text(f'tools = ["far"]\n[[mcp]]\nname = "far"\ncommand = {command}\n')
    return path


NO_GRAMMARS = pytest.param(
    "chatglm_cpp",
    marks=pytest.mark.skip(
        reason="chatglm_cpp knows no grammars: what only they can bind is refused (400, by name)"
    ),
)


@pytest.fixture(scope="module", params=[*GENERATIONS, NO_GRAMMARS])
def served(
    request: pytest.FixtureRequest,
    start_server: Callable[..., ModelServer],
    tiny_model: Path,
    module_gateway: StartGateway,
    config: Path,
    remote: int,
) -> Iterator[Gateway]:
    server = start_server(request.param, model=tiny_model)
    flags = ["--config", str(config), "--chat-template", str(TEMPLATE)]
    flags += ["--mcp-url", f"http://127.0.0.1:{remote}/mcp"]
    # A call may start the server, which a busy machine delays.
    patient = {"SLOTPROXY_AGENT_TOOL_TIMEOUT": "300"}
    gateway = module_gateway("--llama-api", server.url, *flags, env=patient)
    # A server that does not list its tools in time is tried again later, and missing until then.
    wait_until(lambda: "far__get_weather" in names_of(gateway), 110)
    yield gateway
    server.kill()


@pytest.fixture
def client(served: Gateway) -> Iterator[openai.OpenAI]:
    with openai_client(served, _strict_response_validation=True) as api:
        yield api


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
    first = client.responses.create(**fields())
    listed, request = first.output
    assert listed.type == "mcp_list_tools"
    assert [tool.name for tool in listed.tools] == ["get_weather", "slow", "fail"]
    assert first.status == "completed"
    assert request.type == "mcp_approval_request"
    assert (request.server_label, request.name) == ("far", "get_weather")
    assert list(json.loads(request.arguments)) == ["city"]
    answer = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
    kinds = []
    body = {**fields(), "input": [answer], "tool_choice": "none"}
    with client.responses.stream(**body, previous_response_id=first.id) as events:
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
    # A call approved and made once is not made again.
    again = client.responses.create(
        **{**fields(), "input": "Thanks.", "tool_choice": "none"}, previous_response_id=done.id
    )
    assert [item.type for item in again.output] == ["message"]


def test_server_is_named_by_url(client: openai.OpenAI, remote: int) -> None:
    url = f"http://127.0.0.1:{remote}/mcp"
    whole = client.responses.create(
        **fields(
            server_url=url,
            require_approval={"never": {"read_only": True}},
            headers={"X-Key": "secret"},
            authorization="token",
        )
    )
    call = whole.output[1]
    assert call.type == "mcp_call"
    assert call.output == '{"temperature": 4}'
    assert "secret" not in whole.model_dump_json()
    assert 'token"' not in whole.model_dump_json()


@pytest.mark.parametrize("streams", [False, True])
def test_anthropic_client_gets_calls_and_results(
    served: Gateway, remote: int, streams: bool
) -> None:
    body: dict[str, Any] = {
        "model": "any",
        "max_tokens": 200,
        "extra_body": {"temperature": 0},
        "messages": [{"role": "user", "content": ASKED}],
        "mcp_servers": [{"type": "url", "name": "far", "url": f"http://127.0.0.1:{remote}/mcp"}],
        "tools": [
            {
                "type": "mcp_toolset",
                "mcp_server_name": "far",
                "default_config": {"enabled": False},
                "configs": {"get_weather": {"enabled": True}},
            }
        ],
        "tool_choice": {"type": "tool", "name": "far__get_weather"},
        "betas": ["mcp-client-2025-11-20"],
    }
    with anthropic.Anthropic(
        base_url=served.url, api_key="x", max_retries=0, _strict_response_validation=True
    ) as client:
        if streams:
            with client.beta.messages.stream(**body) as events:
                message = events.get_final_message()
        else:
            message = client.beta.messages.create(**body)
        use, result, *_ = message.content
        assert use.type == "mcp_tool_use"
        assert (use.server_name, use.name, list(use.input)) == ("far", "get_weather", ["city"])
        assert result.type == "mcp_tool_result"
        assert (result.tool_use_id, result.is_error) == (use.id, False)
        assert result.content[0].text == '{"temperature": 4}'
        assert message.content[-1].type == "text"
        turn = {"role": "assistant", "content": [part.model_dump() for part in message.content]}
        again = {"role": "user", "content": "Thanks."}
        client.beta.messages.create(
            **{
                **body,
                "messages": [*body["messages"], turn, again],
                "tool_choice": {"type": "none"},
            }
        )
