"""Five people of Open WebUI behind one key, on a real gateway: its headers as it sends them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from benchmarks.stub_process import Stub
from tests.fakes import key_file

from .conftest import StartGateway

PEOPLE = ("ann", "bob", "carl", "dora", "eve")
ADMIN = {"Authorization": "Bearer sk-ops"}
PAGES = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def model(tmp_path: Path) -> Iterator[str]:
    stub = Stub(tmp_path, slots=4)
    try:
        yield stub.upstream
    finally:
        stub.process.kill()


def test_five_people_of_one_key_stand_apart(
    gateway: StartGateway, model: str, tmp_path: Path
) -> None:
    keys = key_file(tmp_path, "ops sk-ops\n")
    stored = ("--api-key-file", keys, "--admins", "ops", "--data", str(tmp_path / "data"))
    running = gateway("--llama-api", model, "--chat-template", "legacy", *stored)
    with httpx.Client(base_url=running.url, timeout=60) as client:
        fields = {"trusted_for_users": True, "limits": {"requests": {"day": 3}}}
        made = client.post("/key/generate", json=fields, headers=ADMIN).json()

        def ask(name: str) -> int:
            headers = {
                "Authorization": f"Bearer {made['key']}",
                "X-OpenWebUI-User-Name": quote(f"{name} Ünal", safe=" "),
                "X-OpenWebUI-User-Id": f"8d1c-{name}",
                "X-OpenWebUI-User-Email": f"{name}@example.org",
                "X-OpenWebUI-User-Role": "user",
                "X-OpenWebUI-Chat-Id": f"chat-of-{name}",
            }
            body: dict[str, Any] = {"messages": [{"role": "user", "content": f"I am {name}"}]}
            body |= {"model": "stub", "max_tokens": 4, "stream": True}
            with client.stream(
                "POST", "/v1/chat/completions", json=body, headers=headers
            ) as answer:
                answer.read()
                return answer.status_code

        for count, name in enumerate(PEOPLE):
            assert [ask(name) for _ in range(count % 3 + 1)] == [200] * (count % 3 + 1)
        # Each has its own limit, and it holds.
        assert [ask("ann") for _ in range(3)] == [200, 200, 429]
        assert ask("bob") == 200

        # The page shows them apart, each with its own number of requests.
        expected = {"ann": 4, "bob": 3, "carl": 3, "dora": 1, "eve": 2}
        expected = {f"{name}@example.org": count for name, count in expected.items()}
        end = time.monotonic() + 60
        while True:
            sums = client.get(
                "/pages/api/usage", params={"scope": "all"}, headers={**ADMIN, **PAGES}
            ).json()
            counted = {row["user"]: row["requests"] for row in sums["users"]}
            if counted == expected or time.monotonic() > end:
                break
            time.sleep(0.1)  # rows are written twice a second
        assert counted == expected
        usage = client.get(
            "/v1/usage",
            params={"group_by": "user"},
            headers={"Authorization": f"Bearer {made['key']}"},
        ).json()
        assert {row["user"]: row["requests"] for row in usage["data"]} == expected
        users = client.get("/user/list", headers=ADMIN).json()["users"]
        assert {user["user_alias"] for user in users} == {f"{name} Ünal" for name in PEOPLE}
