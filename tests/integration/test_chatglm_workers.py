"""One ChatGLM child for all workers of gunicorn: the real library, a real Redis, kill -9."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import redis_servers
from tests.redis_servers import RedisServer
from tools import made_up_chatglm as made_up
from tools.processes import ROOT, Child, Died, Gateway, ModelServer, ask, held_port

from .child_processes import command, descendants, until
from .conftest import StartGateway
from .test_state import _slots, _workers

pytest.importorskip("chatglm_cpp", reason="not installed: python -m tools.chatglm install")
pytest.importorskip("redis", reason="the extra redis is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/net"), reason="reads Linux's /proc"),
]

BUNDLED = ROOT / "models" / "tinychat-chatglm3.bin"


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(redis_servers.first(), tmp_path_factory.mktemp("redis"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def flags(redis_server: RedisServer, tmp_path: Path) -> Callable[..., list[str]]:
    """Flags of a gateway that shares nothing with other tests."""

    def make(model: Path, workers: int, *more: str) -> list[str]:
        state = ["--state", redis_server.url, "--state-name", f"chatglm-{tmp_path.name}"]
        own = ["--chatglm-model", str(model), "--workers", str(workers), "--data", str(tmp_path)]
        return [*state, *own, *more]

    return make


@pytest.fixture(scope="module")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return made_up.write(folder / "babbler.bin", n_ctx=2 * made_up.LONG)


@pytest.fixture(scope="module")
def two(redis_server: RedisServer, babbler: Path, module_gateway: StartGateway) -> Gateway:
    """Two workers with a model that never ends by itself."""
    state = ["--state", redis_server.url, "--state-name", "two", "--workers", "2"]
    one = module_gateway(*state, "--chatglm-model", str(babbler), "--data", str(babbler.parent))
    shared(one, one.url, 2, babbler)
    return one


@pytest.fixture
def bundled(tmp_path: Path) -> Path:
    """A separate file for each test, which identifies its children."""
    if not BUNDLED.is_file():
        pytest.skip("models/tinychat-chatglm3.bin is not there")
    own = tmp_path / "tinychat.bin"
    shutil.copyfile(BUNDLED, own)
    return own


def engines(model: Path) -> list[int]:
    """The processes that run this file, with any parent."""
    path = str(model)
    pids = [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]
    said = {pid: command(pid) for pid in pids}
    return [pid for pid, one in said.items() if "chatglm.engine" in one and path in one]


def shared(gateway: Child, url: str, workers: int, model: Path) -> None:
    """Waits until `workers` workers share the slots and the model, and each knows it is up."""
    until(lambda: _slots(url).get("workers") == workers)
    until(lambda: gateway.log.count(f"backend {model.stem} is up: ") >= workers)


class Asked:
    """A chat on its own connection, whose socket identifies the worker."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=90)
        self._connection.connect()
        self._server = self._connection.port
        self._port = self._connection.sock.getsockname()[1]

    def chat(self, text: str = "你好", tokens: int = 8, **more: Any) -> Asked:
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, **more}
        head = {"Content-Type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), head)
        return self

    def lines(self) -> Iterator[bytes]:
        """Of a stream, once its answer begins."""
        answer = self._connection.getresponse()
        assert answer.status == 200
        try:
            while line := answer.readline():
                yield line
        except (OSError, http.client.HTTPException):
            return  # cut off
        finally:
            answer.close()
            self.close()

    def told(self) -> dict[str, Any]:
        answer = self._connection.getresponse()
        try:
            told: dict[str, Any] = {"status": answer.status, **json.loads(answer.read())}
            return told
        finally:
            self.close()

    def worker(self, pids: list[int]) -> int:
        """The pid that has the other end; it must have received a request."""
        ends = [self._server, self._port]
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        (inode,) = (row[9] for row in rows if [_port(row[1]), _port(row[2])] == ends)
        for pid in pids:
            for number in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if os.readlink(number) == f"socket:[{inode}]":
                        return pid
        raise AssertionError("no worker has it")

    def close(self) -> None:
        self._connection.close()


def _port(address: str) -> int:
    """Of an address in /proc/net/tcp."""
    return int(address.split(":")[1], 16)


def say(url: str, text: str = "你好", tokens: int = 8, **more: Any) -> dict[str, Any]:
    return Asked(url).chat(text, tokens, **more).told()


def at_worker(url: str, pids: list[int], wanted: int) -> Asked:
    """A connection to this worker, tried repeatedly: the kernel chooses who accepts."""
    for _ in range(100):
        asked = Asked(url)
        asked._connection.request("GET", "/livez")
        asked._connection.getresponse().read()
        if asked.worker(pids) == wanted:
            return asked
        asked.close()
    raise AssertionError("it accepts nothing")


def babble(asked: Asked) -> Iterator[bytes]:
    """A long answer whose first token has arrived."""
    lines = asked.chat("first", made_up.LONG, stream=True).lines()
    while b'"content":"' not in next(lines):
        pass
    return lines


def test_all_workers_share_one_child(
    gateway: StartGateway, flags: Callable[..., list[str]], bundled: Path
) -> None:
    one = gateway(*flags(bundled, 4))
    shared(one, one.url, 4, bundled)
    pids = _workers(one)
    assert len(pids) == 4
    for pid in pids:
        assert at_worker(one.url, pids, pid).chat().told()["status"] == 200

    alone = say(one.url, temperature=0)["choices"]
    assert alone[0]["message"]["content"]
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda _: say(one.url, temperature=0), range(8)))
    assert [one["choices"] for one in said] == [alone] * 8
    assert len(engines(bundled)) == 1
    # Only the master is killed: its workers notice and end, and the child with them.
    os.kill(one.pid, signal.SIGKILL)
    until(lambda: not engines(bundled), 60)
    until(lambda: not any(command(pid) for pid in pids))


