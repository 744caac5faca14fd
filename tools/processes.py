"""Runs model servers and the gateway as child processes, for ``make run`` and for the tests.

A child counts as started only when it really answers, and is ended by its own process id. Its
output goes to a file, or to the terminal if none is given.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tools import servers

ROOT = servers.ROOT
_OURS = ("SLOTPROXY_", "WEB_CONCURRENCY", "GUNICORN_CMD_ARGS")


class Died(RuntimeError):
    """A child ended, or did not answer in time; the message contains the end of its output."""


def free_port() -> int:
    """Return a loopback port that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def held_port() -> int:
    """Return a loopback port that stays reserved until this process ends: only a server that is
    told the port can listen on it. (On Windows two sockets cannot share a port; there this is
    ``free_port``.)

    Use it for servers that are restarted. Two servers of 2023 may listen on the same port
    (SO_REUSEPORT), each answering some requests: without the reservation, this can happen when
    another server gets the port in between.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", 0))
    port: int = held.getsockname()[1]
    if os.name == "nt":
        held.close()
    else:
        held.detach()  # the system closes the socket when the process ends
    return port


def ask(
    url: str, body: Any = None, seconds: float = 60.0, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Send a GET, or a POST of JSON; return status and content, (0, b"") if there is no answer.

    Uses http.client, which ignores proxy variables.
    """
    parts = urlsplit(url)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.netloc, timeout=seconds)
    try:
        if body is None:
            connection.request("GET", parts.path or "/")
        else:
            text = json.dumps(body).encode()
            kind = {"Content-Type": "application/json"}
            connection.request("POST", parts.path, text, {**kind, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


class Child:
    """A child process. ``log`` is the file for its output, None for the terminal; ``cwd`` is its
    working directory."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path | None,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.command = [str(word) for word in command]
        self.name = Path(self.command[0]).name
        self._cwd = cwd
        self.log_file = log
        # Variables set on this machine for a gateway must not reach the child.
        self._env = {k: v for k, v in os.environ.items() if not k.startswith(_OURS)}
        self._env.update(env or {})
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        """The output of the child so far."""
        if self.log_file is None or not self.log_file.exists():
            return ""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def launch(self) -> None:
        """Start the process, without waiting for it to answer."""
        assert not self.alive, "already running"
        with contextlib.ExitStack() as stack:
            out = None
            if self.log_file is not None:
                out = stack.enter_context(self.log_file.open("ab"))
            # A separate session: Ctrl-C at the terminal reaches only the parent, which ends its
            # children in the right order.
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )

    def fail(self, what: str) -> Died:
        """End the child, and return the error to raise; ``what`` says what it did."""
        self.kill()
        return Died(f"{self.name} {what}\n{self.log[-2000:]}".rstrip())

    def send(self, number: int) -> None:
        """Send a signal (SIGSTOP makes a server hang)."""
        assert self.process is not None, "not started"
        self.process.send_signal(number)

    def wait(self, seconds: float = 60.0) -> int:
        """Its exit code, once it has ended by itself."""
        assert self.process is not None, "not started"
        return self.process.wait(seconds)

    def kill(self) -> None:
        """Kill the process, as in a crash."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, number: int = signal.SIGTERM, seconds: float = 40.0) -> int:
        """Ask the process to end, make sure that it does, and return its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.returncode


class ModelServer(Child):
    """A server.cpp process of ``tools.servers`` on a loopback port that it keeps over restarts.

    ``ctx`` tokens are divided among ``slots``.
    """

    def __init__(
        self,
        name: str,
        binary: Path,
        model: Path,
        log: Path,
        slots: int = 2,
        ctx: int = 4096,
        threads: int = 1,
        extra: Sequence[str] = (),
    ) -> None:
        self.slots = slots
        self.port = held_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # -cb: without it, the old server serves one request at a time, whatever -np says. The new
        # one always batches.
        words = f"--host 127.0.0.1 --port {self.port} -np {slots} -c {ctx} -t {threads} -cb"
        # The old server writes a llama.log to its working directory.
        super().__init__([binary, "-m", model, *words.split(), *extra], log, cwd=log.parent)
        self.name = name

    def start(self, seconds: float = 60.0) -> None:
        """Start (or restart) the server and wait until it generates a token: /health, if there is
        one, and /props are ready before that."""
        self.launch()
        end = time.monotonic() + seconds
        question = {"prompt": "a", "n_predict": 1}
        while ask(f"{self.url}/completion", question)[0] != 200:
            if not self.alive:
                raise self.fail("ended while starting")
            if time.monotonic() > end:
                raise self.fail(f"gave no token in {seconds:g} seconds")
            time.sleep(0.05)


class LlamaCppPythonServer(Child):
    """The server of llama-cpp-python on a loopback port; ``python`` is that of
    ``tools.llama_cpp_python``."""

    def __init__(self, python: Path, model: Path, log: Path, ctx: int = 4096) -> None:
        self.port = held_port()
        self.url = f"http://127.0.0.1:{self.port}"
        words = f"--host 127.0.0.1 --port {self.port} --n_ctx {ctx} --n_threads 1"
        command: list[str | Path] = [
            python,
            "-m",
            "llama_cpp.server",
            "--model",
            model,
            *words.split(),
        ]
        super().__init__(command, log, cwd=log.parent)
        self.name = "llama-cpp-python"

    def start(self, seconds: float = 60.0) -> None:
        """Start (or restart) the server and wait until it lists its model."""
        self.launch()
        end = time.monotonic() + seconds
        while ask(f"{self.url}/v1/models")[0] != 200:
            if not self.alive:
                raise self.fail("ended while starting")
            if time.monotonic() > end:
                raise self.fail(f"does not list its model after {seconds:g} seconds")
            time.sleep(0.1)


class Gateway(Child):
    """slotproxy as a child, with the given flags. ``port`` 0 means a free one."""

    def __init__(
        self,
        flags: Sequence[str],
        log: Path | None,
        port: int = 0,
        env: Mapping[str, str] | None = None,
        python: Sequence[str] = (),
        module: str = "proxy",
    ) -> None:
        self.port = port
        command = [sys.executable, *python, "-m", module, *flags, "--port", str(port)]
        super().__init__(command, log, env)
        self.name = "slotproxy"

    @property
    def url(self) -> str:
        """Its address, with the --api-prefix if set; known once it listens."""
        urls = re.findall(r"listening on (http://\S+)", self.log)
        if urls:
            return str(urls[-1])
        assert self.port, "not listening yet"
        return f"http://127.0.0.1:{self.port}"

    def start(self, seconds: float = 60.0, ready: float = 60.0) -> None:
        """Start it, wait until it listens and then, for up to ``ready`` seconds (0: not at all),
        until its backends are ready."""
        before = self.log.count("listening on")
        self.launch()
        end = time.monotonic() + seconds
        while self.log.count("listening on") == before:
            if not self.alive:
                raise self.fail("ended while starting")
            if time.monotonic() > end:
                raise self.fail(f"does not listen after {seconds:g} seconds")
            time.sleep(0.02)
        end = time.monotonic() + ready
        while ready and not self.is_ready():
            if not self.alive:
                raise self.fail("ended while starting")
            if time.monotonic() > end:
                raise self.fail(f"is not ready after {ready:g} seconds")
            time.sleep(0.05)

    def is_ready(self) -> bool:
        return ask(f"{self.url}/readyz")[0] == 200
