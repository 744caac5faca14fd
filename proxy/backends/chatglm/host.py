"""Runs the engine in a child process, or in a thread of this process. Both use a socket.

A process is the rule: the library holds Python's global lock, crashes on a bad file, and only
releases its memory by ending. A thread is for debugging, and for Windows: while it works, nothing
else in this process runs.

Workers share an engine in a folder that only this user can enter. The worker that can lock the
folder may start an engine there; the engine inherits the lock and holds it as long as it lives. So
nothing that a dead engine left behind has to be trusted.

    socket   where it listens          alive   a pipe that all its users hold open for writing
"""

from __future__ import annotations

import _thread
import contextlib
import hashlib
import os
import selectors
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

from ...runtime.confinement import environment
from ...runtime.subprocesses import start
from .engine import serve
from .protocol import Load, Peers

PATIENCE = 2.0  # seconds a disconnected engine gets to end by itself
JOINING = 20.0  # seconds for another worker's engine to start listening, or for a dead one's to go
SOON = 0.2  # seconds for an engine that has already ended by itself
RETRY = 0.05  # seconds between two attempts to start or join


def meeting(*values: object) -> Path:
    """The folder of all workers that agree in these values. Raises OSError, also if another user
    could interfere with it."""
    base = Path(tempfile.gettempdir(), f"slotproxy-{os.getuid()}")
    base.mkdir(mode=0o700, exist_ok=True)
    info = base.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise PermissionError(f"{base} must be a directory that only this user can access")
    folder = base / hashlib.sha256(repr(values).encode()).hexdigest()[:16]
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def lock_folder(folder: Path) -> int | None:
    """Lock the folder. Returns a file descriptor; None while another process holds the lock."""
    import fcntl  # not on Windows

    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        return None
    return number


class Host(Protocol):
    """A running engine."""

    sock: socket.socket
    started: bool  # by this worker

    def kill(self, pid: int) -> None:
        """End it, for all its users; `pid` is the one it reported."""

    def end(self) -> str:
        """Disconnect from it. Returns how it ended, for the log, if known."""


class Process:
    """A child of the first worker in `folder`; None: for this worker only. Raises OSError."""

    def __init__(self, load: Load, threads: int = 0, folder: Path | None = None) -> None:
        self.sock: socket.socket
        self._alive = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._shared = folder is not None
        if folder is not None:
            self._enter(folder, load, threads)
        else:
            with tempfile.TemporaryDirectory(prefix="slotproxy-") as own:
                self._enter(Path(own), load, threads)
        self.started = self._process is not None

    def _enter(self, folder: Path, load: Load, threads: int) -> None:
        end = time.monotonic() + JOINING
        while True:
            try:
                if (lock := lock_folder(folder)) is not None:
                    self._start(folder, lock, load, threads)
                else:
                    self._join(folder)
                return
            except (FileNotFoundError, ConnectionError):
                # The engine there is just starting, or just ending.
                if time.monotonic() > end:
                    raise
                time.sleep(RETRY)

    def _start(self, folder: Path, lock: int, load: Load, threads: int) -> None:
        address, alive = folder / "socket", folder / "alive"
        with contextlib.ExitStack() as ours:
            ours.callback(os.close, lock)
            for left in (address, alive):
                left.unlink(missing_ok=True)
            os.mkfifo(alive, 0o600)
            theirs = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
            ours.callback(os.close, theirs)
            listener = ours.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(address))
            listener.listen()
            self._join(folder)
            args = [str(listener.fileno()), str(theirs), load.path, str(load.n_ctx), str(load.idle)]
            try:
                self._process = start(
                    "proxy.backends.chatglm.engine",
                    *args,
                    env=_environment(threads),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(listener.fileno(), theirs, lock),
                )
            except OSError:
                _disconnect(self.sock)
                self._let_go()
                raise

    def _join(self, folder: Path) -> None:
        """Connect to the socket, then open the pipe, which was created before it."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(folder / "socket"))
            self._alive = os.open(folder / "alive", os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            sock.close()
            if isinstance(error, ConnectionError | FileNotFoundError):
                raise
            raise ConnectionRefusedError(*error.args) from None
        self.sock = sock

    def kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def end(self) -> str:
        # It may have crashed, or ends by itself without connections: then it has an exit code.
        _disconnect(self.sock)
        process = self._process
        try:
            code = process.wait(SOON) if process is not None else 0
        except subprocess.TimeoutExpired:
            code = None
        self._let_go()
        if process is None:
            return "another worker's child"
        if code is None and self._shared:
            process.returncode = 0  # other workers use it, so nothing here waits for it any more
            return "left to others"
        if code is None:
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _let_go(self) -> None:
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1


def _environment(threads: int) -> dict[str, str]:
    """The child's environment. A library built with OpenMP reads the number of threads from it; by
    default, one core is left for the HTTP side."""
    count = threads or max(1, (os.cpu_count() or 1) - 1)
    return {**environment(whole=True), "OMP_NUM_THREADS": str(count)}


class Thread:
    """The engine in this process, in a native thread even if gevent has patched."""

    started = True

    def __init__(self, load: Load) -> None:
        native_socket, selector, start_thread = _natives()
        self.sock, theirs = socket.socketpair()
        engine_end = native_socket(fileno=theirs.detach())
        start_thread(serve, (Peers(selector(), first=[engine_end]), load))

    def kill(self, pid: int) -> None:
        """Does nothing: a thread cannot be ended."""

    def end(self) -> str:
        _disconnect(self.sock)
        return "hung up"


def _disconnect(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def _natives() -> tuple[Any, Any, Any]:
    """The unpatched socket.socket, a selector and _thread.start_new_thread."""
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is None:
        return socket.socket, selectors.DefaultSelector, _thread.start_new_thread

    class Polling(selectors.PollSelector):
        _selector_cls = monkey.get_original("select", "poll")

    return (
        monkey.get_original("socket", "socket"),
        Polling,
        monkey.get_original("_thread", "start_new_thread"),
    )
