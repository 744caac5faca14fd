"""The life of a model that the gateway starts itself. Its server is a small program."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from proxy.backends.http import CheckPeer
from proxy.backends.pools import Backend
from proxy.config import Settings
from proxy.config.models import words
from proxy.core.task import Task
from proxy.errors import (
    BackendDown,
    Cancelled,
    GatewayError,
    QueueFull,
    UpstreamFault,
    UpstreamTimeout,
)
from proxy.hosting.driver import HostedDriver
from proxy.hosting.memory_budget import Limits, MemoryBudget
from proxy.hosting.model import HostedModel
from proxy.hosting.model_files import adapters, missing_file
from proxy.hosting.process import ModelProcess
from proxy.hosting.starting import telling
from proxy.runtime import subprocesses
from proxy.runtime.cancel import Cancel
from tests.apps import app_on
from tests.fakes import CAPS, ScriptedDriver, gone, services_of, wait_until

from . import fakes
from .fakes import FAILS, Make


def pid_of(model: HostedModel) -> int:
    process = model._starter.process
    assert process is not None
    return process.pid


def test_adapters_have_names_before_the_first_load() -> None:
    command = words("server --lora a/poet.gguf,bard.gguf -m m.gguf --lora-scaled=C:/pirate.gguf:0")
    assert [(a.id, a.name, a.scale) for a in adapters(command)] == [
        (0, "poet", 1.0),
        (1, "bard", 1.0),
        (2, "pirate", 0.0),
    ]
    assert adapters(words("server -m m.gguf")) == ()


def test_model_starts_with_its_first_use_and_is_shared(
    make: Make, pool: ThreadPoolExecutor
) -> None:
    connect = fakes.fake()
    model = make(connect=connect)
    assert (model.status, connect.made) == ("unloaded", 0)
    servers = set(pool.map(lambda _: id(fakes.use(model)), range(5)))
    assert (model.status, connect.made, model.users) == ("loaded", 1, 5)
    assert len(servers) == 1


def test_changes_of_status_are_reported(make: Make) -> None:
    model, seen = make(), []
    model.on_change = lambda: seen.append(model.status)
    fakes.use(model)
    model.leave(answered=True)
    model.stop()
    wait_until(lambda: "unloaded" in seen)  # told a moment after it is so
    assert seen == ["loading", "loaded", "stopping", "unloaded"]


def test_failed_start_tells_the_last_lines_without_folders_and_addresses(make: Make) -> None:
    model = make(FAILS, connect=fakes.SilentServer)
    with pytest.raises(UpstreamFault) as caught:
        fakes.use(model)
    assert caught.value.code == "model_load_failed"
    why = "the model m failed to load: its server ended with exit code 3: no such file"
    assert caught.value.message == f"{why}: … at …"
    assert caught.value.details == "no such file: … at …"
    caught.value.show_to(lambda name: name)
    assert "/home" not in caught.value.message
    caught.value.show_to(str)
    assert caught.value.message == f"{why}: /home/me/x.gguf at 127.0.0.1:8080"
    assert caught.value.details == "no such file: /home/me/x.gguf at 127.0.0.1:8080"
    wait_until(lambda: model.status == "failed")


def test_failed_start_awaits_lines_that_are_still_on_their_way(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(FAILS, connect=fakes.SilentServer)
    add = model.log.add

    def late(line: bytes) -> None:
        assert is_asked.wait(60)
        add(line)

    is_asked = threading.Event()
    read_out = ModelProcess.read_out

    def asking(process: ModelProcess) -> None:
        is_asked.set()
        read_out(process)

    monkeypatch.setattr(model.log, "add", late)
    monkeypatch.setattr(ModelProcess, "read_out", asking)
    with pytest.raises(UpstreamFault, match="no such file"):
        fakes.use(model)


def test_failed_start_is_not_repeated_for_requests_that_waited_for_it(make: Make) -> None:
    model = make(FAILS, connect=fakes.SilentServer)
    for count in (1, 2):
        with pytest.raises(UpstreamFault):
            fakes.use(model)
        assert model._restarts.failures == count
    assert model.log.text().count("no such file") == 2


def test_hopeless_model_is_refused_within_its_pause(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocesses, "FIRST_PAUSE", 0.01)
    model = make(FAILS, connect=fakes.SilentServer)
    for _ in range(2):
        with pytest.raises(UpstreamFault):
            fakes.use(model)
    monkeypatch.setattr(subprocesses, "FIRST_PAUSE", 30.0)
    with pytest.raises(UpstreamFault):
        fakes.use(model)
    began = time.monotonic()
    with pytest.raises(UpstreamFault) as caught:
        fakes.use(model)
    assert time.monotonic() - began < 10.0  # the pause is of thirty seconds
    assert caught.value.retry_after is not None
    assert 20 < caught.value.retry_after <= 60
    assert model.log.text().count("no such file") == 3


@pytest.mark.parametrize(
    ("command", "fields", "faults", "message"),
    [
        ("no-such-program ${PORT}", {}, (), "its program does not exist"),
        (fakes.RUNS, {"folder": "/no/such/folder"}, (), "No such file or directory"),
        (fakes.RUNS, {"start_timeout": 0.1}, (), "not ready within start_timeout"),
        (fakes.RUNS, {}, (UpstreamTimeout("timed out before the first token"),), "first token"),
    ],
)
def test_start_that_fails_says_why(
    make: Make, command: str, fields: dict[str, Any], faults: Any, message: str
) -> None:
    connect = fakes.fake() if faults else fakes.SilentServer
    connect.faults = faults
    model = make(command, connect=connect, **fields)
    with pytest.raises(UpstreamFault, match=message):
        fakes.use(model)
    wait_until(lambda: model._starter.process is None)


@pytest.mark.parametrize("content", [None, b"<html>not found"])
def test_a_model_without_its_file_has_failed_before_it_is_tried(
    make: Make, tmp_path: Path, content: bytes | None
) -> None:
    server, file = tmp_path / "llama-server", tmp_path / "x.gguf"
    server.symlink_to("/bin/sh")
    if content:
        file.write_bytes(content)
    model = make(f"{server} -m {file} --port ${{PORT}}")
    driver = HostedDriver(model, tick=1.0, timeout=60.0)
    driver.probe(1.0)
    assert driver.status == "failed"
    assert driver.trouble().startswith("the model m failed to load: its model file ")
    with pytest.raises(UpstreamFault, match="its model file"):
        fakes.use(model)
    file.write_bytes(b"GGUF")
    wait_until(lambda: (driver.refresh(), driver.status)[1] == "unloaded")
    assert not driver.trouble()


def test_a_model_without_its_file_is_not_the_default(make: Make, tmp_path: Path) -> None:
    server = tmp_path / "llama-server"
    server.symlink_to("/bin/sh")
    model = make(f"{server} -m /nope/x.gguf --port ${{PORT}}")
    lost = Backend("m", "", HostedDriver(model, tick=1.0, timeout=60.0), set_model="m")
    backends = [lost, Backend("b", "test://b", ScriptedDriver())]
    client = app_on(backends, Settings(data="", local_embeddings=False)).test_client()
    registry = services_of(client.application).gateway.registry
    wait_until(lambda: registry.settled)
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    for name in ("", "claude-opus-4-8"):
        answer = client.post("/v1/chat/completions", json={**body, "model": name})
        assert answer.json is not None
        assert answer.json["model"] == "scripted"
    listed = client.get("/v1/models").json
    assert listed is not None
    assert listed["data"][0]["status"] == {"value": "unloaded", "failed": True}
    registry.close()


def test_a_model_that_cannot_load_unloads_no_other(make: Make, tmp_path: Path) -> None:
    server = tmp_path / "llama-server"
    server.symlink_to("/bin/sh")
    room = MemoryBudget(Limits(models=1))
    loaded = make(room=room)
    fakes.use(loaded)
    loaded.leave(answered=True)
    lost = make(f"{server} -m /nope/x.gguf --port ${{PORT}}", room=room)
    with pytest.raises(UpstreamFault) as caught:
        fakes.use(lost)
    assert caught.value.message == "the model m failed to load: its model file does not exist"
    caught.value.show_to(str)
    assert "its file /nope/x.gguf does not exist: correct its command" in caught.value.message
    wait_until(lambda: lost.status == "failed")
    assert loaded.status == "loaded"
    driver = HostedDriver(lost, tick=1.0, timeout=10.0)
    assert driver.trouble() == "the model m failed to load: its model file does not exist"
    assert "/nope/x.gguf" in driver.trouble(admin=True)


@pytest.mark.parametrize(
    "command",
    [
        "docker run llama -m /models/x.gguf",  # in a container
        "llama-server -hf me/x -hff x.gguf",  # downloads
        "llama-server --model-url http://a/x -m /cache/x.gguf",
        "llama-server --models-dir /models",
    ],
)
def test_files_of_other_systems_need_not_exist(command: str) -> None:
    assert not missing_file(fakes.config(f"{command} --port ${{PORT}}"))


# Output of real servers, shortened.
LOGS = {
    "2026": """0.00.005.313 E llama_model_load_from_file_impl: failed to load model
