"""One model that the gateway starts itself: its server from start to end, and who uses it.

    STOPPED ──a request──> WAITING ──room──> LOADING ──answers──> READY ──stop──> DRAINING
       ^                      │                 │                   │                │
       │<──no request waits───┤                 │                   │ idle for ttl,  │ last
       │                      │ stop            │ stop, fails       │ dies           │ answer
       └───────────────── STOPPING <────────────┴───────────────────┴────────────────┘

A thread of its own takes the model through these states. It lives longer than the server, because
the kernel ends the server with the thread. Requests, operators and the memory budget only say
`use`, `leave` and `stop`.

A stop while it loads refuses the requests that wait for the load, and a load that fails gives them
the reason. After its first failure, a server is started again at once; the pause grows with each
further one, and from the third on requests within it are refused.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Set
from copy import copy
from enum import Enum
from typing import Literal

from msgspec import Struct

from ..backends.driver import Capabilities
from ..config import ModelConfig
from ..errors import BackendDown, BadRequest, GatewayError, QueueFull, UpstreamTimeout
from ..runtime.cancel import Cancel
from ..runtime.keep_alive import KeepAlive
from ..runtime.subprocesses import Restarts
from .memory_budget import Amounts
from .need import Need
from .process import ModelLog, ModelProcess
from .starting import LOOK, SELDOM, Hosting, LoadFailed, Server, Starter, Stopped

log = logging.getLogger("slotproxy.models")

WATCH = 1.0  # seconds between two checks of a loaded server
MEASURE = 30.0  # seconds between two measurements of the memory of a loaded server
SETTLE = 0.2  # seconds without a use after which a model counts as idle


class State(Enum):
    STOPPED = "unloaded"  # without a server
    WAITING = "waiting"  # for room
    LOADING = "loading"  # its server starts
    READY = "loaded"
    DRAINING = "draining"  # its server ends after the last answer
    STOPPING = "stopping"  # its server ends


class Waiter(Struct, eq=False):
    """A request that waits, or a load by hand. `error` is why it waits in vain."""

    since: float
    by_hand: bool = False
    error: GatewayError | None = None


class HostedModel:
    """`on_change` is called after every change of `status`."""

    def __init__(self, config: ModelConfig, hosting: Hosting) -> None:
        self.config = config
        self.slots = hosting.keeper.of(config) if hosting.keeper is not None else None
        self.name = config.name
        self.log = ModelLog()
        self.state = State.STOPPED
        self.caps: Capabilities | None = None  # of the last server that was loaded
        self.lost = False  # the server's slots are lost, until the registry has handled it
        self.error: GatewayError | None = None  # why it is not loaded, after a failure
        self.loads = 0  # that succeeded
        self.load_seconds = 0.0  # of these
        self.swaps = 0  # unloads that made room for another model
        self.users = 0  # requests on the server
        self.used = 0.0  # when a request used it last
        self.ttl = config.ttl or math.inf  # idle seconds, until the model is unloaded
        self.pinned = config.pin  # it does not give way to other models
        self.server: Server | None = None  # while loaded: also for requests that do not keep it
        self.needs = Need(config, hosting.needs, hosting.cards)
        self.on_change: Callable[[], None] = lambda: None
        self._starter = Starter(config, hosting, self.log, self.slots, self._is_unwanted)
        self._max_waiting = hosting.max_waiting
        self._room = hosting.room
        self._changed = hosting.room.changed
        self._thread: threading.Thread | None = None
        self._waiters: list[Waiter] = []
        self._ends: Literal["", "unused", "now"] = ""  # for good, and when
        self._began = math.inf  # when its server began to load, and then when it was loaded
        self._restarts = Restarts()

    # for requests

    def use(self, cancel: Cancel, tick: float, patience: float) -> Iterator[Server | None]:
        """Wait for the server, and yield its driver; the caller must `leave` later. Yields None at
        each tick. Raises UpstreamFault, UpstreamTimeout after `patience`, QueueFull, Cancelled."""
        ticks = 1
        waiter = Waiter(time.monotonic())
        self._wait(waiter)
        try:
            while True:
                with self._changed:
                    if self.state is State.READY:
                        self.users += 1
                        self.used = time.monotonic()
                        server = self.server
                        break
                    if waiter.error is not None:
                        raise _copy(waiter.error, 1.0)
                    self._changed.wait(min(SELDOM, tick))
                cancel.check()
                waited = time.monotonic() - waiter.since
                if waited >= patience:
                    raise UpstreamTimeout(f"timed out loading the model {self.name}")
                if waited >= ticks * tick:
                    ticks += 1
                    yield None
        finally:
            with self._changed:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        yield server

    def load(self) -> None:
        """Begin to load the server. Raises GatewayError if it would be in vain."""
        with self._changed:
            if self.server is None and not any(waiter.by_hand for waiter in self._waiters):
                self._wait(Waiter(time.monotonic(), by_hand=True))

    def _wait(self, waiter: Waiter) -> None:
        """Begin to wait for the server. Raises GatewayError if it would be in vain."""
        with self._changed:
            if self.closed:
                raise self._removed()
            if self.retry and self.error is not None:
                raise _copy(self.error, max(1.0, self.retry))
            if self.server is None and len(self._waiters) >= self._max_waiting:
                why = f"too many requests are waiting for the model {self.name}"
                raise QueueFull(why, retry_after=self.takes)
            self._waiters.append(waiter)
            if self._thread is None:
                name = f"model-{self.name}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def leave(self, *, answered: bool) -> None:
        with self._changed:
            self.users -= 1
            self.used = time.monotonic()
            if answered:
                self._restarts.failures = 0
            self._changed.notify_all()

    # for the memory budget

    @property
    def need(self) -> Amounts:
        return self.needs.amounts

    def runs_beside(self, others: Set[str]) -> bool:
        return self.config.runs_beside(others)

    @property
    def waiters(self) -> list[float]:
        """Since when requests wait for it."""
        return [waiter.since for waiter in self._waiters]

    @property
    def loaded_at(self) -> float:
        """Since when it is loaded, inf while it is not."""
        return math.inf if self.server is None else self._began

    @property
    def leaving(self) -> bool:
        """Whether it ends as soon as no request uses it."""
        return self.state in (State.DRAINING, State.STOPPING) or self.closed

    def is_idle(self, now: float) -> bool:
        """Whether it is loaded, and nobody has used it for a moment."""
        in_use = self.users or self._waiters
        return self.server is not None and not in_use and now - self.used >= SETTLE

    @property
    def takes(self) -> float:
        """The seconds that a load takes, by the last one."""
        return self.needs.learned.seconds

    # for the driver and for operators

    @property
    def status(self) -> Literal["unloaded", "loading", "loaded", "stopping", "failed"]:
        if self.state in (State.WAITING, State.LOADING):
            return "loading"
        if self.state in (State.READY, State.DRAINING):
            return "loaded"
        if self.error is not None:
            return "failed"
        return "stopping" if self.state is State.STOPPING else "unloaded"

    def examine(self) -> None:
        """Let it count as failed, before anybody asks for it, while its file is missing."""
        before, error = self.error, None
        was_tried = before is not None and getattr(before, "cause", "") != "missing"
        if was_tried or self.state is not State.STOPPED:
            return
        try:
            self._starter.check()
        except LoadFailed as missing:
            error = missing
            if before is None:
                log.warning("%s", error.private[0] if error.private else error.message)
        with self._changed:
            self.error = error if self.error is before else self.error

    def place(self) -> tuple[int, float]:
        """Its place in the line for room, 0 if it has some, and the seconds until it is loaded."""
        number, seconds = self._room.place(self)
        return number, seconds if number else max(0.0, self.takes - self.elapsed)

    @property
    def elapsed(self) -> float:
        """The seconds since its server began to load, and then since it was loaded; 0 before."""
        return max(0.0, time.monotonic() - self._began)

    @property
    def left(self) -> float:
        """The seconds until it was idle for its ttl, if nobody uses it; inf without one."""
        used = self.used or time.monotonic()
        return used + self.ttl - time.monotonic()

    @property
    def retry(self) -> float:
        """The seconds in which it is not started again after failures, 0 if it can be loaded."""
        return self._restarts.pause if self._restarts.hopeless else 0.0

    def notice(self) -> str:
        """For a request that waits for the model, "" if it is loaded."""
        if self.status == "loaded":
            return ""
        number, seconds = self.place()
        text = f"loading {self.name}" + (f", place {number}" if number else "")
        is_estimated = self.needs.learned.loaded_at and seconds
        return f"{text}, about {math.ceil(seconds)} s" if is_estimated else text

    def stop(self) -> None:
        """End the server after its last request, or at once while it loads."""
        with self._changed:
            loads = self.state in (State.WAITING, State.LOADING)
            if loads:
                self.error = None
                self._enter(State.STOPPING)
                why = "was unloaded while it was loading: ask again to load it"
                self._refuse_waiters(LoadFailed(f"the model {self.name} {why}"))
            elif self.state is State.READY:
                self._enter(State.DRAINING)
                if self.slots is not None:
                    self.slots.leave()
        if loads:
            self.on_change()

    def pin(self, pinned: bool) -> None:
        """Say whether it gives way to other models, until its settings are read again."""
        with self._changed:
            self.pinned = pinned
            self._changed.notify_all()

    def kill(self, why: str) -> None:
        log.error("model %s: %s, its server is killed", self.name, why)
        self._starter.kill()

    @property
    def closed(self) -> bool:
        return self._ends == "now"

    @property
    def gone(self) -> bool:
        """Whether it is closed and its server has ended."""
        return self.closed and (self._thread is None or not self._thread.is_alive())

    def retire(self) -> None:
        """End the server for good as soon as no request uses it or waits for it."""
        with self._changed:
            self._ends = self._ends or "unused"
            self._forget_loads_by_hand()
            self._changed.notify_all()

    @property
    def _over(self) -> bool:
        """Whether no server is needed any more."""
        return self.closed or (self._ends == "unused" and not self.users and not self._waiters)

    def close(self) -> None:
        """Begin to end the server for good, whatever it does."""
        with self._changed:
            self._ends = "now"
            self._refuse_waiters(self._removed())

    def _removed(self) -> GatewayError:
        return BackendDown(f"the model {self.name} was removed", retry_after=1.0)

    def join(self, seconds: float) -> None:
        """Wait for the end after `close`; afterwards the server is killed."""
        if self._thread is not None:
            self._thread.join(seconds)
        self._starter.kill()

    # in the thread

    def _enter(self, state: State) -> None:
        """Called with the lock."""
        self.state = state
        self._changed.notify_all()

    def _is_unwanted(self) -> bool:
        return self.state is State.STOPPING or self._over

    def _run(self) -> None:
        living = KeepAlive(f"running model {self.name}")
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiters or self._over)
                self._changed.wait_for(lambda: self._over, self._restarts.pause)
                if self._over:
                    self._thread = self._thread if self.closed else None  # one may still come
                    return
                if not self._waiters:
                    continue
                self._began = math.inf
                self._enter(State.WAITING)
            if not living.turn(self._live):
                self._fail(LoadFailed(f"the model {self.name}: internal error, see the log"))
                self.on_change()

    def _live(self) -> None:
        """Run a server from its start to its end, once there is room for it."""
        try:
            self.on_change()
            self._starter.check()
            self.needs.recall()
            if self._room.enter(self):
                self._run_server()
        except (BadRequest, LoadFailed) as error:
            self._fail(error)
        finally:
            with self._changed:
                self._room.leave(self)
                self._enter(State.STOPPED)
            self.on_change()

    def _run_server(self) -> None:
        began = time.monotonic()
        server: Server | None = None
        try:
            with self._changed:
                if self.state is not State.WAITING:
                    raise Stopped
                self._began = began
                self._enter(State.LOADING)
            log.info("model %s: starting", self.name)
            server, process, caps = self._starter.start(began + self.config.start_timeout)
            if self.slots is not None:
                self.slots.on_loaded(caps)
            self.needs.measure(process.pid)
            self._on_loaded(server, caps, time.monotonic() - began)
            self._while_loaded(process)
            if process.alive:
                if self.slots is not None:
                    self.slots.save(server)
                log.info("model %s: stopping", self.name)
            else:
                why = f"the server of the model {self.name} ended with {process.exit}"
                self._fail(LoadFailed(why, cause="died"), loaded=True)
        except Stopped:
            log.info("model %s: stopped while it was loading", self.name)
        except GatewayError as error:
            self._fail(error)
        except OSError as error:
            why = f"its server could not be started: {error.strerror}"
            self._fail(self._starter.failure(why, "not_started"))
        finally:
            with self._changed:
                self.lost = self.lost or self.server is not None
                self.server = None
                self.ttl = self.config.ttl or math.inf
                self._enter(State.STOPPING)
            self.on_change()
            self.needs.end()
            self.needs.keep()
            self._starter.end()
            if server is not None:
                server.close()

    def _on_loaded(self, server: Server, caps: Capabilities, took: float) -> None:
        size = sum(self.needs.amounts) >> 20
        log.info("model %s: loaded after %.1f s, %d MiB", self.name, took, size)
        with self._changed:
            if self.state is State.STOPPING:
                raise Stopped
            self.needs.learn(took)
            self.loads += 1
            self.load_seconds += took
            self.caps, self.error = caps, None
            self.used = self._began = time.monotonic()
            self.server = server
            self._forget_loads_by_hand()
            self._enter(State.READY)
        self.on_change()
        self.needs.keep()  # requests are answered meanwhile

    def _while_loaded(self, process: ModelProcess) -> None:
        """Wait until the server ends, or has to."""
        measured = time.monotonic()
        while process.alive:
            if time.monotonic() - measured > MEASURE:
                self.needs.measure(process.pid)
                measured = time.monotonic()
            with self._changed:
                idle = not (self.users or self._waiters) and self.left <= 0
                drained = self.state is State.DRAINING and not self.users
                if self._over or idle or drained:
                    self._enter(State.STOPPING)  # no request uses it from here on
                    if self.slots is not None:
                        self.slots.leave()
                    return
                self._changed.wait(min(WATCH, max(LOOK, self.left)))

    def _fail(self, error: GatewayError, *, loaded: bool = False) -> None:
        """Record a failure. Waiting requests get the error, unless it is of a loaded server."""
        if self._over:
            return
        log.error("%s", error.private[0] if error.private else error.message)
        with self._changed:
            self.error = error
            self._restarts.failed()
            if not loaded:
                self._refuse_waiters(error)

    def _forget_loads_by_hand(self) -> None:
        """Called with the lock."""
        self._waiters = [waiter for waiter in self._waiters if not waiter.by_hand]

    def _refuse_waiters(self, error: GatewayError) -> None:
        """Called with the lock."""
        for waiter in self._waiters:
            waiter.error = error
        self._waiters = []
        self._changed.notify_all()


def _copy(error: GatewayError, retry_after: float) -> GatewayError:
    own = copy(error)
    own.retry_after = retry_after
    return own
