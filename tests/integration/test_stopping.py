"""What a stop does to what takes longer than its grace, seen from outside: by the client, in the
log, in the ledger, and by the model's server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fakes import gone, key_file, wait_until
from tests.redis_servers import RedisServer
from tests.ws import connected
from tools.processes import Child, Gateway, ask

from .asking import in_flight
from .child_processes import command, descendants
from .conftest import QUIET

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads Linux's /proc")

GRACE = 1
SOON = 12.0  # seconds for a stop whose grace is one second, on a busy machine
IMPATIENT = """
import sys
from proxy.runtime import life
life.GRACE = %d
from proxy.__main__ import main
sys.exit(main())
"""
SERVERS = {"gevent": [], "waitress": ["--server", "waitress"]}
WHY = "the gateway is stopping"
CODE = "gateway_stopping"
# By API: the path, the body of a stream that does not end, and the part that says why it ended.
Body = dict[str, Any]
HELLO: Body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
STREAMS: dict[str, tuple[str, Body]] = {
    "openai": ("/v1/chat/completions", {**HELLO, "stream": True}),
    "completions": ("/v1/completions", {"model": "m", "prompt": "Hello", "stream": True}),
    "responses": ("/v1/responses", {"model": "m", "input": "Hello", "stream": True}),
    "anthropic": ("/v1/messages", {**HELLO, "max_tokens": 4000, "stream": True}),
    "ollama": ("/api/chat", {**HELLO, "stream": True}),
    "llamacpp": ("/completion", {"model": "m", "prompt": "Hello", "stream": True}),
}


def make_impatient(gateway: Gateway, grace: int = GRACE) -> None:
    at = gateway.command.index("-m")
    gateway.command[at : at + 2] = ["-c", IMPATIENT % grace]


class Scene:
    """A gateway that starts the model `m` itself; `two`: and `n`."""

    def __init__(
        self,
        folder: Path,
        *flags: str,
        load: float = 0.0,
        slots: int = 8,
        two: bool = False,
        grace: int = GRACE,
    ) -> None:
        self.notes = folder / "notes"
        self.data = folder / "data"
        words = [sys.executable, "-m", "tests.integration.slow_model", "--port", "${PORT}"]
        words += ["--notes", str(self.notes), "--load", str(load), "--slots", str(slots)]
        ending = ["sh", "-c", f"echo stop command >> {self.notes}; kill -TERM $0", "${PID}"]
        root = str(Path(__file__).parents[2])
        file = folder / "slotproxy.toml"
        with file.open("w") as settings:
            for name in ("m", "n") if two else ("m",):
                values: dict[str, Any] = {"name": name, "command": words, "stop": ending}
                values |= {"folder": root, "save_slots": True}
                lines = [f"{key} = {json.dumps(value)}\n" for key, value in values.items()]
                settings.write("".join(["[[model]]\n", *lines]))
        self.flags = ("--config", str(file), "--data", str(self.data), "--chat-template", "legacy")
        self.gateway = Gateway((*self.flags, *flags), folder / "gateway.log", env=QUIET)
        make_impatient(self.gateway, grace)
        self.gateway.start()

    @property
    def log(self) -> str:
        return self.gateway.log

    def lines(self) -> list[dict[str, Any]]:
        """The access log."""
        entries = (line for line in self.log.splitlines() if line.startswith('{"'))
        return [json.loads(line) for line in entries]

    def ledger(self) -> list[tuple[str, str]]:
        """API and outcome of each row."""
        with contextlib.closing(sqlite3.connect(self.data / "slotproxy.db")) as db:
            return db.execute("select api, outcome from ledger_row order by id").fetchall()

    def server(self) -> int:
        """The pid of the model's server."""
        return next(pid for pid in descendants(self.gateway.pid) if "slow_model" in command(pid))

    def ask(self, content: str, model: str = "m") -> None:
        body = {"model": model, "messages": [{"role": "user", "content": content}]}
        url = f"{self.gateway.url}/v1/chat/completions"
        assert httpx.post(url, json=body, timeout=60).status_code == 200

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Stop it; returns after how many seconds it has ended."""
        began = time.monotonic()
        self.gateway.send(number)
        assert self.gateway.wait() in (0, -signal.SIGINT), self.log
        return time.monotonic() - began


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    made: list[Scene] = []

    def make(*flags: str, **options: Any) -> Scene:
        made.append(Scene(tmp_path, *flags, **options))
        return made[-1]

    yield make
    for scene in made:
        scene.gateway.kill()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def streamed(url: str, path: str, body: Body, seen: list[str]) -> str:
    """The whole stream; `seen` gets a word as soon as it begins."""
    text = ""
    with httpx.stream("POST", url + path, json=body, timeout=60) as answer:
        for piece in answer.iter_text():
            text += piece
            seen.append(piece)
    return text


def posted(url: str, path: str, body: Body) -> httpx.Response:
    return httpx.post(url + path, json=body, timeout=60)


def has_begun(seen: list[str]) -> bool:
    return "word" in "".join(seen)


def begin_streams(scene: Scene, threads: ThreadPoolExecutor, names: Any) -> dict[str, Future[str]]:
    running: dict[str, Future[str]] = {}
    for name in names:
        seen: list[str] = []
        running[name] = threads.submit(streamed, scene.gateway.url, *STREAMS[name], seen)
        wait_until(partial(has_begun, seen), 60)
    return running


def check_end(name: str, text: str) -> None:
    """Whether a stream of this API ends with an error that says why."""
    assert WHY in text, text[-500:]
    last = [line for line in text.splitlines() if line.strip()]
    if name == "responses":
        assert "event: response.failed" in last, text[-500:]
    elif name == "anthropic":
        assert "event: error" in last
        assert "message_stop" not in text
    else:
        assert '"error"' in text
        assert '"finish_reason":"stop"' not in text.replace(" ", "")


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_streams_end_with_an_error_and_all_is_counted(
    start: Callable[..., Scene], threads: ThreadPoolExecutor, server: str, number: int
) -> None:
    scene = start(*SERVERS[server])
    scene.ask("BRIEF " * 2000)
    names = ["openai", "anthropic"] if server == "waitress" else [*STREAMS]
    running = begin_streams(scene, threads, names)
    pid = scene.server()
    seconds = scene.stop(number)
    assert seconds < SOON
    if number == signal.SIGTERM:
        assert seconds >= GRACE
    for name, stream in running.items():
        check_end(name, stream.result(60))
    assert len([line for line in scene.lines() if line.get("outcome") == CODE]) == len(running)
    outcomes = [outcome for _, outcome in scene.ledger()]
    assert sorted(outcomes) == sorted(["ok", *[CODE] * len(running)])
    assert gone(pid)
    assert scene.notes.read_text() == "stop command\nSIGTERM\n"
    # On a busy machine, even a stream was long enough for a file.
    assert re.search(r"model m: saved (\d) of \1 slots", scene.log), scene.log
    assert "Traceback" not in scene.log


def asking(scene: Scene) -> int:
    """The requests that ask a model at the moment."""
    text = httpx.get(f"{scene.gateway.url}/metrics", timeout=60).text
    counts = re.findall(r"^vllm:num_requests_running{.*} (\S+)", text, re.M)
    assert counts, text
    return int(sum(map(float, counts)))


def heeds_signals(scene: Scene) -> bool:
    """Whether the model's server has begun to serve, before which a signal just ends it."""
    commands = map(command, descendants(scene.gateway.pid))
    ports = [
        match[1] for words in commands if (match := re.search(r"slow_model --port (\d+)", words))
    ]
    return bool(ports) and ask(f"http://127.0.0.1:{ports[0]}/health")[0] == 503


