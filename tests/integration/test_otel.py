"""Traces of a gateway as it is started, in front of a real server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.collector import CLIENT, SERVER, Collector, of
from tests.extras import need
from tools.processes import ModelServer

from .conftest import StartGateway

need("otel", "opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter")
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
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
