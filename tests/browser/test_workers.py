"""The chat page in front of several workers: who follows an answer is not always who writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.processes import Gateway, ModelServer

from .conftest import Open
from .test_chat import ask, until


@pytest.fixture
def workers(endless_server: ModelServer, tmp_path: Path) -> Iterator[Gateway]:
    pytest.importorskip("redis", reason="the extra redis is not installed")
    from tests.integration.test_state import Redis

    redis = Redis(tmp_path)
    flags = ["--llama-api", endless_server.url, "--slots", "2", "--data", str(tmp_path / "data")]
    flags += ["--workers", "3", "--state", redis.url]
    gateway = Gateway(flags, tmp_path / "gateway.log")
    try:
        redis.start()
        gateway.start()
        yield gateway
    finally:
        gateway.kill()
        redis.kill()


def test_an_answer_is_followed_and_stopped_through_any_worker(
    workers: Gateway, visit: Open
) -> None:
    page = visit(f"{workers.url}/")
    ask(page, "Tell me everything.")
    said = page.locator(".message.assistant .said")
    for _ in range(3):  # each time with new connections, and so perhaps another worker
        until(page, lambda: said.count() == 1 and len(said.inner_text()) > 20)
        before = len(said.inner_text())
        page.reload()
        until(page, lambda before=before: said.count() == 1 and len(said.inner_text()) >= before)
    page.get_by_role("button", name="Stop").click()
    page.locator('.message.assistant[data-status="stopped"]').wait_for()
    length = len(said.inner_text())
    page.reload()
    said.wait_for()
    assert len(said.inner_text()) == length
