"""A model's server as a process: started with a port, watched, and ended for certain; and
whether it is what listens at its port."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

from ..backends.refusals import said
from ..config import PID, PORT, ModelConfig
from ..errors import BackendDown
from ..runtime.blocking import run_in_native_thread
from ..runtime.locks import native_lock
from ..runtime.subprocesses import Process, start_program

MAX_LINES = 2000
MAX_LINE = 1000  # bytes
SHOWN = 40  # lines of a failed start that a client sees
MAX_SHOWN = 4000  # characters of these


class ModelLog:
    """The last lines that a model's server printed, over all its starts, which `begin` marks."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)  # differs from that of other logs
        self._lock = native_lock()
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._fresh = 0  # lines since `begin`
        self._count = 0  # lines ever

    def begin(self) -> None:
        with self._lock:
            self._fresh = 0

    def add(self, line: bytes) -> None:
        text = line.rstrip(b"\r\n").decode("utf-8", "replace")
        with self._lock:
            self._lines.append("".join(c if c.isprintable() or c == "\t" else " " for c in text))
            self._fresh = min(MAX_LINES, self._fresh + 1)
            self._count += 1

    def text(self) -> str:
        """All lines, for admins."""
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines)

    def after(self, number: int) -> tuple[int, list[str]]:
        """The number of lines so far, and the kept ones after this number; for admins."""
        with self._lock:
            new = min(len(self._lines), self._count - number)
            return self._count, list(islice(self._lines, len(self._lines) - new, None))

    def end(self, shown: Callable[[str], str] = said) -> list[str]:
        """The last lines since `begin`: for clients, without addresses and folders."""
        with self._lock:
            lines = list(self._lines)[-min(SHOWN, self._fresh) :] if self._fresh else []
        return [line for line in map(shown, lines) if line]


READ_OUT = 1.0  # seconds for the last lines of an ended process to reach the log


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def filled_in(words: Sequence[str], mark: str, value: int) -> list[str]:
    return [word.replace(mark, str(value)) for word in words]


def run(
    config: ModelConfig, words: Sequence[str], env: Mapping[str, str], output: int = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    """Start a program in the folder of a model. Raises OSError."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
    return start_program(words, env, cwd=config.folder or None, **streams)


class ModelProcess(Process):
    """A process of a model, with a session of its own. What it prints goes to `log`; `ended` is
    called, from another thread, when it stops printing. Raises OSError if it cannot be started."""

    def __init__(
        self, config: ModelConfig, port: int, log: ModelLog, ended: Callable[[], None]
    ) -> None:
        self._config, self._log, self._ended = config, log, ended
        log.begin()
        env = {name: v.replace(PORT, str(port)) for name, v in config.environment.items()}
        super().__init__(run(config, filled_in(config.command, PORT, port), env))
        self._reader = threading.Thread(target=self._read, name=f"log-{config.name}", daemon=True)
        self._reader.start()

    def read_out(self) -> None:
        """Wait until the log has its last lines; a child left behind may hold its output."""
        self._reader.join(READ_OUT)

    def end(self) -> None:
        """Ask it to end, by its own command if it has one, and kill it if it does not in time."""
        if self.alive:
            if self._config.stop:
                self._run_stop_command()
            else:
                self.kill(signal.SIGTERM)
        self.close(self._config.stop_timeout)

    def _run_stop_command(self) -> None:
        config = self._config
        words = filled_in(config.stop, PID, self.pid)
        try:
            stopping = run(config, words, config.environment, subprocess.DEVNULL)
        except OSError as error:
            self._log.add(f"the stop command could not be started: {error}".encode())
            return
        try:
            stopping.wait(config.stop_timeout)
        except subprocess.TimeoutExpired:
            Process(stopping).close()

    def _read(self) -> None:
        output = self._process.stdout
        assert output is not None
        with contextlib.suppress(OSError, ValueError), output:
            while line := output.readline(MAX_LINE):
                self._log.add(line)
        self._ended()


def in_session(pid: int) -> dict[int, int]:
    """The pages of each process of a session, if the system tells. Not on the event loop."""
    held = {}
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name, in parentheses, may contain anything.
            fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            if int(fields[3]) == pid:
                held[int(folder.name)] = int(fields[21])
    return held


def resident(pid: int) -> dict[int, int]:
    """The bytes of memory that each process of a session holds; {} if the system does not say."""
    pages = run_in_native_thread(partial(in_session, pid))
    return {process: count * PAGESIZE for process, count in pages.items()}


# Another user's program that listens at the port first would get the key of the server and the
# prompts. So nothing is sent on a new connection before Linux has named the owners of two sockets:
# the port's listener, and the other end of the connection, as the listener may have closed since.
#
# A socket is the server's if its user is ours, root (as for containers), or one of the server's
# session. Where /proc does not tell, nothing is checked.
PROC = Path("/proc")
# Local address and port, remote port, state, user and inode of a socket.
_ROW = re.compile(
    rb"^ *\d+: ([0-9A-F]+):(.{4}) [0-9A-F]+:(.{4}) (..) \S+ \S+ \S+ +(\d+) +\d+ (\d+)", re.M
)
_LISTENS = b"0A"


class PortGuard:
    """Of one server. `watch` names its process; before that, everything that listens is foreign.
    `foreign` says who else was found to listen, "" for nobody."""

    def __init__(self) -> None:
        self.foreign = ""
        self._pid = 0

    def watch(self, pid: int) -> None:
        self._pid = pid

    def check(self, sock: Any) -> None:
        """Raises BackendDown if the other end of a new connection is not the server's."""
        peer, own = sock.getpeername(), sock.getsockname()
        local = peer[0] == "::1" or peer[0].startswith(("127.", "::ffff:127."))
        if local and sock.family in (socket.AF_INET, socket.AF_INET6):
            users = partial(_users, sock.family, peer[0], peer[1], own[1])
            strangers = run_in_native_thread(lambda: self._strangers(users()))
            if strangers:
                user = min(strangers)
                ours = user == os.geteuid()
                self.foreign = "another program" if ours else f"a program of the user {user}"
                raise BackendDown(f"{self.foreign} listens at the port of the model's server")

    def _strangers(self, users: set[int]) -> set[int]:
        """The users among these whose sockets are foreign."""
        if self._pid:
            users = users - {0, os.geteuid()}
        if users and self._pid:
            users = users - set(map(_user, in_session(self._pid)))
        return users


def _users(family: int, host: str, port: int, own: int) -> set[int]:
    """The users of the sockets that listen there, and of the end of a connection at port `own`."""
    packed = socket.inet_pton(family, host)
    places = {_hex(bytes(4)), _hex(bytes(16)), _hex(packed)}
    if len(packed) == 4:
        places.add(_hex(bytes(10) + b"\xff\xff" + packed))
    users = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for row in _ROW.finditer((PROC / "net" / table).read_bytes()):
                at, local, remote, state, user, inode = row.groups()
                if int(local, 16) != port or at not in places:
                    continue
                # Linux tells no user of a connection that its server has not accepted yet.
                if state == _LISTENS or (int(remote, 16) == own and inode != b"0"):
                    users.add(int(user))
    return users


def _hex(packed: bytes) -> bytes:
    """An address as Linux prints it: words of the processor's own order."""
    words = (packed[begin : begin + 4] for begin in range(0, len(packed), 4))
    return b"".join(b"%08X" % int.from_bytes(word, sys.byteorder) for word in words)


def _user(pid: int) -> int:
    """The user as which a process runs; ours if it has ended."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid)).stat().st_uid
    return os.geteuid()
