"""One engine, kept in the state it is wanted in.

    idle ──need──> loading ──> ready ──it unloads──> idle
                      │          │ it dies
                      └──fails───┴──> waiting (longer each time) ──> loading

A thread of its own starts the engine, or finds one that another worker started, reads what it says
and sees it end. Requests only wait for `ready`. A first death is mended at once; an engine that
dies again before it gave a whole answer or lived for a while, or cannot load, waits longer each
time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ...errors import BackendDown
from ...lasting import Lasting
from .host import Host
from .link import Link
from .protocol import Broken, Bye, Load, Ready

log = logging.getLogger("slotproxy.chatglm")

Launch = Callable[[Load], Host]
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
HOPELESS = 3  # failures in a row after which requests are refused rather than kept waiting
LASTING = 60.0  # seconds of life that prove an engine as an answer does: others may have had it
SAY_EVERY = 2.0  # seconds between two lines about loading


class Supervisor:
    """`launch` starts an engine, or finds it."""

    def __init__(self, name: str, load: Load, launch: Launch) -> None:
        self._name = name
        self._load = load
        self._launch = launch
        self._changed = threading.Condition()
        self._wanted = False
        self._closed = False
        self._failures = 0
        self._since = 0.0  # when it was ready
        self._thread: threading.Thread | None = None
        self._life: Link | None = None  # from the start of an engine
        self._link: Link | None = None  # the same, once it is ready
        self._host: Host | None = None
        self.ready: Ready | None = None
        self.error = ""

    def need(self) -> None:
        """The model is wanted: load it, unless it is."""
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

    def link(self, timeout: float) -> Link | None:
        """The engine when it is ready; None when it is not within `timeout` seconds. Raises
        BackendDown when it cannot be made to run."""
        self.need()
        with self._changed:
            self._changed.wait_for(lambda: self._link is not None or self.failing, timeout)
            if self._link is None and (self._closed or self.failing):
                raise BackendDown(f"the model does not run: {self.error}", retry_after=5.0)
            return self._link

    @property
    def failing(self) -> bool:
        """Whether it does not run, and is not expected to soon."""
        return self._failures >= HOPELESS and self._link is None

    def proven(self) -> None:
        """It gave a whole answer."""
        self._failures = 0

    def kill(self, reason: str) -> None:
        """End an engine that hangs, for all who use it; it is started again."""
        log.error("model %s: %s, starting its engine again", self._name, reason)
        with self._changed:
            life, host, ready = self._life, self._host, self.ready
        if host is not None and ready is not None:
            host.kill(ready.pid)
        if life is not None:
            life.close()

    def close(self) -> None:
        """Leave the engine for good."""
        with self._changed:
            self._closed = True
            life = self._life
            self._changed.notify_all()
        if life is not None:
            life.close()
        thread = self._thread
        if thread is not None:
            thread.join(10)

    # the thread

    def _run(self) -> None:
        living = Lasting(f"running the model {self._name}")
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
        """A defect of ours: this life is over, and the next one may be better."""
        with self._changed:
            life, self._life = self._life, None
            self._link = self.ready = self._host = None
        if life is not None:
            life.close()
        self._fail("a defect, see the log")

    def _live(self) -> None:
        """One life of an engine."""
        began = time.monotonic()
        try:
            host = self._launch(self._load)
        except OSError as error:
            self._fail(f"its process cannot be started: {error}")
            return
        link = Link(host.sock)
        with self._changed:
            self._host, self._life = host, link
            closed = self._closed
        if closed:
            link.close()
        said = began
        broken = ""
        if host.started:
            log.info("model %s: loading %s", self._name, self._load.path)
        while (reports := link.read()) is not None:
            for report in reports:
                if isinstance(report, Ready):
                    self._up(link, report, time.monotonic() - began)
                elif isinstance(report, Broken):
                    broken = report.reason
                elif isinstance(report, Bye):
                    self._unloaded()
                elif host.started and time.monotonic() - said >= SAY_EVERY:
                    said = time.monotonic()
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
            self._fail(broken or f"its engine ended{while_loading} ({ended})")

    def _up(self, link: Link, ready: Ready, took: float) -> None:
        log.info(
            "model %s: there after %.1f s, %s, context %d, chatglm_cpp %s",
            self._name, took, ready.family, ready.n_ctx, ready.version,
        )  # fmt: skip
        with self._changed:
            self._since = time.monotonic()
            self.ready = ready
            self._link = link
            self.error = ""
            self._changed.notify_all()

    def _unloaded(self) -> None:
        log.info("model %s: not used for %g s, unloaded", self._name, self._load.idle)
        with self._changed:
            self._wanted = False
            self._link = None

    def _fail(self, why: str) -> None:
        log.error("model %s: %s", self._name, why)
        with self._changed:
            self._failures += 1
            self.error = why
            self._changed.notify_all()
