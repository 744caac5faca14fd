"""API keys made at run time, on real gateways: LiteLLM's client, several workers, sudden ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import wait_until
from tests.redis_servers import RedisServer
from tools.processes import Gateway

from .child_processes import descendants
from .conftest import StartGateway

NOBODY = "http://127.0.0.1:9"
ROOT = Path(__file__).resolve().parents[2]
CLIENT = shutil.which("litellm-proxy", path=f"{ROOT}/build/litellm-venv/bin:{os.environ['PATH']}")
ADMIN = {"Authorization": "Bearer sk-ops"}


def _flags(tmp_path: Path, *more: str) -> list[str]:
    (tmp_path / "keys").write_text("ops sk-ops\n", encoding="utf-8")
    flags = ["--llama-api", NOBODY, "--api-key-file", str(tmp_path / "keys"), "--admins", "ops"]
    return [*flags, "--wrong-keys", "0", *more]


@pytest.fixture
def served(gateway: StartGateway, tmp_path: Path) -> Gateway:
    return gateway(*_flags(tmp_path, "--data", str(tmp_path / "data")), ready=0)


def _post(url: str, path: str, **body: Any) -> Any:
    answer = httpx.post(f"{url}{path}", json=body, headers=ADMIN, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _status(url: str, key: str) -> int:
    """The status that a key gets, on a connection of its own, from any worker."""
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{url}/v1/slots", headers=headers, timeout=60).status_code


@pytest.mark.timeout(400)  # it takes seconds to start
@pytest.mark.skipif(not CLIENT, reason="make test-litellm runs it")
def test_litellms_client_makes_lists_and_deletes_keys(served: Gateway) -> None:
    def litellm(*arguments: str) -> Any:
        command = [str(CLIENT), "--base-url", served.url, "--api-key", "sk-ops", *arguments]
        env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "300"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    made = litellm(
        "keys", "generate", "--models", "qwen*,smol", "--duration", "7d", "--key-alias", "laptop"
    )
    assert _status(served.url, made["key"]) == 200
    (listed,) = litellm("keys", "list", "--format", "json")["keys"]
    assert (listed["token"], listed["key_alias"]) == (made["token"], "laptop")
    assert listed["models"] == ["qwen*", "smol"]
    assert made["key"] not in json.dumps(listed)
    filtered = litellm("keys", "list", "--key-alias", "other", "--format", "json")
    assert (filtered["keys"], filtered["total_count"]) == ([], 0)
    gone = litellm("keys", "delete", "--key-aliases", "laptop")
    assert gone == {"deleted_keys": [made["token"]]}
    assert _status(served.url, made["key"]) == 401


def test_key_outlives_a_gateway_that_is_killed(
    gateway: StartGateway, tmp_path: Path, served: Gateway
) -> None:
    made = _post(served.url, "/key/generate", key_alias="laptop")
    blocked = _post(served.url, "/key/generate")
    _post(served.url, "/key/block", key=blocked["key"])
    os.kill(served.pid, signal.SIGKILL)
    again = gateway(*_flags(tmp_path, "--data", str(tmp_path / "data")), ready=0)
    assert _status(again.url, made["key"]) == 200
    assert _status(again.url, blocked["key"]) == 401


def test_no_secret_is_written_anywhere(tmp_path: Path, served: Gateway) -> None:
    made = _post(served.url, "/key/generate", key_alias="laptop", metadata={"note": "n"})
    assert _status(served.url, made["key"]) == 200
    assert _status(served.url, made["key"][:-1]) == 401
    secret = made["key"][3:30].encode()
    written = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert written
    assert all(secret not in path.read_bytes() for path in written)
    assert secret.decode() not in served.log
    assert '"action":"create"' in served.log


@pytest.mark.slow
@pytest.mark.parametrize("redis_server", [""], indirect=True)
def test_change_counts_soon_on_every_worker_and_gateway(
    gateway: StartGateway, tmp_path: Path, redis_server: RedisServer, postgres: str
) -> None:
    """On PostgreSQL; test_key_ends.py has workers on one SQLite file."""
    more = ["--state", redis_server.url, "--data", str(tmp_path / "data"), "--database", postgres]
    gateways = [gateway(*_flags(tmp_path, "--workers", "2", *more), ready=0) for _ in range(2)]

    def everywhere(key: str, status: int) -> bool:
        return all(_status(running.url, key) == status for running in gateways for _ in range(10))

    made = _post(gateways[0].url, "/key/generate")
    assert everywhere(made["key"], 200), "a new key is looked up where it is not known"
    delays = []
    for path, status in (("/key/block", 401), ("/key/unblock", 200), ("/key/delete", 401)):
        body = {"keys": [made["token"]]} if path == "/key/delete" else {"key": made["token"]}
        _post(gateways[1].url, path, **body)
        begun = time.monotonic()
        wait_until(lambda status=status: everywhere(made["key"], status))  # type: ignore[misc]
        counts = time.monotonic()
        everywhere(made["key"], status)  # the time of the requests on a busy machine
        delays.append(2 * counts - begun - time.monotonic())
    assert min(delays) < 10, "it counts within a second, on an idle machine"


@pytest.mark.slow
def test_gateway_is_closed_for_unknown_keys_while_the_database_is_away(
    gateway: StartGateway, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    from tests.postgres import server as postgres_server

    with postgres_server(tmp_path_factory.mktemp("run")) as server:
        flags = _flags(tmp_path, "--data", str(tmp_path / "data"))
        running = gateway(*flags, env={"SLOTPROXY_DATABASE": server.address}, ready=0)
        known, unknown = (_post(running.url, "/key/generate")["key"] for _ in range(2))
        assert _status(running.url, known) == 200
        server.stop()
        assert _status(running.url, unknown) == 503
        assert _status(running.url, known) == _status(running.url, "sk-ops") == 200
        assert _status(running.url, "sk-wrong") == 401
        server.start()
        wait_until(lambda: _status(running.url, unknown) == 200, 60)


def test_worker_that_replaces_another_reads_the_key_file_again(
    gateway: StartGateway, tmp_path: Path
) -> None:
    flags = _flags(tmp_path)
    (tmp_path / "keys").write_text("ops sk-ops\nbob sk-bob\n", encoding="utf-8")
    running = gateway(*flags, ready=0)
    assert _status(running.url, "sk-bob") == 200
    (worker,) = descendants(running.pid)
    (tmp_path / "keys").write_text("ops sk-ops\ncarol sk-carol\n", encoding="utf-8")
    running.send(signal.SIGHUP)
    wait_until(lambda: _status(running.url, "sk-bob") == 401)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: descendants(running.pid) not in ([], [worker]))
    assert _status(running.url, "sk-bob") == 401
    assert _status(running.url, "sk-carol") == 200


def test_revoked_key_does_not_come_back_with_a_worker_that_cannot_read_the_file(
    gateway: StartGateway, tmp_path: Path
) -> None:
    flags = _flags(tmp_path, "--data", str(tmp_path / "data"))
    (tmp_path / "keys").write_text("ops sk-ops\nbob sk-bob\n", encoding="utf-8")
    running = gateway(*flags, ready=0)
    stored = _post(running.url, "/key/generate")["key"]
    (worker,) = descendants(running.pid)
    (tmp_path / "keys").write_text("ops sk-ops\n", encoding="utf-8")
    running.send(signal.SIGHUP)
    wait_until(lambda: _status(running.url, "sk-bob") == 401)
    (tmp_path / "keys").write_text("ops sk-ops rpm_limt=3\n", encoding="utf-8")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: "are refused by this worker" in running.log)
    assert _status(running.url, "sk-bob") == 503
    assert _status(running.url, "sk-ops") == 503
    assert _status(running.url, stored) == 200
    (tmp_path / "keys").write_text("ops sk-ops\n", encoding="utf-8")
    running.send(signal.SIGHUP)
    wait_until(lambda: _status(running.url, "sk-ops") == 200)
    assert _status(running.url, "sk-bob") == 401
