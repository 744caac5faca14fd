"""One child process for several hosts: its start, discovery and end. A script is the engine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.backends.chatglm import protocol
from proxy.backends.chatglm.host import Process, lock_folder, meeting
from proxy.backends.chatglm.protocol import Broken, Load
from tests.fakes import gone, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows runs it in a thread")

PATIENCE = 20.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, as names of sockets are limited."""
    found = meeting("tests", os.getpid())
    yield found
    for one in found.iterdir():
        one.unlink()
    found.rmdir()


@pytest.fixture
def hosts() -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def start(*given: Any) -> Process:
        made.append(Process(*given))
        made[-1].sock.settimeout(PATIENCE)
        return made[-1]

    yield start
    for one in made:
        one.end()


def child(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Runs `script` instead of the engine; `listener` and `alive` are those of the real one."""
    file = folder.with_suffix(".py")
    file.write_text(
        "import os, socket, sys, time\n"
        "from proxy.backends.chatglm import engine\n"
        "listener, alive = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])\n" + script
    )
    real = subprocess.Popen

    def run(command: list[str], **options: Any) -> Any:
        return real([command[0], str(file), *command[4:]], **options)  # python -P -m module …

    monkeypatch.setattr(subprocess, "Popen", run)


LOAD = Load("/no/such/file")
# It holds the GIL, so that only a signal can end it.
BUSY = "engine._end_with(alive)\nlistener.accept()[0].send(b'.')\nwhile True: 3 ** 3_000_000\n"
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends at a token")


def test_real_child_reports_why_it_cannot_start(hosts: Callable[..., Process]) -> None:
    one = hosts(LOAD)
    assert one.started
    (frame,) = protocol.Frames().feed(one.sock.recv(1 << 16))
    said = protocol.read_report(frame)
    assert isinstance(said, Broken)
    assert "FileNotFoundError" in said.reason
    assert one.sock.recv(1) == b""
    assert one._process is not None and one._process.wait(60) == 0  # ends by itself
    assert one.end() == "exit code 0"


@needs_linux
def test_second_host_joins_the_child_and_outlives_the_first(
    hosts: Callable[..., Process], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, folder, BUSY)
    first, second = hosts(LOAD, 1, folder), hosts(LOAD, 1, folder)
    assert (first.started, second.started) == (True, False)
    assert first.sock.recv(1) == b"."
    process = first._process
    assert process is not None
    pid = process.pid
    assert first.end() == "left to others"
    assert not gone(pid)
    assert lock_folder(folder) is None
    assert second.end() == "another worker's child"
    wait_until(lambda: gone(pid))


@needs_linux
def test_killed_workers_leave_no_child_behind(
    hosts: Callable[..., Process], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, folder, BUSY)
    only = hosts(LOAD, 1, folder)
    assert only.sock.recv(1) == b"."
    process = only._process
    assert process is not None
    os.close(only._alive)  # as the kernel does when a process is killed
    only._alive = -1
    assert process.wait(PATIENCE) == -signal.SIGIO


def test_host_arriving_while_a_child_ends_starts_the_next(
    hosts: Callable[..., Process], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = tmp_path / "end"
    waits = f"while not os.path.exists({str(end)!r}): time.sleep(0.01)\n"
    child(monkeypatch, folder, f"listener.close()\n{waits}")
    first = hosts(LOAD, 1, folder)
    with contextlib.suppress(ConnectionResetError):
        assert first.sock.recv(1) == b""
    assert lock_folder(folder) is None, "it has not ended yet"
    threading.Timer(0.3, end.touch).start()
    second = hosts(LOAD, 1, folder)
    assert second.started
    assert first.end() == "exit code 0"


def test_only_one_of_many_simultaneous_hosts_starts_the_child(
    folder: Path, monkeypatch: pytest.MonkeyPatch, hosts: Callable[..., Process]
) -> None:
    child(monkeypatch, folder, "engine._end_with(alive)\ntime.sleep(60)\n")
    threads = [threading.Thread(target=hosts, args=(LOAD, 1, folder)) for _ in range(8)]
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for one in threads:
        one.start()
    for one in threads:
        one.join(PATIENCE)
    made = next(cell.cell_contents for cell in hosts.__closure__ or ())
    assert sorted(one.started for one in made) == [False] * 7 + [True]
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == before + 8 * 2, "a socket and a pipe for each"


def test_killed_child_is_reported_with_its_signal(
    hosts: Callable[..., Process], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, folder, "listener.accept()[0].send(b'.')\ntime.sleep(60)\n")
    one = hosts(LOAD, 1, folder)
    assert one.sock.recv(1) == b"."
    process = one._process
    assert process is not None
    one.kill(process.pid)
    assert one.sock.recv(1) == b""
    assert one.end() == "signal 9"
    one.kill(process.pid)  # already gone


def test_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert meeting("a") == meeting("a") != meeting("b")
    base = meeting("a").parent
    assert base.stat().st_mode & 0o777 == 0o700
    base.chmod(0o755)
    with pytest.raises(PermissionError, match="only this user can access"):
        meeting("a")
    base.chmod(0o700)
    base.rename(tmp_path / "moved")
    base.symlink_to(tmp_path / "moved")
    with pytest.raises(PermissionError):
        meeting("a")
