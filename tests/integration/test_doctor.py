"""`slotproxy doctor` and `slotproxy init` on real servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.app import discovery, doctor, initialize
from proxy.app.doctor import Finding
from proxy.config import load
from tools.processes import Gateway, ModelServer, ask, held_port


def _findings(*flags: str) -> list[Finding]:
    return [*doctor.examine(load(flags, {}))]


def _named(findings: list[Finding], text: str) -> list[Finding]:
    return [finding for finding in findings if text in finding.text]


def test_server_without_embeddings_is_told_with_its_flag(
    start_server: Callable[..., ModelServer],
) -> None:
    server = start_server("llama-2026")
    embedding = start_server("llama-2026", extra=["--embeddings", "--pooling", "mean"])
    items = _findings("--llama-api", server.url, "--no-local-embeddings")
    assert "--embedding-api" in _named(items, "searched by its words only")[0].remedy
    items = _findings("--llama-api", server.url, "--embedding-api", f"{server.url},{embedding.url}")
    levels = {item.about: item.level for item in items if item.about.startswith("embeddings ")}
    assert sorted(levels.values()) == ["ok", "problem"]
    (problem,) = (item for item in items if item.about == f"embeddings 127.0.0.1:{server.port}")
    assert "--embeddings" in problem.remedy


def test_init_writes_settings_with_which_the_gateway_answers(
    old_server: ModelServer,
    gateway: Callable[..., Gateway],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = str(tmp_path / "made.toml")
    report = initialize.write(
        file,
        lambda question: False,
        {"PATH": ""},
        lambda environ, home: discovery.look(environ, tmp_path, [old_server.port, held_port()]),
    )
    assert old_server.url in report
    running = gateway("--config", file, "--data", str(tmp_path / "data"))
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    assert ask(f"{running.url}/v1/chat/completions", body, seconds=60)[0] == 200