def test_request_that_waits_for_a_load_gets_an_error(
    start: Callable[..., Scene], threads: ThreadPoolExecutor
) -> None:
    scene = start("--metrics", load=60.0)
    path = "/v1/chat/completions"
    waits = [
        threads.submit(posted, scene.gateway.url, path, {**HELLO, "stream": stream})
        for stream in (False, True)
    ]
    wait_until(lambda: asking(scene) == 2 and heeds_signals(scene), 60)
    pid = scene.server()
    assert scene.stop() < SOON
    for answer in waits:
        assert WHY in answer.result(60).text
    whole = waits[0].result()
    assert whole.status_code == 503
    assert int(whole.headers["retry-after"]) > 0
    assert [outcome for _, outcome in scene.ledger()] == [CODE, CODE]
    assert len([line for line in scene.lines() if line.get("outcome") == CODE]) == 2
    assert scene.notes.read_text() == "stop command\nSIGTERM\n"
    assert gone(pid)


def test_request_in_the_queue_gets_an_error(
    start: Callable[..., Scene], threads: ThreadPoolExecutor
) -> None:
    scene = start(slots=1)
    running = begin_streams(scene, threads, ["openai"])
    waits = threads.submit(posted, scene.gateway.url, "/v1/chat/completions", HELLO)
    slots = f"{scene.gateway.url}/v1/slots"
    wait_until(lambda: len(httpx.get(slots).json()["queue"]) == 1, 60)
    assert not waits.done()
    assert scene.stop() < SOON
    check_end("openai", running["openai"].result(60))
    assert waits.result(60).status_code == 503
    assert waits.result().json()["error"]["code"] == CODE
    assert [outcome for _, outcome in scene.ledger()] == [CODE, CODE]


