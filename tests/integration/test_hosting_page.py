"""The models page, with models on real servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import wait_until
from tools.processes import Gateway

from .conftest import StartGateway
from .test_hosted_models import LEGACY, table

SERVERS = ["llama-2023", "llama-2026", "powerinfer"]
LATE = ("sh", "-c", 'sleep 2; exec "$@"', "sh")
MIB = 1 << 20


def late(text: str) -> str:
    """A table whose server starts two seconds late."""
    command = next(line for line in text.splitlines() if line.startswith("command"))
    words = json.loads(command.partition(" = ")[2])
    return text.replace(command, f"command = {json.dumps([*LATE, *words])}")


def page(gateway: Gateway) -> Any:
    return httpx.get(f"{gateway.url}/pages/api/models").json()


def model(gateway: Gateway, name: str = "m") -> Any:
    return next(entry for entry in page(gateway)["models"] if entry["name"] == name)


@pytest.mark.slow
@pytest.mark.parametrize("server", SERVERS)
def test_memory_and_time_of_a_load_are_measured_and_known_after_a_restart(
    gateway: StartGateway, made_up_model: Path, tmp_path: Path, server: str
) -> None:
    file = tmp_path / "slotproxy.toml"
    file.write_text(late(table("m", made_up_model, tmp_path, server=server, ttl=600)))
    flags = ("--config", str(file), "--memory", "1GiB", "--data", str(tmp_path / "data"), *LEGACY)
    running = gateway(*flags)
    before = model(running)
    assert (before["state"], before["source"], before["loaded_at"]) == (
        "stopped",
        "estimated",
        None,
    )
    httpx.post(f"{running.url}/models/load", json={"model": "m"}).raise_for_status()
    wait_until(lambda: model(running)["state"] == "ready", 60)
    seen = model(running)
    assert (seen["state"], seen["slots"], seen["source"]) == ("ready", 2, "measured")
    assert 5 * MIB < seen["memory"] < 500 * MIB
    assert seen["load_seconds"] > 2
    assert seen["expires_at"] > seen["loaded_at"] + 500
    (bar,) = page(running)["room"]["bars"]
    assert bar["limit"] == 1024 * MIB
    assert bar["segments"] == [{"model": "m", "size": seen["memory"], "phase": "loaded"}]
    running.stop()
    later = model(gateway(*flags))  # known after a restart
    last = ("loaded_at", "load_seconds", "source")
    assert later["state"] == "stopped"
    assert [later[key] > 0 for key in last[:2]] == [True, True]
    assert later["loaded_at"] == seen["loaded_at"]
