"""Supervises one engine: starts it when needed, and restarts it after a failure.

    idle ──need──> loading ──> ready ──it unloads──> idle
                      │          │ it dies
                      └──fails───┴──> waiting (longer each time) ──> loading

A thread of its own starts the engine, or finds one that another worker started, reads its reports
and notices its end. Requests only wait for `ready`. After its first failure, an engine is restarted
immediately; if it fails again before it completed an answer or ran for a while, or cannot load, the
pause grows each time.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable

import msgspec

from ...errors import BackendDown
from ...runtime.cancel import Cancel
from ...runtime.lasting import Lasting
from .host import Host
from .protocol import (
    Answer,
    Broken,
    ByeMessage,
    CancelMessage,
    Decode,
    Encode,
    Frames,
    Generate,
    Load,
    ReadingMessage,
    Ready,
    pack,
    read_report,
)

log = logging.getLogger("slotproxy.chatglm")

Launch = Callable[[Load], Host]
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
HOPELESS = 3  # failures in a row after which requests are refused rather than kept waiting
LASTING = 60.0  # seconds after which an engine counts as working, even without an answer from here
LOOK = 0.2  # seconds between two looks for a cancellation
SAY_EVERY = 2.0  # seconds between two log lines about loading
CHUNK = 1 << 16  # bytes of a read


class PendingCall:
    """An order and its answers. `None` means that the engine has ended."""

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self.id = number
        self._answers: queue.Queue[Answer | None] = queue.Queue()

    def receive(self, timeout: float) -> list[Answer | None]:
        """The answers so far, after waiting at most `timeout` seconds; [] if there are none."""
        out: list[Answer | None] = []
        try:
            out.append(self._answers.get(timeout=timeout))
            while True:
                out.append(self._answers.get_nowait())
        except queue.Empty:
            return out

    def put(self, answer: Answer | None) -> None:
        self._answers.put(answer)

    def close(self, cancel: bool) -> None:
        """Stop receiving answers."""
        self._link.forget(self, cancel)


class Link:
    """The connection to one engine, as long as it lives: sends orders, and assigns the answers to
    their calls. `sock` is a blocking stream socket. One thread calls `read` until it returns None,
    another writes, so that no request ever blocks on the socket: an engine that evaluates a long
    prompt reads nothing meanwhile. `unloaded`: the engine ended because it was idle, before it
    began any open call."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames = Frames()
        self._numbers = itertools.count(1)
        self._calls: dict[int, PendingCall] = {}
        self._lock = threading.Lock()
        self._out: queue.Queue[bytes | None] = queue.Queue()
        self._gone = False
        self.unloaded = False
        self._writer = threading.Thread(target=self._write, name="chatglm-write", daemon=True)
        self._writer.start()

    def call(self, order: Generate | Encode | Decode) -> PendingCall:
        """Send an order, with a number of its own."""
        call = PendingCall(self, next(self._numbers))
        with self._lock:
            gone = self._gone
            if not gone:
                self._calls[call.id] = call
        if gone:
            call.put(None)
        self._out.put(pack(msgspec.structs.replace(order, id=call.id)))
        return call

    def forget(self, call: PendingCall, cancel: bool) -> None:
        with self._lock:
            known = self._calls.pop(call.id, None)
        if known is not None and cancel and not self._gone:
            self._out.put(pack(CancelMessage(call.id)))

    def read(self) -> list[ReadingMessage | Ready | Broken | ByeMessage] | None:
        """Wait for the engine's reports about itself; answers go to their calls. None: the engine
        has ended, or sent invalid data."""
        try:
            data = self._sock.recv(CHUNK)
            reports = [read_report(frame) for frame in self._frames.feed(data)]
        except (OSError, ValueError, msgspec.DecodeError):
            return None
        if not data:
            return None
        own: list[ReadingMessage | Ready | Broken | ByeMessage] = []
        for report in reports:
            if isinstance(report, (ReadingMessage, Ready, Broken, ByeMessage)):
                self.unloaded = isinstance(report, ByeMessage)
                own.append(report)
            elif (call := self._calls.get(report.id)) is not None:
                call.put(report)
        return own

    def close(self) -> None:
        """Disconnect, and notify every open call."""
        with self._lock:
            self._gone = True
            calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.put(None)
        self._out.put(None)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes blocked readers and writers
        self._writer.join()

    def _write(self) -> None:
        try:
            while (data := self._out.get()) is not None:
                self._sock.sendall(data)
        except OSError:
            pass
        finally:  # makes the reader end too
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)


