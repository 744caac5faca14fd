"""Traces of a gateway as it is started, in front of a real server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.collector import CLIENT, SERVER, Collector, of
from tests.extras import need
from tests.fakes import wait_until
from tests.unit.observe.test_otel import APIS, tree
from tools.processes import ModelServer

from .conftest import StartGateway, StartServer

TESTS = Path(__file__).parents[1]
need("otel", "opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter")
BOUNDS = {
    "max_tokens": 8,
    "n_predict": 8,
    "max_output_tokens": 16,
    "options": {"num_predict": 8},
}
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def module_collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def ask(url: str, number: int, **headers: str) -> None:
    body = {"messages": [{"role": "user", "content": f"Count to {number}."}], "max_tokens": 64}
    answer = httpx.post(
        f"{url}/v1/chat/completions",
        json=body | {"stream": number % 2 == 0},
        headers=headers,
        timeout=60,
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("server", ["gunicorn", "waitress"])
def test_every_request_has_a_trace(
    server: str, gateway: StartGateway, old_server: ModelServer, collector: Collector
) -> None:
    """More requests than slots, in parallel: some wait. The last one is sent when it stops."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    served = gateway("--llama-api", old_server.url, "--slots", "1", "--server", server, env=env)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: ask(served.url, number), range(6)))
    collector.wait(6)
    ask(served.url, 6, traceparent=CALLER)
    served.stop()
    spans = collector.wait(7)
    assert len([span for span in spans if span.kind == CLIENT]) == 7
    assert any(span.name == "slotproxy.queue" for span in spans)
    roots = [span for span in spans if span.kind == SERVER]
    assert sum(span.trace_id.hex() == CALLER[3:35] for span in roots) == 1
    assert len({span.trace_id for span in roots}) == 7
    calls: list[dict[str, Any]] = [of(span) for span in spans if span.kind == CLIENT]
    assert all(call["gen_ai.provider.name"] == "llama_cpp" for call in calls)
    assert all(call["gen_ai.usage.output_tokens"] > 0 for call in calls)
    assert "otel:" not in served.log


@pytest.mark.parametrize("path", [*APIS, "/chat/chat", "/"])
def test_each_api_has_the_tree_of_a_real_server(
    path: str, module_gateway: StartGateway, any_server: ModelServer, module_collector: Collector
) -> None:
    body, operation = APIS.get(path, ({"query": "Hi", "prompt": "Hi", "history": []}, "chat"))
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": module_collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    served = module_gateway("--llama-api", any_server.url, "--slots", "1", "--chatchat", env=env)
    wait_until(lambda: httpx.get(f"{served.url}/health").json()["backends"]["up"] == 1)
    answer = httpx.post(f"{served.url}{path}", json=BOUNDS | body, timeout=60)
    assert answer.status_code == 200, answer.text
    spans = module_collector.whole_trace_of(answer.headers["x-request-id"])
    (call,) = (span for span in spans if span.kind == CLIENT)
    assert call.name.startswith(operation) and of(call)["gen_ai.usage.output_tokens"] > 0
    known, root = tree(spans), f"POST {path}"
    known.pop("slotproxy.queue", None)  # an old server frees its slot a moment later
    steps = ("slotproxy.slot", "slotproxy.prefill", "slotproxy.decode")
    assert known == {root: "", call.name: root, **dict.fromkeys(steps, call.name)}


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")
def test_a_tool_of_an_mcp_server_is_a_call(
    start_server: StartServer, tiny_model: Path, serve: StartGateway, collector: Collector
) -> None:
    need("knowledge", "mcp")
    server = start_server("llama-2023", model=tiny_model)
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "SLOTPROXY_AGENT_TOOL_TIMEOUT": "100",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    command = json.dumps([sys.executable, str(TESTS / "mcp_server.py")])
    text = f'tools = ["far"]\n[[mcp]]\nname = "far"\ncommand = {command}\n'
    template = str(TESTS.parent / "models" / "tinychat.jinja")
    served = serve(text, "--llama-api", server.url, "--chat-template", template, env=env)
    far = {"type": "mcp", "server_label": "far", "require_approval": "never"}
    choice = {"type": "mcp", "server_label": "far", "name": "get_weather"}
    body = {"input": "What is the weather in Oslo?", "max_output_tokens": 200, "temperature": 0}
    body |= {"model": "any", "tools": [far], "tool_choice": choice}
    called: list[str] = []

    def call() -> list[str]:
        """Call it. A server that does not list its tools in time is tried again later."""
        answer = httpx.post(f"{served.url}/v1/responses", json=body, timeout=110)
        if "mcp_call" in [item["type"] for item in answer.json().get("output", [])]:
            called.append(answer.headers["x-request-id"])
        return called

    wait_until(call, 100)
    spans = collector.whole_trace_of(called[0])
    (tool,) = (span for span in spans if span.name == "tools/call get_weather")
    (root,) = (span for span in spans if span.kind == SERVER)
    assert tool.kind == CLIENT and tool.parent_span_id == root.span_id
    assert of(tool)["mcp.method.name"] == "tools/call"
    assert sum(span.name == "slotproxy.slot" for span in spans) == 2


def test_a_collector_that_is_away_costs_nothing_but_traces(
    gateway: StartGateway, old_server: ModelServer
) -> None:
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    served = gateway("--llama-api", old_server.url, env=env)
    for number in range(4):
        ask(served.url, number)
    assert served.stop() == 0
    assert "otel: traces are lost" in served.log
    assert "Traceback" not in served.log
