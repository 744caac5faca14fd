"""OpenAI's batches with the official client, on real servers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.clients import openai
from tests.integration.asking import openai_client
from tests.integration.child_processes import descendants
from tests.integration.conftest import StartGateway, StartServer
from tests.redis_servers import RedisServer
from tools.processes import ModelServer

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
BODIES: dict[str, Callable[[int], dict[str, Any]]] = {
    CHAT: lambda i: {"messages": [{"role": "user", "content": f"Count to {i}"}], "max_tokens": 4},
    "/v1/completions": lambda i: {"prompt": f"Count to {i}", "max_tokens": 4},
    "/v1/responses": lambda i: {"input": f"Count to {i}", "max_output_tokens": 16},
    "/v1/embeddings": lambda i: {"input": f"text {i}"},
}


def lines(endpoint: str, count: int, **changes: Any) -> bytes:
    made = [
        {
            "custom_id": f"line-{i}",
            "method": "POST",
            "url": endpoint,
            "body": {"model": "m", **BODIES[endpoint](i), **changes},
        }
        for i in range(count)
    ]
    return "\n".join(json.dumps(line) for line in made).encode()


def begun(api: openai.OpenAI, data: bytes, endpoint: Any = CHAT) -> openai.types.Batch:
    file = api.files.create(file=("lines.jsonl", data), purpose="batch")
    return api.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")


def ended(api: openai.OpenAI, key: str, seconds: float = 60) -> openai.types.Batch:
    end = time.monotonic() + seconds
    while True:
        batch = api.batches.retrieve(key)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        assert time.monotonic() < end, batch
        time.sleep(0.1)


def read(api: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    if file is None:
        return []
    return [json.loads(line) for line in api.files.content(file).text.splitlines()]


def check(api: openai.OpenAI, done: openai.types.Batch, count: int) -> list[dict[str, Any]]:
    """Every line has one result, and all of them are answers. Returns them."""
    assert not read(api, done.error_file_id)
    assert done.status == "completed" and done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": count, "completed": count, "failed": 0}
    rows = read(api, done.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"line-{i}" for i in range(count)]
    assert all(row["error"] is None for row in rows)
    assert {row["response"]["status_code"] for row in rows} == {200}
    return rows


@pytest.fixture(scope="module")
def api(
    start_server: StartServer,
    module_gateway: StartGateway,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[openai.OpenAI]:
    """A line is a request like any other, so the kind of server does not matter to a batch."""
    server = start_server("llama-2023", extra=["--embedding"])
    data = tmp_path_factory.mktemp("data")
    with openai_client(module_gateway("--llama-api", server.url, "--data", str(data))) as client:
        yield client


@pytest.mark.parametrize("endpoint", ["/v1/completions", "/v1/responses", CHAT, "/v1/embeddings"])
def test_every_line_is_answered_once(api: openai.OpenAI, endpoint: str) -> None:
    made = begun(api, lines(endpoint, 12), endpoint)
    assert (made.status, made.object) == ("validating", "batch")
    done = ended(api, made.id)
    answers = check(api, done, 12)
    assert done.usage is not None and done.usage.input_tokens > 0
    assert (done.model, done.error_file_id) == ("m", None)
    assert api.files.retrieve(str(done.output_file_id)).purpose == "batch_output"
    assert [batch.id for batch in api.batches.list(limit=1).data] == [made.id]
    if endpoint == "/v1/embeddings":
        assert all(row["response"]["body"]["data"][0]["embedding"] for row in answers)


def test_cancelled_batch_keeps_the_answers_it_has(api: openai.OpenAI) -> None:
    made = begun(api, lines(CHAT, 1000))
    _advanced(api, made.id, 3)
    cancelled = api.batches.cancel(made.id)
    assert (cancelled.id, cancelled.status) == (made.id, "cancelling")
    assert cancelled.cancelling_at is not None and cancelled.cancelled_at is None
    done = ended(api, made.id)
    assert done.status == "cancelled" and done.request_counts is not None
    assert done.cancelled_at is not None and done.completed_at is None
    answered, refused = read(api, done.output_file_id), read(api, done.error_file_id)
    assert len(answered) == done.request_counts.completed >= 3
    assert len(refused) == done.request_counts.failed > 0
    ids = [row["custom_id"] for row in (*answered, *refused)]
    assert sorted(ids) == sorted(f"line-{i}" for i in range(1000))
    assert {row["response"]["status_code"] for row in answered} == {200}
    assert {row["error"]["code"] for row in refused} == {"batch_cancelled"}
    assert api.batches.cancel(made.id) == api.batches.retrieve(made.id) == done
    assert [batch.status for batch in api.batches.list(limit=1).data] == ["cancelled"]


@pytest.mark.slow
def test_no_line_is_lost_or_answered_twice_after_kills(
    redis_server: RedisServer, old_server: ModelServer, gateway: StartGateway, tmp_path: Path
) -> None:
    flags = ["--workers", "2", "--state", redis_server.url, "--data", str(tmp_path / "data")]
    served = gateway("--llama-api", old_server.url, *flags)
    with openai_client(served) as api:
        made = begun(api, lines(CHAT, 100))
    kills = 0
    while True:
        with openai_client(served) as api:
            seen = _advanced(api, made.id, 25)
            if seen.status == "completed":
                check(api, seen, 100)
                break
        for pid in (served.pid, *descendants(served.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        served.kill()
        kills += 1
        served.start()
    assert kills  # on a busy machine, this test may look late


def _advanced(api: openai.OpenAI, key: str, count: int) -> openai.types.Batch:
    """The batch once it has so many more results, or is completed."""
    end, before = time.monotonic() + 60, None
    while True:
        seen = api.batches.retrieve(key)
        assert seen.request_counts is not None and time.monotonic() < end, seen
        done = seen.request_counts.completed
        before = done if before is None else before
        if seen.status == "completed" or done >= before + count:
            return seen
        time.sleep(0.02)
