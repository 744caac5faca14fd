"""Slots, queue and failover on real servers."""

from __future__ import annotations

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.fakes import key_file, wait_until
from tests.integration.asking import fetch, lines
from tests.integration.conftest import StartGateway, StartServer
from tests.integration.generations import OLD
from tools.processes import Gateway, ModelServer

LEGACY = ("--chat-template", "legacy")
COMPLETIONS = "/v1/completions"


def _words(number: int, count: int) -> str:
    return " ".join(f"word {number} and {n}" for n in range(count))


def _up(url: str) -> int:
    return int(fetch(url, "/health")[2]["backends"]["up"])


@pytest.fixture(params=OLD)
def two_backends(
    request: pytest.FixtureRequest, start_server: StartServer, gateway: StartGateway
) -> tuple[list[Any], Gateway]:
    servers = [start_server(request.param, slots=8, ctx=8192) for _ in range(2)]
    urls = ",".join(server.url for server in servers)
    running = gateway("--llama-api", urls, "--slots", "8", *LEGACY)
    wait_until(lambda: _up(running.url) == 2)
    return servers, running


@pytest.mark.slow
def test_backend_kill_under_sixteen_streams_loses_no_answer(
    two_backends: tuple[list[Any], Gateway],
) -> None:
    """Each stream repeats a word of its own, so a token that is lost, doubled or mixed up is seen
    whatever else is in the servers' batches."""
    servers, running = two_backends
    begun = threading.Semaphore(0)
    words, length = _one_token_words(servers[1].url), 300

    def stream(number: int) -> tuple[str, dict[str, Any]]:
        text, last, ready = "", "", False
        usage: dict[str, Any] = {}
        token, _ = words[number]
        body = {"prompt": _words(number, 6), "max_tokens": length, "logit_bias": {token: 100}}
        body["stream_options"] = {"include_usage": True}
        for line in lines(running.url, COMPLETIONS, body):
            if not line.startswith(b"data: {"):
                last = line.decode()
                continue
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                text += choice["text"]
            if text and not ready:
                ready = True
                begun.release()
        assert last == "data: [DONE]"
        return text, usage

    def streams_on_the_first() -> int:
        slots = fetch(running.url, "/slots")[2][:8]
        return sum(slot["is_processing"] for slot in slots)

    with ThreadPoolExecutor(16) as threads:
        for _ in range(5):  # on a busy machine, they may all end before this test looks at them
            answers = [threads.submit(stream, number) for number in range(16)]
            for _ in answers:
                assert begun.acquire(timeout=60)
            servers[0].send(signal.SIGSTOP)  # it ends no answer between the look and the kill
            time.sleep(0.5)  # the gateway reads the answers that ended before
            if streams_on_the_first():
                break
            servers[0].send(signal.SIGCONT)
            for answer in answers:
                answer.result(90)
        servers[0].kill()
        results = [answer.result(90) for answer in answers]
    for (text, usage), (_, word) in zip(results, words, strict=True):
        assert usage["completion_tokens"] == length
        assert text == word * length
    assert sum(usage.get("continued", 0) for _, usage in results) >= 1
    wait_until(lambda: _continued(running.log) >= 1)


def _one_token_words(server: str) -> list[tuple[int, str]]:
    """Tokens of the made-up model, and the text of each in an answer."""
    words = []
    for word in ("hello", "world", "once", "upon", "model", "answer", "question", "slot", "stream",
                 "server", "water", "people", "number", "time", "other", "which"):  # fmt: skip
        tokens = fetch(server, "/tokenize", {"content": word})[2]["tokens"]
        assert len(tokens) == 1, (word, tokens)
        words.append((tokens[0], f" {word}"))
    return words


def _continued(log: str) -> int:
    """Runs that the gateway continued on another backend, by its log of requests."""
    written = log[: log.rfind("\n") + 1].splitlines()
    return sum(json.loads(line).get("continued", 0) for line in written if line.startswith("{"))


def test_queue_place_is_in_headers_and_comments(
    start_server: StartServer, gateway: StartGateway
) -> None:
    server = start_server("llama-2023", slots=1, ctx=2048)
    running = gateway("--llama-api", server.url, "--slots", "1", "--max-queue", "1", *LEGACY)
    first = lines(running.url, COMPLETIONS, {"prompt": "long", "max_tokens": 1500})
    assert next(first).startswith(b"data:")
    server.send(signal.SIGSTOP)  # the first must not finish before all are checked
    try:
        marked = {"X-Slotproxy-Queue": "on"}
        second = lines(running.url, COMPLETIONS, {"prompt": "short", "max_tokens": 4}, marked)
        assert next(second) == b": queue place 1"
        status, head, body = fetch(running.url, COMPLETIONS, {"prompt": "third", "max_tokens": 4})
        assert status == 429 and int(head["retry-after"]) >= 1
        assert body["error"]["code"] == "queue_full"
        queue = fetch(running.url, "/v1/slots")[2]["queue"]
        assert [ticket["place"] for ticket in queue] == [1]
        first.close()  # type: ignore[attr-defined]
    finally:
        server.send(signal.SIGCONT)
    assert list(second)[-1] == b"data: [DONE]"


