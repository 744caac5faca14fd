"""Supervises one engine: starts it when needed, and restarts it after a failure.

    idle ──need──> loading ──> ready
                      │          │ it dies
                      └──fails───┴──> waiting (longer each time) ──> loading

Each engine has a thread that starts it, reads its reports and notices its end. Requests only wait
for `ready`. An engine that failed is restarted by the next request or health check: at once after
its first failure, and after a pause that grows each time until it completes an answer.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from ...errors import BackendDown
from ...runtime import subprocesses
from ...runtime.cancel import Cancel
from ...runtime.confinement import environment
from ...runtime.locks import native
from ...runtime.subprocesses import Process, Restarts
from . import protocol
from .engine import serve_socket

log = logging.getLogger("slotproxy.chatglm")

# Starts an engine at the other end of a socket. Returns its process, None for a thread.
Launch = Callable[[socket.socket], Process | None]
LOOK = 0.2  # seconds between two looks for a cancellation
STDERR = 2  # gets what libraries print


def in_process(threads: int, sock: socket.socket) -> Process:
    """Start the process of an engine. A library built with OpenMP reads the number of threads from
    the environment; 0: one core is left for the gateway. Raises OSError."""
    count = threads or max(1, (os.cpu_count() or 1) - 1)
    env = {**environment(whole=True), "OMP_NUM_THREADS": str(count)}
    engine = "proxy.backends.chatglm.engine"
    return Process(subprocesses.start(engine, env=env, stdin=sock, stdout=STDERR))


def in_thread(sock: socket.socket) -> None:
    """Start an engine in a native thread of the gateway, for where no process can be started and
    for debugging: while it works, nothing else in the gateway runs, and it cannot be ended in the
    middle of its work."""
    arguments = native("socket", "socket")(fileno=sock.detach()), native("select", "select")
    native("_thread", "start_new_thread")(serve_socket, arguments)


class PendingCall(queue.Queue[protocol.Answer | None]):
    """An order and its answers. `None` means that the engine has ended, or nobody needs them."""

    def __init__(self, engine: Engine, number: int, cancel: Cancel) -> None:
        super().__init__()
        self.id = number
        self._engine, self._cancel = engine, cancel
        cancel.add(self._wake)

    def receive(self, timeout: float) -> list[protocol.Answer | None]:
        """The answers so far, after waiting at most `timeout` seconds; [] if there are none. Raises
        Cancelled."""
        answers: list[protocol.Answer | None] = []
        with contextlib.suppress(queue.Empty):
            answers.append(self.get(timeout=timeout))
            while True:
                answers.append(self.get_nowait())
        self._cancel.check()
        return answers

    def close(self) -> None:
        """Receive no more answers, and end a call that is not over."""
        self._cancel.remove(self._wake)
        if self._engine.calls.pop(self.id, None) is not None:
            self._engine.out.put(protocol.CancelMessage(self.id))

    def _wake(self) -> None:
        self.put(None)


class Engine:
    """An engine as long as it lives: sends orders, and assigns the answers to their calls. A thread
    of its own writes, so that no request ever blocks on the socket: an engine that evaluates a long
    prompt reads nothing meanwhile. Raises OSError if it cannot be started."""

    def __init__(self, launch: Launch, load: protocol.Load) -> None:
        self._sock, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = launch(theirs)
            except OSError:
                self._sock.close()
                raise
        self._numbers = itertools.count(1)
        self.calls: dict[int, PendingCall] = {}  # that are not over
        self.out: queue.Queue[protocol.Load | protocol.Order | None] = queue.Queue()
        self.out.put(load)
        threading.Thread(target=self._write, name="chatglm-write", daemon=True).start()

    def call(self, order: protocol.Work, cancel: Cancel) -> PendingCall:
        """Send an order, with a number of its own."""
        call = PendingCall(self, next(self._numbers), cancel)
        self.calls[call.id] = call
        self.out.put(msgspec.structs.replace(order, id=call.id))
        return call

    def reports(self) -> Iterator[protocol.Ready | protocol.Broken]:
        """What the engine reports about itself until it ends, or sends invalid data."""
        with contextlib.suppress(OSError, ValueError), self._sock.makefile("rb") as lines:
            for data in lines:
                report = protocol.read_report(data)
                if isinstance(report, protocol.Ready | protocol.Broken):
                    yield report
                elif (call := self.calls.get(report.id)) is not None:
                    if not isinstance(report, protocol.Began | protocol.Delta):
                        self.calls.pop(report.id, None)
                    call.put(report)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        else:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> str:
        """End it, and notify every open call. Returns how it ended."""
        for call in list(self.calls.values()):
            call.put(None)
        self.out.put(None)
        if self._process is not None:
            self._process.close(LOOK)
        else:
            self.kill()
        self._sock.close()
        return self._process.exit if self._process is not None else "exit code 0"

    def _write(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended, which the reader notices
            while (message := self.out.get()) is not None:
                self._sock.sendall(protocol.line(message))


class Supervisor:
    def __init__(self, name: str, load: protocol.Load, launch: Launch) -> None:
        self._name, self._load, self._launch = name, load, launch
        self._changed = threading.Condition()
        self._closed = False
        self._restarts = Restarts()
        self._thread: threading.Thread | None = None  # that runs the engine
        self._engine: Engine | None = None  # from its start
        self.ready: protocol.Ready | None = None  # once its model is loaded
        self.error = ""

    def call(self, order: protocol.Work, timeout: float, cancel: Cancel) -> PendingCall | None:
        """Send an order to the engine, which is started if necessary; None if its model is not
        loaded within `timeout` seconds. Raises BackendDown if the engine cannot run, Cancelled."""
        with self._changed:
            if not self.is_loaded(timeout, cancel):
                return None
            assert self._engine is not None, "its model is loaded"
            return self._engine.call(order, cancel)

    def is_loaded(self, timeout: float, cancel: Cancel) -> bool:
        """Start the engine if necessary, and wait for its model. Raises like `call`."""
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                if self._closed:
                    raise BackendDown("the model is unloaded")
                self._begin()
                left = end - time.monotonic()
                if self.ready is None and not self.failing and left > 0:
                    self._changed.wait(min(LOOK, left))
                if self.ready is not None:
                    return True
                if self.failing:
                    raise BackendDown(f"the model is not running: {self.error}", retry_after=5.0)
                cancel.check()
                if left <= LOOK:
                    return False

    def alive(self) -> bool:
        """Whether the engine runs, or is expected to soon. One that has failed is restarted."""
        with self._changed:
            if self._restarts.failures:
                self._begin()
            return not self.failing

    @property
    def failing(self) -> bool:
        """Whether the engine does not run and is not expected to soon."""
        return self._restarts.hopeless and self.ready is None

    def proven(self) -> None:
        self._restarts.failures = 0

    def kill(self, reason: str) -> None:
        """End an engine that hangs; it will be restarted."""
        log.error("model %s: %s, restarting its process", self._name, reason)
        if (engine := self._engine) is not None:
            engine.kill()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            engine, thread = self._engine, self._thread
        if engine is not None:
            engine.kill()
        if thread is not None:
            thread.join(10)

    def _begin(self) -> None:
        """Start the engine if it does not run, and may be started now. Needs the lock."""
        if self._thread is None and not (self._closed or self._restarts.pause):
            self._thread = threading.Thread(
                target=self._run, name=f"chatglm-{self._name}", daemon=True
            )
            self._thread.start()

    def _run(self) -> None:
        """Run an engine from its start to its end. Linux ends its process with this thread."""
        why = "internal error, see the log"
        try:
            log.info("model %s: loading %s", self._name, self._load.path)
            why = self._follow(Engine(self._launch, self._load))
        except OSError as error:
            why = f"could not start its process: {error}"
        finally:
            with self._changed:
                self._engine = self.ready = self._thread = None
                if not self._closed:
                    log.error("model %s: %s", self._name, why)
                    self._restarts.failed()
                    self.error = why
                self._changed.notify_all()

    def _follow(self, engine: Engine) -> str:
        """Handle an engine's reports until it ends. Returns why it did."""
        began, why = time.monotonic(), "its process exited while it was loading"
        try:
            with self._changed:
                self._engine = engine
                if self._closed:
                    engine.kill()
            for report in engine.reports():
                if isinstance(report, protocol.Broken):
                    return report.reason
                took = time.monotonic() - began
                log.info("model %s: ready after %.1f s, %s", self._name, took, report.family)
                why = "its process exited"
                with self._changed:
                    self.ready, self.error = report, ""
                    self._changed.notify_all()
        finally:
            with self._changed:
                self.ready = None  # from here on, the next engine gets the orders
            ended = engine.close()
        return f"{why} ({ended})"