0.00.005.367 E gguf_init_from_file: failed to open GGUF file 'x.gguf' (No such file or directory)
0.00.005.410 E srv    load_model: failed to load model, 'x.gguf'""",
    "2023": """error loading model: failed to open x.gguf: No such file or directory
llama_load_model_from_file: failed to load model""",
    "memory": """0.00.170.272 E ggml_aligned_malloc: insufficient memory (attempted: 2 MB)
0.00.174.994 E llama_init_from_model: failed to initialize the context: failed to allocate""",
    "flag": "usage: llama-server\nerror: invalid argument: --banana",
    "python": "INFO starting\nTraceback (most recent call last):\nValueError: no such model",
    "silent": "loading\ndone",
}


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("2026", "gguf_init_from_file: failed to open GGUF file 'x.gguf' (No such file or"),
        ("2023", "error loading model: failed to open x.gguf: No such file or directory"),
        ("memory", "ggml_aligned_malloc: insufficient memory (attempted: 2 MB)"),
        ("flag", "error: invalid argument: --banana"),
        ("python", "ValueError: no such model"),
        ("silent", ""),
    ],
)
def test_the_most_telling_line_is_the_cause(log: str, line: str) -> None:
    cause = telling(LOGS[log].splitlines())
    assert cause.startswith(line) and bool(cause) == bool(line)


def test_server_that_loads_behind_an_open_port_is_asked_again(make: Make) -> None:
    connect = fakes.fake()
    connect.faults = (BackendDown("the backend is loading its model"),) * 2
    model = make(connect=connect)
    fakes.use(model)
    assert model.status == "loaded"


def test_dead_server_is_started_again_by_the_next_use(make: Make) -> None:
    model = make()
    fakes.use(model)
    first = pid_of(model)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: model.status == "failed")
    assert model.lost
    model.leave(answered=False)
    fakes.use(model)
    assert pid_of(model) != first
    assert model.error is None


def test_request_that_begins_as_its_server_dies_gets_an_error_and_keeps_nothing(make: Make) -> None:
    """A model with a user too many would never be unloaded again."""
    doomed: list[int] = []

    class Late(threading.Condition):
        """The thread of the request does not run between this and the end of the server."""

        def __exit__(self, *args: Any) -> None:
            super().__exit__(*args)
            ours = threading.current_thread() is threading.main_thread()
            if ours and doomed and model.users:
                server = model.server
                os.kill(doomed.pop(), signal.SIGKILL)
                wait_until(lambda: model.server is not server)  # the next one may be there already

    room = MemoryBudget()
    room.changed = Late()
    model = make(room=room)
    fakes.use(model)
    model.leave(answered=True)
    doomed.append(pid_of(model))
    driver = HostedDriver(model, tick=1.0, timeout=10.0)
    run = driver.stream(Task(prompt="hi", max_tokens=1), 0, CAPS, Cancel())
    with pytest.raises(GatewayError):
        list(run)
    run.close()
    assert model.users == 0


def test_count_of_a_chat_ends_with_its_client_while_the_model_loads(make: Make) -> None:
    model = make(connect=fakes.SilentServer)
    cancel = Cancel()
    threading.Timer(0.2, cancel.cancel).start()
    task = Task(prompt="hi", max_tokens=1, backend_templates=True)
    with pytest.raises(Cancelled):
        HostedDriver(model, tick=0.05, timeout=60.0).prompt_ids(task, cancel)


def test_idle_model_ends_after_its_ttl(make: Make) -> None:
    model = make(ttl=0.2)
    fakes.use(model)
    pid = pid_of(model)
    wait_until(lambda: time.monotonic() - model.used > 0.4)
    assert model.status == "loaded"  # in use
    model.leave(answered=True)
    wait_until(lambda: model.status == "unloaded")
    wait_until(lambda: gone(pid))
    assert model.lost
    assert model.caps is not None  # remembered


def test_stop_waits_for_the_last_user_and_holds_back_new_ones(
    make: Make, pool: ThreadPoolExecutor
) -> None:
    connect = fakes.fake()
    model = make(connect=connect)
    fakes.use(model)
    model.stop()
    later = pool.submit(fakes.use, model)
    wait_until(lambda: len(model._waiters) == 1)
    assert (model.status, connect.made) == ("loaded", 1)
    model.leave(answered=True)
    later.result(60)
    assert connect.made == 2
    assert model.users == 1


def test_stop_while_it_loads_ends_the_server_and_the_wait_for_it(
    make: Make, pool: ThreadPoolExecutor
) -> None:
    model = make()
    kind = model._starter.connect
    model._starter.connect = fakes.SilentServer
    load = pool.submit(fakes.use, model)
    wait_until(lambda: model._starter.process is not None)
    pid = pid_of(model)
    with model._changed:  # so that its thread does not end it first
        model.stop()
        assert model.status == "stopping"
    error = load.exception(60)
    assert isinstance(error, UpstreamFault) and not isinstance(error, BackendDown)
    assert "unloaded while it was loading" in str(error)
    wait_until(lambda: model.status == "unloaded")
    wait_until(lambda: gone(pid))
    model._starter.connect = kind
    fakes.use(model)
    assert model.status == "loaded", "the next request has it loaded again"
    assert model.error is None


def test_stop_while_it_waits_for_room_ends_the_wait(make: Make, pool: ThreadPoolExecutor) -> None:
    room = MemoryBudget(Limits(models=1))
    first, other = make(name="first", room=room), make(name="other", room=room)
    fakes.use(first)
    load = pool.submit(fakes.use, other, 60.0)
    wait_until(lambda: other.status == "loading")
    other.stop()
    with pytest.raises(UpstreamFault, match="unloaded while it was loading"):
        load.result(10)
    wait_until(lambda: other.status == "unloaded")
    first.leave(answered=True)
    first.stop()
    wait_until(lambda: first.status == "unloaded")
    assert other.status == "unloaded", "nothing waits for it"


def test_server_that_ignores_the_request_to_end_is_killed(make: Make) -> None:
    model = make("sh -c 'trap : TERM; sleep 60 & wait; wait' ${PORT}", stop_timeout=0.2)
    fakes.use(model)
    pid = pid_of(model)
    model.leave(answered=True)
    model.stop()
    wait_until(lambda: gone(pid))


def test_stop_command_replaces_the_signal(make: Make, tmp_path: object) -> None:
    model = make(stop=("sh", "-c", f"echo ${{PID}} > {tmp_path}/stopped; kill -KILL ${{PID}}"))
    fakes.use(model)
    pid = pid_of(model)
    model.leave(answered=True)
    model.stop()
    wait_until(lambda: gone(pid))
    with open(f"{tmp_path}/stopped") as file:
        assert file.read().strip() == str(pid)


def test_children_of_a_server_end_with_it(make: Make) -> None:
    model = make("sh -c 'sleep 61 & echo child $!; wait' ${PORT}")
    fakes.use(model)
    wait_until(lambda: "child" in model.log.text())
    child = int(model.log.text().split()[-1])
    assert not gone(child)
    model.leave(answered=True)
    model.stop()
    wait_until(lambda: gone(child))


def test_waiting_requests_are_bounded(make: Make) -> None:
    model = make(waiting=1, connect=fakes.SilentServer)
    first = fakes.wait(model)
    next(first)
    with pytest.raises(QueueFull, match="waiting for the model m"):
        next(fakes.wait(model))
    first.close()  # type: ignore[attr-defined]
    next(fakes.wait(model))


def test_cancelled_request_stops_waiting(make: Make) -> None:
    model, cancel = make(connect=fakes.SilentServer), Cancel()
    waiting = fakes.wait(model, cancel=cancel)
    assert next(waiting) is None
    cancel.cancel()
    with pytest.raises(Cancelled):
        list(waiting)
    assert model._waiters == []


def test_removed_model_refuses_requests_and_ends(make: Make) -> None:
    model = make()
    fakes.use(model)
    pid = pid_of(model)
    model.close()
    model.join(60)
    assert gone(pid)
    with pytest.raises(GatewayError, match="was removed"):
        fakes.use(model)


def test_environment_and_port_reach_the_program_but_our_settings_do_not(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOTPROXY_API_KEY", "secret")
    command = "sh -c 'echo $WHERE [$SLOTPROXY_API_KEY]; exec sleep 60'"
    model = make(command, environment={"WHERE": "port-${PORT}"})
    server = fakes.use(model)
    wait_until(lambda: "[" in model.log.text())
    assert model.log.text() == f"port-{server.url.rpartition(':')[2]} []\n"


def test_output_of_any_form_is_kept_in_bounded_lines(make: Make) -> None:
    script = "head -c 2500 /dev/zero | tr '\\0' x; echo; printf '\\377\\033[31m\\n'; exec sleep 60"
    model = make(f'sh -c "{script}" ${{PORT}}')
    fakes.use(model)
    wait_until(lambda: model.log.text().count("\n") == 4)
    lines = model.log.text().splitlines()
    assert [len(line) for line in lines] == [1000, 1000, 500, 6]
    assert lines[-1].startswith("\N{REPLACEMENT CHARACTER} [31m")


def test_program_has_the_default_signal_handlers(make: Make) -> None:
    """Python ignores SIGPIPE, and a program would inherit that."""
    model = make("sh -c 'grep SigIgn /proc/self/status; exec sleep 60' ${PORT}")
    fakes.use(model)
    wait_until(lambda: "SigIgn" in model.log.text())
    assert int(model.log.text().split()[-1], 16) & 1 << (signal.SIGPIPE - 1) == 0


def test_ttl_can_be_replaced_until_the_model_is_unloaded(make: Make) -> None:
    model = make()
    model.ttl = 0.05
    assert model.left <= 0.05
    fakes.use(model)
    model.leave(answered=True)
    wait_until(lambda: model.status == "unloaded")
    fakes.use(model)
    model.leave(answered=True)
    assert model.left == float("inf")


def test_model_can_be_loaded_after_an_exception(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    model, connect = make(), fakes.fake()

    def fails(url: str, check: CheckPeer) -> fakes.FakeServer:
        raise RuntimeError("a defect")

    model._starter.connect = fails
    with pytest.raises(UpstreamFault, match="internal error, see the log"):
        fakes.use(model)
    assert "running model m failed" in caplog.text
    model._starter.connect = connect
    fakes.use(model)
    assert model.status == "loaded"


def test_requests_do_not_wait_for_the_database() -> None:
    released = threading.Event()

    class Slow:
        def recall(self, fingerprint: str) -> None:
            return None

        def keep(self, fingerprint: str, need: object) -> None:
            released.wait(60)

    model = fakes.hosted(needs=Slow())
    try:
        fakes.use(model, 30.0)
        assert model.status == "loaded" and model.needs.learned.loaded_at
        model.leave(answered=True)
    finally:
        released.set()
        model.close()
        model.join(60)