def test_clients_of_all_workers_share_one_queue(two: Gateway) -> None:
    """On any workers: the second request is queued while the first is answered."""
    pids = _workers(two)
    lines = babble(at_worker(two.url, pids, pids[0]))
    other = at_worker(two.url, pids, pids[1]).chat()
    until(lambda: len(_slots(two.url)["queue"]) == 1)
    (backend,) = _slots(two.url)["backends"]
    assert [slot["state"] for slot in backend["slots"]] == ["busy"]
    lines.close()  # type: ignore[attr-defined]
    assert other.told()["choices"][0]["finish_reason"] == "length"
    until(lambda: not _slots(two.url)["queue"])


def test_child_kill_during_an_answer_lets_the_next_succeed(two: Gateway, babbler: Path) -> None:
    lines = babble(Asked(two.url))
    (engine,) = engines(babbler)
    os.kill(engine, signal.SIGKILL)
    assert b"the model process exited" in b"".join(lines)
    for number in range(6):  # of whatever worker
        told = say(two.url, f"{number}", 3)
        assert told["status"] == 200, told
        assert told["usage"]["completion_tokens"] == 3
    (other,) = engines(babbler)
    assert other != engine


def test_worker_kill_during_an_answer_frees_the_engine(two: Gateway, babbler: Path) -> None:
    """The worker that started the child is killed: the other one keeps using it."""
    (engine,) = engines(babbler)
    (owner,) = [pid for pid in _workers(two) if engine in descendants(pid)]
    lines = babble(at_worker(two.url, _workers(two), owner))
    os.kill(owner, signal.SIGKILL)
    at = time.monotonic()
    assert b"[DONE]" not in b"".join(lines)
    assert say(two.url, "next", 3)["usage"]["completion_tokens"] == 3
    assert time.monotonic() - at < 60, "the others bury a worker after six seconds"
    assert engines(babbler) == [engine]
    until(lambda: _slots(two.url).get("workers") == 2)
    # The worker that started the child has ended, so another one starts the next child.
    os.kill(engine, signal.SIGKILL)
    until(lambda: say(two.url, "next", 3)["status"] == 200)
    (other,) = engines(babbler)
    assert other != engine


