"""What comes from a model or a gateway, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from proxy.terminal import chat, client, top
from proxy.terminal.client import Client, TerminalError
from tests.http_fakes import FakeHandler, FakeServer


class _Documents(FakeHandler):
    answers: dict[str, Any]

    def do_GET(self) -> None:
        self.send(self.answers.get(self.path), 200 if self.path in self.answers else 404)


@pytest.fixture
def backends() -> list[dict[str, Any]]:
    row = {"state": "up", "status": None, "error": None, "n_ctx": 4096, "slots": 2, "in_flight": 1}
    return [
        {"id": "127.0.0.1:8080", "model": "plain", **row},
        {"id": "qwen", "model": "qwen", **row, "status": "loaded"},
        {"id": "new", "model": "new", **row, "status": "loading", "slots": None, "n_ctx": None},
        {"id": "bad", "model": "bad", **row, "status": "failed", "error": "no\nfile \x1b[2J"},
    ]


RUNNING = {"pinned": False, "gpu_memory": 0, "memory": 3 << 30, "unloads_in": None}
LOADED = {**RUNNING, "model": "qwen", "gpu_memory": 5 << 20, "unloads_in": 240.0}
LOADING = {**RUNNING, "model": "new", "place": 0, "wait": 6.2}


@pytest.fixture
def gateway(backends: list[dict[str, Any]]) -> Iterator[Client]:
    slots = [{"state": "busy", "held": False}, {"state": "free", "held": True}]
    many = [*slots, *[{"state": "free", "held": False}] * 1022]
    speed = {"p10": 5.0, "p50": 12.34, "p90": 20.04, "p99": 1234.0}
    minute = {"requests": 2, "completion": 120, "prompt": 100, "cached": 50, "speed": speed}
    minute |= dict.fromkeys(("queue", "prompt_tokens"))
    minute["first_token"] = {"p10": 0.01, "p50": 0.25, "p90": 2.5, "p99": 2.5}
    large = {"backend": "127.0.0.1:8081", "model": "large", "slots": many}
    answers = {
        "/v1/backends": {"data": backends},
        "/running": {"running": [LOADED, LOADING]},
        "/v1/slots": {
            "backends": [{"backend": "127.0.0.1:8080", "model": "plain", "slots": slots}, large],
            "queue": [{"place": 1, "model": "plain", "waited": 3.2, "mine": False}],
            "running": 3,
            "minute": {**minute, "evictions": {"other_key": 3}, "errors": {"timeout": 1}},
        },
    }
    with FakeServer(_Documents, answers=answers) as server:
        yield Client(server.url)


def test_models_have_state_slots_memory_and_the_time_until_they_are_unloaded(
    gateway: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    top.print_models(gateway, None)  # type: ignore[arg-type]
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    plain, qwen, new, bad = ([cell.strip() for cell in row if cell] for row in rows[1:5])
    assert plain == ["plain", "up", "1/2", "4096", "–", "–", "127.0.0.1:8080"]
    assert qwen[1:6] == ["loaded", "1/2", "4096", "3.0 GiB + 5 MiB GPU", "in 4 min"]
    assert new[1:4] == ["loading, 6 s", "–", "–"]
    assert bad[1] == "failed"
    assert rows[5] == ["bad: no file \N{REPLACEMENT CHARACTER}[2J"]


def test_picture_has_the_slots_the_line_and_the_last_minute(gateway: Client) -> None:
    lines = top.picture(gateway)
    assert lines[1] == "3 requests in flight, 1 waiting for a slot"
    assert lines[2] == (
        "last minute: 2 requests, 1 failed, 2.0 tokens/s in all, 50 prompt tokens saved (50%),"
        " 3 evictions"
    )
    table = [row.split("  ") for row in lines[4:9]]
    cells = [[cell.strip() for cell in row if cell] for row in table]
    assert cells[0] == ["LAST MINUTE", "10 %", "MEDIAN", "90 %", "99 %"]
    assert cells[1] == ["seconds in line", "–", "–", "–", "–"]
    assert cells[2] == ["seconds to first token", "0.01", "0.25", "2.50", "2.50"]
    assert cells[3] == ["tokens/s an answer", "5.00", "12.34", "20.04", "1,234.00"]
    assert "plain  ■▪" in lines
    assert "large  1 ■  1 ▪  1022 ·" in lines
    assert lines[-2:] == ["WAITING", "plain  3 s"]


def test_text_cannot_control_the_terminal() -> None:
    assert client.safe("a\tb\n\x1b]0;title\x07\u202e\x9b") == "a\tb\n�]0;title���"
    assert client.line("a\r\n \x08b") == "a� �b"


def test_parts_of_a_stream() -> None:
    lines = [
        b": queue place 2\n",
        b"\n",
        b'data: {"choices": [{"delta": {"role": "assistant", "content": null}}]}\n',
        b'data: {"choices": [{"delta": {"reasoning_content": "Hm"}}]}\n',
        b'data: {"choices": [{"delta": {"content": "Yes"}}], "usage": null}\n',
        b'data: {"choices": [], "usage": {"completion_tokens": 2}}\n',
        b"data: [DONE]\n",
    ]
    parts = [("note", " queue place 2\n"), ("reasoning", "Hm"), ("text", "Yes")]
    assert [*chat._pieces(iter(lines))] == parts


def test_error_in_a_stream_is_raised() -> None:
    with pytest.raises(TerminalError, match="the backend failed"):
        [*chat._pieces(iter([b'data: {"error": {"message": "the backend failed"}}\n']))]
