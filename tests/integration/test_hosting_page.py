"""What the models page, /models/sse and logs say of models on real servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
    return next(one for one in page(gateway)["models"] if one["name"] == name)


def act(gateway: Gateway, action: str, name: str = "m") -> None:
    httpx.post(f"{gateway.url}/models/{action}", json={"model": name}).raise_for_status()


def reaches(gateway: Gateway, state: str, name: str = "m") -> None:
    wait_until(lambda: model(gateway, name)["state"] == state, 60)


def loads(gateway: Gateway) -> Iterator[dict[str, Any]]:
    """The changes of the model in /models/sse from a load by hand until it is loaded."""
    with httpx.stream("GET", f"{gateway.url}/models/sse", timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("retry:"):
                act(gateway, "load")
            if line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))["data"]
                yield data
                if data["status"] == "loaded":
                    return


@pytest.mark.slow
@pytest.mark.parametrize("server", SERVERS)
def test_load_is_followed_from_its_beginning_to_its_end(
    gateway: StartGateway, made_up_model: Path, tmp_path: Path, server: str
) -> None:
    file = tmp_path / "slotproxy.toml"
    file.write_text(late(table("m", made_up_model, tmp_path, server=server, ttl=600)))
    flags = ("--config", str(file), "--memory", "1GiB", "--data", str(tmp_path / "data"), *LEGACY)
    one = gateway(*flags)
    before = model(one)
    assert (before["state"], before["source"], before["loaded_at"]) == (
        "stopped",
        "estimated",
        None,
    )
    first = list(loads(one))
    assert first[0] == {"status": "loading", "place": 0, "wait": None}
    assert len(first) == 2
    seen = model(one)
    assert (seen["state"], seen["slots"], seen["source"]) == ("ready", 2, "measured")
    assert 5 * MIB < seen["memory"] < 500 * MIB
    assert seen["load_seconds"] > 2
    assert seen["expires_at"] > seen["loaded_at"] + 500
    (bar,) = page(one)["room"]["bars"]
    assert bar["limit"] == 1024 * MIB
    assert bar["segments"] == [{"model": "m", "size": seen["memory"], "phase": "loaded"}]
    act(one, "unload")
    reaches(one, "stopped")

    *second, loaded = loads(one)
    assert {data["status"] for data in second} == {"loading"}
    parts = [data["progress"]["value"] for data in second]
    waits = [data["wait"] for data in second]
    assert len(parts) >= 2  # one each second
    assert parts == sorted(parts) and waits == sorted(waits, reverse=True)
    assert 0 <= parts[0] < parts[-1] <= 1
    assert loaded["status"] == "loaded"
    one.stop()

    later = model(gateway(*flags))  # known after a restart
    last = ("loaded_at", "load_seconds", "source")
    assert later["state"] == "stopped"
    assert [later[key] > 0 for key in last[:2]] == [True, True]
    assert later["loaded_at"] > seen["loaded_at"]