def test_child_ends_when_all_workers_are_killed(two: Gateway, babbler: Path) -> None:
    """The last test of this gateway."""
    workers = _workers(two)
    assert len(engines(babbler)) == 1
    asked = Asked(two.url).chat("€" * 500, made_up.LONG, stream=True)
    until(lambda: "busy" in str(_slots(two.url)["backends"]))
    for pid in (two.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not engines(babbler), 60)
    asked.close()


def test_lazy_model_is_loaded_and_unloaded_across_workers(
    gateway: StartGateway, flags: Callable[..., list[str]], bundled: Path
) -> None:
    lazy = {"SLOTPROXY_CHATGLM_LOAD": "lazy", "SLOTPROXY_CHATGLM_UNLOAD": "2"}
    one = gateway(*flags(bundled, 2), env=lazy)
    until(lambda: _slots(one.url).get("workers") == 2)
    assert not engines(bundled)
    for _ in range(2):
        answer = say(one.url, temperature=0)
        assert answer["status"] == 200
        assert len(engines(bundled)) == 1
        until(lambda: not engines(bundled))
        assert one.is_ready()
    assert "its process exited" not in one.log


def test_plain_gunicorn_workers_share_the_child(
    redis_server: RedisServer, bundled: Path, tmp_path: Path
) -> None:
    """Without our flags and hooks: another folder has no gunicorn.conf.py."""
    port = held_port()
    words = ["gunicorn", "-w", "2", "-k", "gevent", "-b", f"127.0.0.1:{port}", "proxy.wsgi"]
    env = {
        "PYTHONPATH": str(ROOT),
        "SLOTPROXY_STATE": redis_server.url,
        "SLOTPROXY_STATE_NAME": f"chatglm-{tmp_path.name}",
        "SLOTPROXY_CHATGLM_MODEL": str(bundled),
        "SLOTPROXY_DATA": str(tmp_path),
    }
    one = Child([sys.executable, "-m", *words], tmp_path / "gunicorn.log", env, cwd=tmp_path)
    url = f"http://127.0.0.1:{port}"
    one.launch()
    try:
        shared(one, url, 2, bundled)
        assert {say(url, tokens=2)["status"] for _ in range(6)} == {200}
        assert len(engines(bundled)) == 1
        assert one.stop() == 0
        until(lambda: not engines(bundled), 60)
    finally:
        one.kill()


def test_engine_in_a_thread_requires_one_worker(
    gateway: StartGateway, flags: Callable[..., list[str]], bundled: Path
) -> None:
    with pytest.raises(Died, match='only isolation = "process"'):
        gateway(*flags(bundled, 2), env={"SLOTPROXY_CHATGLM_ISOLATION": "thread"})


@pytest.mark.alone
def test_long_prompt_stalls_no_other_client(
    gateway: StartGateway,
    flags: Callable[..., list[str]],
    bundled: Path,
    old_server: ModelServer,
) -> None:
    """Pauses of another backend's stream, while prompts of 1 500 tokens are evaluated one after
    the other: only that nothing waits for a prompt is asserted here, for the machine has other
    work; `benchmarks.chatglm_stall` tells the figures."""
    one = gateway(*flags(bundled, 2, "--llama-api", old_server.url, "--slots", "2"))
    shared(one, one.url, 2, bundled)
    backends = json.loads(ask(f"{one.url}/v1/backends")[1])["data"]
    (other,) = [found["model"] for found in backends if found["id"] != bundled.stem]
    took: list[float] = []
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            body = say(one.url, "€" * 490, 1, model=bundled.stem)
            assert body["usage"]["prompt_tokens"] > 1400
            took.append(body["timings"]["prompt_ms"] / 1000)

    thread = threading.Thread(target=load)
    thread.start()
    gaps: list[float] = []
    try:
        while len(took) < 2:
            last = 0.0
            for line in Asked(one.url).chat("Hello", 300, stream=True, model=other).lines():
                now = time.monotonic()
                if line.startswith(b"data:"):
                    gaps += [now - last] if last else []
                    last = now
    finally:
        over.set()
        thread.join()
    gaps.sort()
    assert len(gaps) > 100
    assert gaps[int(len(gaps) * 0.99)] < min(took) / 2
