"""/mcp by the `mcp` package's own client, on a real server of 2023, with a real MCP server behind
the gateway."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from tests.extras import need
from tests.fakes import gone, wait_until
from tools.processes import Gateway, ModelServer

from .conftest import StartGateway
from .searxng import SearXNG

need("knowledge", "mcp")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")
SERVER = Path(__file__).parents[1] / "mcp_server.py"
T = TypeVar("T")


@pytest.fixture(scope="module")
def served(
    start_server: Callable[..., ModelServer],
    tiny_model: Path,
    module_gateway: StartGateway,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("mcp")
    command = json.dumps([sys.executable, str(SERVER)])
    config = folder / "slotproxy.toml"
    config.write_text(
        f'tools = ["far", "calculator"]\n[[mcp]]\nname = "far"\ncommand = {command}\n'
    )
    keys = folder / "keys"
    keys.write_text("one sk-one-0123456789abcdef\n")
    server = start_server("llama-2023", model=tiny_model)
    searxng = SearXNG({"tide": "The tide is high."})
    flags = ["--config", str(config), "--data", str(folder / "data"), "--api-key-file", str(keys)]
    flags += ["--search-engine", "searxng", "--searxng-url", searxng.url]
    # A call may start the server, which a busy machine delays.
    patient = {"SLOTPROXY_AGENT_TOOL_TIMEOUT": "300"}
    gateway = module_gateway("--llama-api", server.url, *flags, env=patient)
    # A server that does not list its tools in time is tried again later, and missing until then.
    wait_until(lambda: "far__get_weather" in names_of(gateway), 110)
    yield gateway
    searxng.end()
    server.kill()


HEADERS = {"Authorization": "Bearer sk-one-0123456789abcdef"}


def names_of(served: Gateway) -> list[str]:
    """The names of the tools."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    with httpx.Client(headers=HEADERS, trust_env=False, timeout=110) as client:
        tools = client.post(f"{served.url}/mcp", json=message).json()["result"]["tools"]
    return [tool["name"] for tool in tools]


def using(served: Gateway, work: Callable[[Any], Awaitable[T]]) -> T:
    """The result of work with a client."""
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    async def run() -> T:
        async with httpx2.AsyncClient(headers=HEADERS, trust_env=False, timeout=110) as http:
            transport = streamable_http_client(served.url + "/mcp", http_client=http)
            async with Client(transport) as client:
                return await work(client)

    return asyncio.run(run())


def called(served: Gateway, name: str, **arguments: Any) -> tuple[bool, str]:
    async def work(client: Any) -> tuple[bool, str]:
        result = await client.call_tool(name, arguments)
        return result.is_error, result.content[0].text

    return using(served, work)


def test_tools_are_listed(served: Gateway) -> None:
    async def work(client: Any) -> Any:
        return await client.list_tools()

    tools = {tool.name: tool for tool in using(served, work).tools}
    names = ["chat", "models", "calculator", "far__get_weather", "far__slow", "far__fail"]
    assert list(tools) == [*names, "knowledge_search", "web_search"]
    assert set(tools["far__get_weather"].input_schema["properties"]) == {"city"}
    assert tools["far__get_weather"].annotations.read_only_hint


def test_tools_are_called(served: Gateway) -> None:
    assert called(served, "far__get_weather", city="Oslo") == (False, '{"temperature": 4}')
    assert called(served, "calculator", expression="6*7") == (False, "42")
    failed, text = called(served, "models")
    assert not failed
    assert text
    failed, text = called(served, "web_search", query="tide")
    assert "The tide is high." in text
    assert called(served, "knowledge_search", query="tide") == (False, "No results.")
    assert called(served, "far__fail", city="Oslo")[0]
    assert called(served, "web_search", query="")[0]


def test_model_answers(served: Gateway) -> None:
    failed, text = called(served, "chat", message="What is the weather in Oslo?", max_tokens=16)
    assert not failed
    assert text
    failed, text = called(served, "chat", message="x " * 100_000)
    assert failed
    assert "context" in text


def test_client_that_cancels_ends_the_call(served: Gateway, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    async def work(client: Any) -> None:
        call = asyncio.ensure_future(client.call_tool("far__slow", {"mark": str(mark)}))
        while not mark.is_file():
            await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        pid = int(mark.read_text())
        await asyncio.to_thread(wait_until, lambda: gone(pid), 60)

    using(served, work)


def test_notification_cancels_the_call_of_its_session(served: Gateway, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with httpx.Client(base_url=served.url, headers=HEADERS, trust_env=False, timeout=110) as client:

        def post(session: str, **message: Any) -> httpx.Response:
            headers = {"Mcp-Session-Id": session} if session else {}
            return client.post("/mcp", json={"jsonrpc": "2.0", **message}, headers=headers)

        session = post("", id=1, method="initialize", params={}).headers["mcp-session-id"]
        answers: list[httpx.Response] = []
        params = {"name": "far__slow", "arguments": {"mark": str(mark)}}
        thread = threading.Thread(
            target=lambda: answers.append(post(session, id=7, method="tools/call", params=params))
        )
        thread.start()
        wait_until(mark.is_file, 100)
        pid = int(mark.read_text())
        over = {"method": "notifications/cancelled", "params": {"requestId": 7}}
        assert post("other", **over).status_code == 202
        assert not gone(pid)
        assert post(session, **over).status_code == 202
        wait_until(lambda: gone(pid), 60)
        thread.join(110)
        assert answers[0].status_code == 499