def test_websocket_gets_an_error_and_is_closed(start: Callable[..., Scene]) -> None:
    scene = start()
    with connected(scene.gateway.url) as client:
        client.say({"type": "response.create", "model": "m", "input": "Hello", "store": False})
        events = client.answer()
        while next(events)["type"] != "response.output_text.delta":
            pass
        began = time.monotonic()
        scene.gateway.send(signal.SIGTERM)
        *_, last = events
        assert last["type"] == "response.failed"
        assert WHY in last["response"]["error"]["message"]
        assert client.closed() == 1001
    assert scene.gateway.wait() == 0
    assert time.monotonic() - began < SOON
    assert ("responses", CODE) in scene.ledger()
    assert any(line.get("outcome") == CODE for line in scene.lines())


def test_batch_is_given_back_and_continued(start: Callable[..., Scene]) -> None:
    scene = start()
    url = scene.gateway.url
    lines = [
        {"custom_id": f"l{n}", "method": "POST", "url": "/v1/chat/completions", "body": HELLO}
        for n in range(2)
    ]
    data = "\n".join(map(json.dumps, lines))
    file = httpx.post(
        f"{url}/v1/files", files={"file": ("a.jsonl", data)}, data={"purpose": "batch"}
    ).json()["id"]
    body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = httpx.post(f"{url}/v1/batches", json=body).json()["id"]
    wait_until(lambda: httpx.get(f"{url}/v1/batches/{batch}").json()["status"] == "in_progress", 60)

    wait_until(lambda: in_flight(url) == len(lines), 60)
    assert scene.stop() < SOON
    assert CODE in {outcome for _, outcome in scene.ledger()}
    scene.gateway.start()
    status = httpx.get(f"{scene.gateway.url}/v1/batches/{batch}").json()
    assert status["status"] == "in_progress"
    assert status["request_counts"]["failed"] == 0


def test_idle_model_ends_at_once_while_an_answer_goes_on(
    start: Callable[..., Scene], threads: ThreadPoolExecutor
) -> None:
    scene = start(two=True, grace=20)
    scene.ask("BRIEF", "n")
    idle = scene.server()
    running = begin_streams(scene, threads, ["openai"])
    scene.gateway.send(signal.SIGTERM)
    wait_until(lambda: gone(idle), 10)
    assert not running["openai"].done()
    scene.gateway.send(signal.SIGINT)  # no patience any more
    check_end("openai", running["openai"].result(10))


