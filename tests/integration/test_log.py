"""The log of a gateway, as people and programs read it."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import httpx

from tests.fakes import wait_until
from tools.processes import Gateway

from .conftest import StartGateway

NOBODY = "http://127.0.0.1:9"
ASKED = {"messages": [{"role": "user", "content": "Hello"}]}


def used(gateway: Gateway) -> None:
    """A question nobody answers, a mistake, and what the pages and probes poll."""
    for path in (
        "/livez",
        "/metrics",
        "/pages/api/status",
        "/pages/api/nothing",
        "/static/shell.js",
    ):
        httpx.get(f"{gateway.url}{path}")
    assert httpx.get(f"{gateway.url}/readyz").status_code == 503
    assert httpx.post(f"{gateway.url}/v1/chat/completions", json={"messages": 1}).status_code == 400
    assert httpx.post(f"{gateway.url}/v1/chat/completions", json=ASKED).status_code == 503
    assert gateway.stop() == 0


def test_every_line_of_the_log_is_json(gateway: StartGateway) -> None:
    running = gateway("--llama-api", NOBODY, "--wait-for-backend", "1", ready=0)
    used(running)
    lines = [json.loads(line) for line in running.log.splitlines()]
    requests = [line for line in lines if "method" in line]
    assert [(line["path"], line["status"]) for line in requests] == [
        ("/pages/api/nothing", 404),  # of no route
        ("/readyz", 503),
        ("/v1/chat/completions", 400),
        ("/v1/chat/completions", 503),
    ]
    messages = [line["message"] for line in lines if line not in requests]
    assert messages[0].startswith("data: ")
    assert messages[1].startswith(f"listening on {running.url} for {NOBODY} ")
    assert any(text.startswith("backend 127.0.0.1:9 is down: ") for text in messages)
    assert all(re.fullmatch(r"[\d-]{10}T[\d:]{8}Z", line["time"]) for line in lines)


def test_lines_for_people_begin_with_time_and_level_or_status(gateway: StartGateway) -> None:
    flags = ("--llama-api", NOBODY, "--wait-for-backend", "1", "--log-format", "text")
    running = gateway(*flags, ready=0)
    used(running)
    for line in running.log.splitlines():
        assert re.match(r"\d\d:\d\d:\d\d (info |warn |[45]\d\d  ) \S", line), line
    assert re.search(r"503   POST /v1/chat/completions  [\d.]+ m?s  no_backend$", running.log, re.M)


def test_reload_names_the_settings_that_wait_for_a_restart(
    serve: StartGateway, tmp_path: Path
) -> None:
    text = f"llama_api = ['{NOBODY}']\n"
    gateway = serve(text, ready=0)
    (tmp_path / "slotproxy.toml").write_text(f"{text}metrics = true\n[agent]\nrounds = 3\n")
    wait_until(lambda: "is down" in gateway.log)  # its worker serves
    gateway.send(signal.SIGHUP)
    wait_until(lambda: "changed, but applied only by a restart: metrics, agent" in gateway.log)
    assert "reloaded, backends: 127.0.0.1:9" in gateway.log
