"""``slotproxy --all``: one command starts everything, shows a table, and ends at Ctrl-C."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.integration.conftest import StartGateway
from tools.processes import Gateway, ModelServer, ask


def table(gateway: Gateway) -> dict[str, str]:
    """The rows of the table, by name, once it is printed."""
    end = time.monotonic() + 60
    while "configured services:\n" not in gateway.log:
        assert gateway.alive and time.monotonic() < end, gateway.log
        time.sleep(0.05)
    told = gateway.log.split("configured services:\n")[1]
    rows = [line.strip() for line in told.splitlines() if line.startswith("  ")]
    return {name: rest.strip() for name, _, rest in (row.partition("  ") for row in rows)}


def test_all_parts_start_are_shown_and_end_at_ctrl_c(
    old_server: ModelServer, gateway: StartGateway, tmp_path: Path
) -> None:
    pytest.importorskip("sqlalchemy", reason="the extra knowledge is not installed")
    addresses = ("--llama-api", old_server.url, "--llama-api", "http://127.0.0.1:9")
    everything = gateway("--all", "--data", str(tmp_path / "data"), *addresses)
    rows = table(everything)
    assert rows["gateway"] == f"up    {everything.url} (no API key required)"
    assert rows["APIs"].endswith("Langchain-Chatchat")
    up = next(row for name, row in rows.items() if name.endswith(f":{old_server.port}"))
    assert up.startswith("up ")
    assert rows["backend 127.0.0.1:9"].startswith("down")
    assert rows["knowledge, jobs"].startswith("up    SQLite in ")
    assert rows["pages"] == f"up    {everything.url}/"
    assert rows["web search"].startswith("off")
    assert ask(f"{everything.url}/server/list_search_engines", {})[0] == 200
    assert ask(f"{everything.url}/knowledge_base/list_knowledge_bases")[0] == 200
    os.killpg(everything.pid, signal.SIGINT)  # as from a keyboard: to all processes
    assert everything.process is not None
    assert everything.process.wait(60) in (0, -signal.SIGINT), everything.log
    assert "Traceback" not in everything.log, everything.log


def test_disabled_parts_stay_off(
    old_server: ModelServer, gateway: StartGateway, tmp_path: Path
) -> None:
    flags = ("--all", "--no-chatchat", "--data", str(tmp_path / "data"))
    everything = gateway(*flags, "--llama-api", old_server.url)
    assert "Langchain-Chatchat" not in table(everything)["APIs"]
    assert ask(f"{everything.url}/server/list_search_engines", {})[0] == 404
