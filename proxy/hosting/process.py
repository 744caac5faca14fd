"""A model's server as a process: started with a port, watched, and ended for certain."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..config import PID, PORT, ModelConfig
from ..runtime.subprocesses import kill_session, start_program
from .log import MAX_LINE, ModelLog

OVERHEAD = 64 << 20  # bytes of a server without its model
MAX_PARTS = 1000  # files of a split model
KILLED = 5.0  # seconds for the system to end a killed process


def free_port() -> int:
    """A loopback port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def filled_in(words: Sequence[str], mark: str, value: int) -> list[str]:
    """The words of a command with `mark` replaced by a number."""
    return [word.replace(mark, str(value)) for word in words]


class ModelProcess:
    """A process of a model, with a session of its own. What it prints goes to `log`; `ended` is
    called, from a thread of its own, when it stops printing, because it then has most likely
    ended. Raises OSError if it cannot be started."""

    def __init__(
        self, config: ModelConfig, port: int, log: ModelLog, ended: Callable[[], None]
    ) -> None:
        self._config = config
        self._log = log
        self._ended = ended
        log.begin()
        env = {name: v.replace(PORT, str(port)) for name, v in config.environment.items()}
        self._process = start_program(
            filled_in(config.command, PORT, port),
            env,
            cwd=config.folder or None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.pid = self._process.pid
        reader = threading.Thread(target=self._read, name=f"log-{config.name}", daemon=True)
        reader.start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exit(self) -> str:
        """How it ended, "" if it has not."""
        code = self._process.poll()
        if code is None:
            return ""
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        kill_session(self._process)

    def end(self) -> None:
        """Ask it to end, by its own command if it has one, and kill it if it does not in time."""
        config, process = self._config, self._process
        if process.poll() is None:
            if config.stop:
                self._run_stop_command()
            else:
                kill_session(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(config.stop_timeout)
        kill_session(process)  # also the children that it left behind
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILLED)

    def _run_stop_command(self) -> None:
        words = filled_in(self._config.stop, PID, self.pid)
        try:
            stopping = start_program(
                words,
                self._config.environment,
                cwd=self._config.folder or None,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            self._log.add(f"the stop command could not be started: {error}".encode())
            return
        try:
            stopping.wait(self._config.stop_timeout)
        except subprocess.TimeoutExpired:
            kill_session(stopping)
            stopping.wait()

    def _read(self) -> None:
        output = self._process.stdout
        assert output is not None
        with contextlib.suppress(OSError, ValueError), output:
            while line := output.readline(MAX_LINE):
                self._log.add(line)
        self._ended()


def estimated(config: ModelConfig) -> int:
    """The bytes of memory that a model may need, by the size of the files in its command: weights,
    a tenth for its context, and what any server takes."""
    total = 0
    for word in config.command:
        for path in parts(Path(config.folder, word.partition("=")[2] or word)):
            with contextlib.suppress(OSError):
                total += path.stat().st_size
    return total + total // 10 + OVERHEAD


def parts(path: Path) -> Iterator[Path]:
    """The files of a GGUF model; split ones are named NAME-00001-of-00003.gguf."""
    if path.suffix != ".gguf":
        return
    split = re.fullmatch(r"(.*-)00001(-of-(\d{5})\.gguf)", path.name)
    if split is None:
        yield path
        return
    for number in range(1, min(int(split[3]), MAX_PARTS) + 1):
        yield path.with_name(f"{split[1]}{number:05d}{split[2]}")


def resident(pid: int) -> int:
    """The bytes of memory that a session's processes hold, 0 if the system does not say."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name, in parentheses, may contain anything; the session is the fourth after it.
            fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            if int(fields[3]) == pid:
                total += int(fields[21]) * _page()
    return total


def _page() -> int:
    import resource  # not on Windows

    return resource.getpagesize()
