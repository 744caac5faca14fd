"""Captures of a real gateway in front of real servers: every kind of API, both sides and the
prompt, kept over a restart, and nothing of a key or of those who opted out."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import httpx

from proxy.config.data_folder import CAPTURES
from proxy.observe.captures import Captures
from proxy.observe.captures_store import Ring
from tests.fakes import wait_until
from tests.ws import connected
from tools.processes import Gateway, ModelServer

from .conftest import StartGateway

SECRET = "sk-ann-0123456789abcdef"
CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello there!"}]}
PICTURE = base64.b64encode(b"\x89PNG" + bytes(4096)).decode()
SHORT = {"max_tokens": 5}
SHORT_INPUT = {"max_output_tokens": 16, "store": False}
# A path, a body, and a part of the bytes that the client gets.
ASKED: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {**HELLO, **SHORT}, '"chat.completion"'),
    (CHAT, {**HELLO, **SHORT, "stream": True}, "data: [DONE]"),
    ("/v1/messages", {**HELLO, **SHORT, "model": "any", "stream": True}, "event: message_stop"),
    ("/v1/responses", {"input": "Hello there!", "max_output_tokens": 16}, '"response"'),
    ("/api/chat", {**HELLO, "model": "any", "options": {"num_predict": 5}}, '"done":true'),
    ("/v1/completions", {"prompt": "Hello there!", **SHORT}, '"text_completion"'),
    (CHAT, {**HELLO, "temperature": "hot"}, "temperature"),
]


def client_of(gateway: Gateway) -> httpx.Client:
    headers = {"Authorization": f"Bearer {SECRET}"}
    return httpx.Client(base_url=gateway.url, headers=headers, timeout=90)


def capture(client: httpx.Client, name: str) -> dict[str, Any]:
    """The capture of a request, once its answer is closed."""
    path = f"/v1/requests/{name}/capture"
    wait_until(lambda: client.get(path).status_code == 200)
    body: dict[str, Any] = client.get(path).json()
    return body


def test_both_sides_of_every_api_are_captured(
    gateway: StartGateway, old_server: ModelServer, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    flags = ("--llama-api", old_server.url, "--api-key", SECRET, "--data", str(data))
    running = gateway(*flags, "--capture", "all", "--chat-template", "chatml")
    with client_of(running) as client:
        answers = [client.post(path, json=body) for path, body, _ in ASKED]
        for (path, body, mark), answer in zip(ASKED, answers, strict=True):
            captured = capture(client, answer.headers["x-request-id"])
            assert captured["request"] == f"POST {path}"
            assert captured["status"] == answer.status_code
            assert json.loads(captured["sent"]["text"]) == body
            assert captured["received"] == {"text": answer.text, "missing": 0}
            assert mark in answer.text
            if answer.status_code == 200:
                (call,) = captured["calls"]
                assert call["status"] == 200
                assert "Hello there!" in json.loads(call["sent"]["text"])["prompt"]
                assert call["received"]["text"].startswith("data: ")
            else:
                assert captured["calls"] == []
        pictured = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}]
        refused = client.post(CHAT, json={"messages": [{"role": "user", "content": pictured}]})
        assert refused.status_code == 400
        assert "[image/png, 4100 bytes, sha256 " in json.dumps(
            capture(client, refused.headers["x-request-id"])
        )
        quiet = client.post(CHAT, json={**HELLO, **SHORT, "capture": False})
        assert quiet.status_code == 200 and "x-slotproxy-warning" not in quiet.headers
        last = client.post(CHAT, json={**HELLO, **SHORT}).headers["x-request-id"]
    assert running.stop() == 0
    for file in data.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
    names = {
        capture["id"] for capture in Captures(Ring(data / CAPTURES, 1 << 20, 60), str).find(99)
    }
    # What waited when the gateway was stopped was stored; what opted out was not.
    assert last in names and quiet.headers["x-request-id"] not in names
    assert SECRET.encode() not in b"".join(p.read_bytes() for p in data.glob(f"{CAPTURES}*"))
    again = gateway(*flags)
    with client_of(again) as client:
        assert capture(client, last)["key"].startswith("key-")
        assert client.delete("/v1/data").json()["deleted"]["captures"] == len(names)
        assert client.get(f"/v1/requests/{last}/capture").status_code == 404


def test_answers_besides_plain_requests_are_captured(
    gateway: StartGateway, old_server: ModelServer, tmp_path: Path
) -> None:
    """Of the WebSocket, in the background, and of the chat page."""
    running = gateway("--llama-api", old_server.url, "--capture", "all", "--data", str(tmp_path))
    with httpx.Client(base_url=running.url, timeout=90) as client:
        with connected(running.url) as socket:
            socket.say({"type": "response.create", "input": "By the socket", **SHORT_INPUT})
            assert list(socket.answer())
        body = {"input": "Behind the scenes", "background": True, "max_output_tokens": 16}
        assert client.post("/v1/responses", json=body).json()["status"] == "queued"
        page = client.get("/", headers={"Accept": "text/html"}).text
        client.headers["X-CSRF-Token"] = page.partition('data-csrf="')[2].partition('"')[0]
        talks = "/pages/api/chat/conversations"
        made = client.post(talks, json={}).json()
        body = {"text": "On the page", "options": {"max_tokens": 5}}
        answer = client.post(f"{talks}/{made['id']}/ask", json=body)
        assert answer.status_code < 300, answer.text

        def calls() -> str:
            rows = [row["id"] for row in client.get("/v1/requests").json()["data"]]
            names = [row for row in rows if client.get(f"/v1/requests/{row}").json()["captured"]]
            captures = [client.get(f"/v1/requests/{name}/capture").json() for name in names]
            return " ".join(call["sent"]["text"] for each in captures for call in each["calls"])

        words = ("By the socket", "Behind the scenes", "On the page")
        wait_until(lambda: all(map(calls().__contains__, words)))