@pytest.mark.parametrize("name", OLD)
def test_conversations_return_to_their_slots(
    name: str, start_server: StartServer, gateway: StartGateway
) -> None:
    """On a server that does not report its slots: they are counted."""
    server = start_server(name, slots=6, ctx=6144)
    running = gateway("--llama-api", server.url, *LEGACY)
    texts = [_words(n, 10) for n in range(5)]
    evaluated = 0
    for turn in range(4):
        for number in range(5):
            body = {"prompt": texts[number], "max_tokens": 8, "temperature": 0}
            _, _, answer = fetch(running.url, COMPLETIONS, body)
            texts[number] += answer["choices"][0]["text"] + f" and then {turn}"
            if turn:
                evaluated += answer["timings"]["prompt_n"]
    assert evaluated < 15 * 40  # each prompt has more than 60 tokens
    (backend,) = fetch(running.url, "/v1/slots")[2]["backends"]
    assert backend["slots_known"] is True and len(backend["slots"]) == 6
    assert backend["hit_rate"] >= 0.7
    assert "word" not in json.dumps(backend)


@pytest.mark.parametrize("name", OLD)
def test_repeated_question_gets_the_same_greedy_answer(
    name: str, start_server: StartServer, gateway: StartGateway
) -> None:
    """The old server evaluates the last token of a prompt it holds whole once more, and keeps both:
    each time the answer would drift."""
    server = start_server(name, slots=1, ctx=2048)
    running = gateway("--llama-api", server.url, "--slots", "1", *LEGACY)
    body = {"prompt": _words(3, 12), "max_tokens": 32, "temperature": 0}
    answers = [fetch(running.url, COMPLETIONS, body)[2] for _ in range(6)]
    assert len({answer["choices"][0]["text"] for answer in answers}) == 1
    assert answers[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    longer = {**body, "prompt": _words(3, 12) + " and more"}
    _, _, answer = fetch(running.url, COMPLETIONS, longer)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 50


@pytest.mark.parametrize("name", OLD)
def test_key_groups_do_not_share_cached_prompts(
    name: str, start_server: StartServer, gateway: StartGateway, tmp_path: Path
) -> None:
    server = start_server(name, slots=1, ctx=2048)
    keys = key_file(tmp_path, "ann key-a group=red\nbob key-b group=blue\namy key-c group=red\n")
    running = gateway("--llama-api", server.url, "--slots", "1", "--api-key-file", keys, *LEGACY)
    cached = []
    for turn, key in enumerate(("key-a", "key-c", "key-b", "key-b", "key-a")):
        body = {"prompt": _words(7, 12 + turn), "max_tokens": 4, "temperature": 0}
        _, _, answer = fetch(running.url, COMPLETIONS, body, {"Authorization": f"Bearer {key}"})
        cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert cached[0] == 0 and cached[1] > 50  # the same group
    assert cached[2] == 0 and cached[3] > 50  # another, then its own
    assert cached[4] == 0
    _, _, view = fetch(running.url, "/v1/slots", headers={"Authorization": "Bearer key-b"})
    assert view["backends"][0]["slots"][0]["conversation"] is None


@pytest.mark.slow
def test_sighup_adds_and_drains_backends_during_answers(
    start_server: StartServer, gateway: StartGateway, tmp_path: Path
) -> None:
    servers = [start_server("llama-2023", slots=2, ctx=4096) for _ in range(2)]
    file = tmp_path / "slotproxy.toml"

    def configure(server: ModelServer) -> str:
        name = urlsplit(server.url).netloc
        file.write_text(f'[[backend]]\nurl = "{server.url}"\nmodel = "m"\nslots = 2\n')
        return name

    first = configure(servers[0])
    running = gateway("--config", str(file), *LEGACY)
    stream = lines(running.url, COMPLETIONS, {"prompt": "going on and on", "max_tokens": 1200})
    assert next(stream).startswith(b"data:")
    second = configure(servers[1])
    running.send(signal.SIGHUP)

    def names() -> list[str]:
        return [b["id"] for b in fetch(running.url, "/v1/backends")[2]["data"]]

    wait_until(lambda: second in names())
    wait_until(lambda: _up(running.url) == 2 or first not in names())
    status, _, _ = fetch(running.url, COMPLETIONS, {"prompt": "new", "max_tokens": 4})
    assert status == 200
    assert list(stream)[-1] == b"data: [DONE]"
    wait_until(lambda: names() == [second])
    file.write_text("nonsense = 1")
    running.send(signal.SIGHUP)
    wait_until(lambda: "not reloaded" in running.log)
    assert fetch(running.url, COMPLETIONS, {"prompt": "still", "max_tokens": 4})[0] == 200
