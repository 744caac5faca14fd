"""Five people of Open WebUI behind one key, on a real gateway: by its headers as it sends them, and
by the program itself, which `make test-openwebui` installs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from benchmarks.stub_process import Stub
from tests.fakes import key_file, wait_until
from tools.processes import ROOT, Child, free_port

from .conftest import StartGateway

PEOPLE = ("ann", "bob", "carl", "dora", "eve")
ADMIN = {"Authorization": "Bearer sk-ops"}
PAGES = {"Sec-Fetch-Site": "same-origin"}
PROGRAM = ROOT / "build/openwebui-venv/bin/open-webui"
# Nothing is fetched, and no model of its own is loaded.
QUIET = {
    "ENABLE_OLLAMA_API": "false",
    "RAG_EMBEDDING_ENGINE": "openai",
    "HF_HUB_OFFLINE": "1",
    "OFFLINE_MODE": "true",
    "ANONYMIZED_TELEMETRY": "false",
    "BYPASS_MODEL_ACCESS_CONTROL": "true",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
}


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

        def counted() -> dict[str, int]:
            headers, everybody = {**ADMIN, **PAGES}, {"scope": "all"}
            sums = client.get("/pages/api/usage", params=everybody, headers=headers).json()
            return {row["user"]: row["requests"] for row in sums["users"]}

        wait_until(lambda: counted() == expected)
        usage = client.get(
            "/v1/usage",
            params={"group_by": "user"},
            headers={"Authorization": f"Bearer {made['key']}"},
        ).json()
        assert {row["user"]: row["requests"] for row in usage["data"]} == expected
        users = client.get("/user/list", headers=ADMIN).json()["users"]
        assert {user["user_alias"] for user in users} == {f"{name} Ünal" for name in PEOPLE}


@pytest.mark.timeout(900)  # it takes a minute or more to start
@pytest.mark.skipif(not PROGRAM.exists(), reason="make test-openwebui runs it")
def test_open_webui_itself_names_its_people(
    gateway: StartGateway, model: str, tmp_path: Path
) -> None:
    keys = key_file(tmp_path, "ops sk-ops\n")
    stored = ("--api-key-file", keys, "--admins", "ops", "--data", str(tmp_path / "data"))
    running = gateway("--llama-api", model, "--chat-template", "legacy", *stored)
    made = httpx.post(
        f"{running.url}/key/generate",
        json={"trusted_for_users": True, "limits": {"requests": {"day": 2}}},
        headers=ADMIN,
        timeout=60,
    ).json()
    port = free_port()
    environment = {
        **QUIET,
        "DATA_DIR": str(tmp_path / "openwebui"),
        "WEBUI_SECRET_KEY": "secret",
        "OPENAI_API_BASE_URLS": f"{running.url}/v1",
        "OPENAI_API_KEYS": made["key"],
        "ENABLE_FORWARD_USER_INFO_HEADERS": "true",
    }
    (tmp_path / "openwebui").mkdir()
    command = [str(PROGRAM), "serve", "--host", "127.0.0.1", "--port", str(port)]
    front = Child(command, tmp_path / "openwebui.log", environment, tmp_path)
    front.launch()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:

            def is_up() -> bool:
                assert front.alive, front.log[-3000:]
                try:
                    return client.get("/health").status_code == 200
                except httpx.HTTPError:
                    return False

            wait_until(is_up, 600)

            def account(name: str) -> dict[str, str]:
                return {
                    "name": f"{name} Ünal",
                    "email": f"{name}@example.org",
                    "password": "pw-1234",
                    "role": "user",
                }

            def post(path: str, token: str, body: dict[str, Any]) -> httpx.Response:
                return client.post(path, json=body, headers={"Authorization": f"Bearer {token}"})

            first = client.post("/api/v1/auths/signup", json=account(PEOPLE[0]))
            assert first.status_code == 200, first.text
            tokens = {PEOPLE[0]: first.json()["token"]}
            for name in PEOPLE[1:]:
                added = post("/api/v1/auths/add", first.json()["token"], account(name))
                assert added.status_code == 200, added.text
                tokens[name] = added.json()["token"]
            models = client.get("/api/models", headers={"Authorization": f"Bearer {tokens['ann']}"})
            body = {
                "model": models.json()["data"][0]["id"],
                "messages": [{"role": "user", "content": "Hi"}],
                "max_tokens": 4,
                "stream": False,
            }
            for name in PEOPLE:
                answers = [post("/api/chat/completions", tokens[name], body) for _ in range(3)]
                codes = [answer.status_code for answer in answers]
                assert codes[:2] == [200, 200], (name, answers[0].text, front.log[-3000:])
                assert "requests a day" in answers[2].text
    finally:
        front.kill()

    def users() -> dict[str, int]:
        usage = httpx.get(
            f"{running.url}/v1/usage",
            params={"group_by": "user"},
            headers={"Authorization": f"Bearer {made['key']}"},
            timeout=60,
        ).json()
        return {row["user"]: row["requests"] for row in usage["data"]}

    expected = {f"{name}@example.org": 3 for name in PEOPLE}
    wait_until(lambda: users() == expected)
    listed = httpx.get(f"{running.url}/user/list", headers=ADMIN, timeout=60).json()["users"]
    assert {user["user_alias"] for user in listed} == {f"{name} Ünal" for name in PEOPLE}