def test_requests_that_cross_with_a_stop_are_answered(start: Callable[..., Scene]) -> None:
    """Clients cannot know that the gateway stops. What they send at that time, on idle and on new
    connections, must neither be reset nor count as a client that has left (499). The bodies of some
    come behind the signal."""
    scene = start(slots=16, grace=20)
    at = urlsplit(scene.gateway.url)
    body = json.dumps({**HELLO, "messages": [{"role": "user", "content": "BRIEF"}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)

    def connected() -> list[socket.socket]:
        return [socket.create_connection((at.hostname or "", at.port or 0), 60) for _ in range(8)]

    clients = connected()
    for client in clients:
        client.sendall(head + body)
        assert status_of(client) == 200
    (worker,) = (pid for pid in descendants(scene.gateway.pid) if "--config" in command(pid))
    status_file = Path(f"/proc/{worker}/status")
    os.kill(worker, signal.SIGSTOP)
    wait_until(lambda: bool(re.search("State:\\s+T", status_file.read_text())), 60)
    clients += connected()
    for number, client in enumerate(clients):
        client.sendall(head if number % 2 else head + body)
    scene.gateway.send(signal.SIGTERM)
    pending = re.compile("ShdPnd:.*4...$", re.M)  # SIGTERM
    wait_until(lambda: bool(pending.search(status_file.read_text())), 60)
    os.kill(worker, signal.SIGCONT)
    time.sleep(0.1)  # the worker has begun to stop: these bodies come behind the signal
    for client in clients[1::2]:
        client.sendall(body)
    assert [status_of(client) for client in clients] == [200] * 16
    for client in clients:
        client.close()
    assert scene.gateway.wait() == 0
    assert [outcome for _, outcome in scene.ledger()] == ["ok"] * 24


def status_of(client: socket.socket) -> int:
    """The status of the whole answer that a client reads."""
    answer = http.client.HTTPResponse(client)
    answer.begin()
    answer.read()
    return answer.status


def test_gunicorns_own_flag_is_the_grace(tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = [sys.executable, "-m", "gunicorn", "proxy.wsgi"]
    env = {
        **QUIET,
        "SLOTPROXY_PORT": "0",
        "SLOTPROXY_LLAMA_API": "http://127.0.0.1:9",
        "GUNICORN_CMD_ARGS": "--graceful-timeout 1",
    }
    child = Child(words, log, env)
    try:
        child.launch()
        wait_until(lambda: "listening on" in child.log, 60)
        began = time.monotonic()
        assert child.stop() == 0
        assert time.monotonic() - began < SOON
    finally:
        child.kill()


def test_limits_are_settled(redis_server: RedisServer, slow_model: str, tmp_path: Path) -> None:
    """The place of a stream that the stop has ended is free at once, not when its lease ends."""
    keys = key_file(tmp_path, "one sk-one max_parallel_requests=1\n")
    flags = ["--llama-api", slow_model, "--state", redis_server.url]
    flags += ["--api-key-file", keys, "--data", str(tmp_path / "data")]
    gateway = Gateway([*flags, "--chat-template", "legacy"], tmp_path / "gateway.log", env=QUIET)
    make_impatient(gateway)
    headers = {"Authorization": "Bearer sk-one"}
    try:
        gateway.start()
        url = f"{gateway.url}/v1/chat/completions"
        body = {**HELLO, "stream": True}
        with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as stream:
            pieces = stream.iter_text()
            next(pieces)
            assert httpx.post(url, json=HELLO, headers=headers).status_code == 429
            gateway.send(signal.SIGTERM)
            assert WHY in "".join(pieces)
        assert gateway.wait() == 0
        gateway.start()
        url = f"{gateway.url}/v1/chat/completions"  # on another port
        body = {**HELLO, "messages": [{"role": "user", "content": "BRIEF"}]}
        answer = httpx.post(url, json=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
    finally:
        gateway.kill()
