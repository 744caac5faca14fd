"""A database that goes away: every route that needs it says 503 and when to try again, nothing else
waits, and what comes after its return works."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import pytest

from proxy.config import Secret
from proxy.config.keys import unnamed
from proxy.store.database import Database
from proxy.store.database_responses import DatabaseResponses
from proxy.store.responses import Stored
from tests.integration.conftest import StartGateway
from tests.integration.held import watched, worker
from tests.postgres import server as postgres_server
from tools.processes import Gateway

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

ONE, TWO = "resp_" + "1" * 32, "resp_" + "2" * 32
KEY = "secret"
NOBODY = "http://127.0.0.1:9"
LONGEST = 0.1  # seconds that the loop may be blocked


class Call(NamedTuple):
    method: str
    path: str
    how: Mapping[str, Any] = MappingProxyType({})


def everything(api: httpx.Client, address: str) -> list[Call]:
    """A request to each kind of route that uses the database, about things that are there."""
    put(address, unnamed(Secret(KEY)).name, ONE, [])
    file = api.post(
        "/v1/files", files={"file": ("a.txt", b"a zebra")}, data={"purpose": "assistants"}
    )
    store = api.post("/v1/vector_stores", json={"name": "kept"})
    talk = api.post("/pages/api/chat/conversations", json={})
    for made in (file, store, talk):
        assert made.is_success, made.text
    key, base, conversation = (made.json()["id"] for made in (file, store, talk))
    return [
        Call("GET", "/v1/files"),
        Call("GET", f"/v1/files/{key}"),
        Call("GET", f"/v1/files/{key}/content"),
        Call(
            "POST",
            "/v1/files",
            {"files": {"file": ("b.txt", b"b")}, "data": {"purpose": "assistants"}},
        ),
        Call("GET", "/v1/vector_stores"),
        Call("POST", "/v1/vector_stores", {"json": {"name": "more"}}),
        Call("POST", f"/v1/vector_stores/{base}/search", {"json": {"query": "zebra"}}),
        Call("GET", f"/v1/responses/{ONE}"),
        Call("GET", f"/v1/responses/{ONE}/input_items"),
        Call("GET", "/v1/data"),
        Call("GET", "/knowledge_base/list_knowledge_bases"),
        Call("GET", "/pages/api/chat/conversations"),
        Call("GET", f"/pages/api/chat/conversations/{conversation}/messages"),
        Call("POST", "/pages/api/chat/conversations", {"json": {}}),
        Call("GET", "/pages/api/knowledge"),
    ]


def put(address: str, owner: str, key: str, said: list[Any]) -> None:
    """Store a response that was made of these items."""
    database = Database(address)
    database.upgrade()
    made = json.dumps({"id": key, "status": "completed", "output": said[-1:]}).encode()
    DatabaseResponses(database, 10).put(owner, key, 1.0, Stored(made, json.dumps(said).encode()))
    database.close()


class Reply(NamedTuple):
    status: int
    retry: str | None
    text: str
    seconds: float


def ask(api: httpx.Client, call: Call) -> Reply:
    begun = time.monotonic()
    try:
        said = api.request(call.method, call.path, **call.how)
    except httpx.HTTPError as error:
        return Reply(0, None, repr(error), time.monotonic() - begun)
    seconds = time.monotonic() - begun
    return Reply(said.status_code, said.headers.get("retry-after"), said.text, seconds)


def test_postgres_outage_refuses_routes_until_it_is_back(
    gateway: StartGateway, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with postgres_server(tmp_path_factory.mktemp("run")) as server:
        running = gateway(
            *("--llama-api", NOBODY, "--chatchat", "--data", str(tmp_path / "data")),
            env={"SLOTPROXY_API_KEY": KEY, "SLOTPROXY_DATABASE": server.address},
            ready=0,
        )
        key = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=running.url, timeout=60, headers=key) as api:
            calls = everything(api, server.address)

            def see_that_all_work() -> None:
                assert {ask(api, each).status for each in calls} <= {200, 201}

            see_that_all_work()
            server.stop()
            see_refusals(running, api, calls, 5.0)
            server.start()
            see_that_all_work()
        lines = [each for each in running.log.splitlines() if "the database is unavailable" in each]
        assert 1 <= len(lines) <= 8
        log = running.log
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:6000]
        assert "select " not in log.lower() and "insert " not in log.lower()


def see_refusals(gateway: Gateway, api: httpx.Client, calls: list[Call], seconds: float) -> None:
    with watched(gateway) as held, ThreadPoolExecutor(len(calls)) as pool:
        answers = list(pool.map(lambda each: ask(api, each), calls))
    for each, answer in zip(calls, answers, strict=True):
        assert answer.status == 503 and answer.retry, (each, answer)
        assert answer.seconds < seconds, (each, answer)
        assert "postgres" not in answer.text and "select" not in answer.text.lower()
    assert held.longest < LONGEST


def memory(gateway: Gateway) -> int:
    """The most bytes that the worker ever had in memory."""
    status = Path(f"/proc/{worker(gateway.pid)}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_long_response_chain_delays_no_other_request(
    kind: str, gateway: StartGateway, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Two thousand turns, and one more that continues them: as much as a client could send."""
    address = f"sqlite:///{tmp_path / 'slotproxy.db'}"
    if kind == "postgres":
        address = request.getfixturevalue("postgres")
    said = [
        {"type": "message", "role": role, "content": f"turn {number} " + "x" * 100}
        for number in range(2000)
        for role in ("user", "assistant")
    ]
    put(address, "", ONE, said)
    put(address, "", TWO, said * 10)
    running = gateway(
        *("--llama-api", NOBODY, "--wait-for-backend", "0"),
        *("--database", address, "--data", str(tmp_path)),
        ready=0,
    )
    with httpx.Client(base_url=running.url, timeout=60) as api:
        named = {
            "type": "item_reference",
            "id": api.get(f"/v1/responses/{ONE}/input_items").json()["data"][0]["id"],
        }
        with watched(running) as held:
            for body, status in (
                ({"input": "Hi", "previous_response_id": ONE}, 503),  # there is no backend
                ({"input": [named] * 10_000}, 503),
                ({"input": "Hi", "previous_response_id": TWO}, 400),
            ):
                answer = api.post("/v1/responses", json=body)
                assert answer.status_code == status, answer.text
        assert held.longest < LONGEST