class Supervisor:
    """Supervises an engine. `launch` starts it, or finds it."""

    def __init__(self, name: str, load: Load, launch: Launch) -> None:
        self._name = name
        self._load = load
        self._launch = launch
        self._changed = threading.Condition()
        self._wanted = False
        self._closed = False
        self._failures = 0
        self._since = 0.0  # when it became ready
        self._thread: threading.Thread | None = None
        self._life: Link | None = None  # from the start of an engine
        self._link: Link | None = None  # the same, once the engine is ready
        self._host: Host | None = None
        self.ready: Ready | None = None
        self.error = ""

    def need(self) -> None:
        """Load the model, unless it is loaded."""
        with self._changed:
            if self._closed:
                raise BackendDown("the model is unloaded")
            self._wanted = True
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"chatglm-{self._name}", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def link(self, timeout: float, cancel: Cancel | None = None) -> Link | None:
        """The connection to a ready engine; None if there is none within `timeout` seconds. Raises
        BackendDown if the engine cannot run, Cancelled."""
        self.need()
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            with self._changed:
                self._changed.wait_for(
                    lambda: self._link is not None or self.failing, min(LOOK, max(0.0, left))
                )
                if self._link is None and (self._closed or self.failing):
                    raise BackendDown(f"the model is not running: {self.error}", retry_after=5.0)
                if self._link is not None or left <= LOOK:
                    return self._link
            if cancel is not None:
                cancel.check()

    @property
    def failing(self) -> bool:
        """Whether the engine does not run and is not expected to soon."""
        return self._failures >= HOPELESS and self._link is None

    def proven(self) -> None:
        """Record that the engine has completed an answer."""
        self._failures = 0

    def kill(self, reason: str) -> None:
        """End an engine that hangs, for all its users; it will be restarted."""
        log.error("model %s: %s, restarting its process", self._name, reason)
        with self._changed:
            life, host, ready = self._life, self._host, self.ready
        if host is not None and ready is not None:
            host.kill(ready.pid)
        if life is not None:
            life.close()

    def close(self) -> None:
        """Disconnect from the engine for good."""
        with self._changed:
            self._closed = True
            life = self._life
            self._changed.notify_all()
        if life is not None:
            life.close()
        thread = self._thread
        if thread is not None:
            thread.join(10)

    # in the supervising thread

    def _run(self) -> None:
        living = Lasting(f"running model {self._name}")
        while True:
            with self._changed:
                while not self._wanted and not self._closed:
                    self._changed.wait()
                if self._failures > 1:
                    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (self._failures - 2))
                    self._changed.wait_for(lambda: self._closed, pause)
                if self._closed:
                    return
            if not living.turn(self._live):
                self._give_up()

    def _give_up(self) -> None:
        """Recover from an unexpected error by ending this engine."""
        with self._changed:
            life, self._life = self._life, None
            self._link = self.ready = self._host = None
        if life is not None:
            life.close()
        self._fail("internal error, see the log")

    def _live(self) -> None:
        """Run an engine from its start to its end."""
        began = time.monotonic()
        try:
            host = self._launch(self._load)
        except OSError as error:
            self._fail(f"could not start its process: {error}")
            return
        link = Link(host.sock)
        with self._changed:
            self._host, self._life = host, link
            closed = self._closed
        if closed:
            link.close()
        logged = began
        broken = ""
        if host.started:
            log.info("model %s: loading %s", self._name, self._load.path)
        while (reports := link.read()) is not None:
            for report in reports:
                if isinstance(report, Ready):
                    self._up(link, report, time.monotonic() - began)
                elif isinstance(report, Broken):
                    broken = report.reason
                elif isinstance(report, ByeMessage):
                    self._unloaded()
                elif host.started and time.monotonic() - logged >= SAY_EVERY:
                    logged = time.monotonic()
                    percent = 100 * report.done // max(1, report.total)
                    log.info("model %s: %d %% read", self._name, percent)
        with self._changed:
            while_loading = "" if self._link is not None else " while it was loading"
            if self._link is not None and time.monotonic() - self._since > LASTING:
                self._failures = 0
            self._link = self._life = self.ready = self._host = None
        link.close()
        ended = host.end()
        if not link.unloaded and not self._closed:
            self._fail(broken or f"its process exited{while_loading} ({ended})")

    def _up(self, link: Link, ready: Ready, took: float) -> None:
        log.info(
            "model %s: ready after %.1f s, %s, context %d, chatglm_cpp %s",
            self._name, took, ready.family, ready.n_ctx, ready.version,
        )  # fmt: skip
        with self._changed:
            self._since = time.monotonic()
            self.ready = ready
            self._link = link
            self.error = ""
            self._changed.notify_all()

    def _unloaded(self) -> None:
        log.info("model %s: unloaded after %g s idle", self._name, self._load.idle)
        with self._changed:
            self._wanted = False
            self._link = None

    def _fail(self, why: str) -> None:
        log.error("model %s: %s", self._name, why)
        with self._changed:
            self._failures += 1
            self.error = why
            self._changed.notify_all()
