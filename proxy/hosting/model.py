"""One model that the gateway starts itself: its server from start to end, and who uses it.

    unloaded ──need──> loading ──> loaded ──idle for its ttl, stop──> unloaded
                        │   │        │
                        │   └─fails──┴──dies──> failed ──need, after a pause──> loading
                        └─stop──> stopping ──> unloaded

A stop while it loads refuses the requests that wait for the load; later ones have it loaded again.

A thread of its own starts the server when a request needs it, finds out what it can do, and ends
it. It lives longer than the server, because the kernel ends the server with the thread. Requests
only wait. One that waits for a load that fails gets the reason, with the server's last lines. After
its first failure, a server is started again at once; the pause grows with each further one, and
from the third on requests within it are refused.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator

from ..backends.driver import Capabilities
from ..config import ModelConfig
from ..errors import (
    BackendDown,
    BadRequest,
    GatewayError,
    QueueFull,
    UpstreamFault,
    UpstreamTimeout,
)
from ..runtime.cancel import Cancel
from ..runtime.lasting import Lasting, no_pause
from .budget import Amounts, Uses
from .memory_budget import MemoryBudget, Waiter
from .need import Cards, KeptNeeds, Need
from .process import ModelLog, ModelProcess
from .slot_keeper import ModelSlots
from .starting import LOOK, SELDOM, Connect, LoadFailed, Server, Starter, Stopped

log = logging.getLogger("slotproxy.models")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds between two starts after failures
HOPELESS = 3  # failures in a row after which requests are refused rather than kept waiting
LASTING = 60.0  # seconds after which a server counts as working, even without an answer
WATCH = 1.0  # seconds between two checks of a loaded server
MEASURE = 30.0  # seconds between two measurements of the memory of a loaded server


class HostedModel:
    """`connect` and `deadline` are those of `Starter`. At most `max_waiting` requests wait for a
    load. `on_change` is called after every change of `status`. It is a candidate of `room`. `needs`
    remembers what it needed, `slots` keeps its slots over the end of its server."""

    def __init__(
        self,
        config: ModelConfig,
        connect: Connect,
        *,
        room: MemoryBudget,
        deadline: float,
        max_waiting: int,
        needs: KeptNeeds | None = None,
        cards: Cards | None = None,
        slots: ModelSlots | None = None,
    ) -> None:
        self.config = config
        self.slots = slots
        self.name = config.name
        self.log = ModelLog()
        self.status = "unloaded"
        self.caps: Capabilities | None = None  # of the last server that was loaded
        self.lost = False  # the server's slots are gone, until the registry has handled it
        self.error: GatewayError | None = None  # why it is not loaded, after a failure
        self.users = 0  # requests on the server
        self.cache_worth: Callable[[], float] = lambda: 0.0  # seconds lost with its caches
        self.on_change: Callable[[], None] = lambda: None
        self._starter = Starter(
            config,
            connect,
            deadline=deadline,
            log=self.log,
            slots=slots,
            changed=room.changed,
            unwanted=lambda: self._ending or self._over,
        )
        self._max_waiting = max_waiting
        self._room = room
        self._changed = room.changed
        self._uses = Uses()
        self.needs = Need(config, needs, cards)
        self._ttl = config.ttl or math.inf
        self._pinned = config.pin
        self._fresh = True  # it has completed no request since it was loaded
        self._thread: threading.Thread | None = None
        self._server: Server | None = None  # while loaded
        self._waiters: list[Waiter] = []
        self._ending = False  # its server ends as soon as no request uses it
        self._retired = False  # it ends for good as soon as no request needs it
        self._closed = False
        self._used = 0.0  # when a request used it last
        self._began = math.inf  # when its server began to load, and then when it was loaded
        self._answered = False  # the current server has completed a request
        self._loads = 0
        self._failed_starts = 0
        self._failures = 0  # in a row
        self._retry_at = 0.0

    # for requests

    def use(
        self, cancel: Cancel, tick: float, patience: float, key: str = ""
    ) -> Iterator[Server | None]:
        """Wait for the server, starting it if necessary, and yield its driver; after that, the
        caller must call `leave`. Yields None at each tick before. `key` is the name of the API key.

        Raises UpstreamFault if it cannot be started, UpstreamTimeout after `patience` seconds,
        QueueFull, Cancelled."""
        began = time.monotonic()
        ticks = 1
        waiter = Waiter(key, began)
        failed_starts = self._enter(waiter)
        try:
            while True:
                with self._changed:
                    server = self._server
                    if server is not None and not self._ending:
                        self.users += 1
                        self._uses.add(time.monotonic())
                        break
                    if self._failed_starts != failed_starts or self._closed:
                        raise self._reason()
                    self._changed.wait(min(SELDOM, tick))
                cancel.check()
                waited = time.monotonic() - began
                if waited >= patience:
                    raise UpstreamTimeout(f"timed out loading the model {self.name}")
                if waited >= ticks * tick:
                    ticks += 1
                    yield None
        finally:
            with self._changed:
                if self._failed_starts == failed_starts:  # otherwise nobody waits from before it
                    self._waiters.remove(waiter)
        yield server

    def load(self, patience: float) -> None:
        """Load the server without using it, waiting for at most `patience` seconds. It may be
        unloaded again before this returns. Raises QueueFull, or why it was not started lately."""
        waiter = Waiter("", time.monotonic())
        failed_starts = self._enter(waiter)
        with self._changed:
            loads = self._loads
            self._changed.wait_for(
                lambda: (
                    self._server is not None
                    or (loads, failed_starts) != (self._loads, self._failed_starts)
                    or self._retired
                    or self._closed
                ),
                patience,
            )
            if self._failed_starts == failed_starts:  # otherwise nobody waits from before it
                self._waiters.remove(waiter)

    def _enter(self, waiter: Waiter) -> int:
        """Ask for the server. Returns the number of failed starts so far."""
        with self._changed:
            if self._closed or self.retry:
                raise self._reason(self.retry)
            if self._server is None and len(self._waiters) >= self._max_waiting:
                raise QueueFull(
                    f"too many requests are waiting for the model {self.name}",
                    retry_after=self.takes,
                )
            self._waiters.append(waiter)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"model-{self.name}", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()
            return self._failed_starts

    def leave(self, *, answered: bool) -> None:
        """End a use of the server."""
        with self._changed:
            self.users -= 1
            self._used = time.monotonic()
            if answered:
                self._answered = True
                self._failures = 0
                self._fresh = False
            self._changed.notify_all()

    def _reason(self, retry_after: float = 0.0) -> GatewayError:
        if self._closed:
            return BackendDown(f"the model {self.name} was removed")
        error = self.error or LoadFailed(
            f"the model {self.name} was unloaded while it was loading: ask again to load it"
        )
        wait = max(1.0, retry_after)
        return type(error)(error.message, param=error.param, code=error.code, retry_after=wait)

    # for the room

    @property
    def need(self) -> Amounts:
        return self.needs.amounts

    @property
    def pinned(self) -> bool:
        return self._pinned

    @property
    def waiters(self) -> tuple[Waiter, ...]:
        return () if self._closed else tuple(self._waiters)

    @property
    def loaded_at(self) -> float:
        return math.inf if self._server is None else self._began

    @property
    def leaving(self) -> bool:
        return self._ending or self._closed

    def idle(self, now: float) -> float:
        return -1.0 if self.users or self._server is None else now - self._used

    def fresh(self) -> bool:
        return self._fresh

    @property
    def takes(self) -> float:
        """The seconds that a load takes, by the last one."""
        return self.needs.seconds

    def worth(self, now: float) -> float:
        return self._uses.worth(self.takes, now) + self.cache_worth()

    # for the driver and for operators

    def place(self) -> tuple[int, float]:
        """Its place in the line of models that have no room, 0 if it has, and the seconds until it
        is loaded, as far as is known."""
        number, seconds = self._room.place(self)
        return number, seconds if number else max(0.0, self.takes - self.elapsed)

    @property
    def elapsed(self) -> float:
        """The seconds since its server began to load, and then since it was loaded; 0 before."""
        return max(0.0, time.monotonic() - self._began)

    @property
    def retry(self) -> float:
        """The seconds in which it is not started again after failures, 0 if it can be loaded."""
        return max(0.0, self._retry_at - time.monotonic()) if self._failures >= HOPELESS else 0.0

    def notice(self) -> str:
        """For a request that waits for the model, "" if it is loaded."""
        if self.status == "loaded":
            return ""
        number, seconds = self.place()
        place = f", place {number}" if number else ""
        about = f", about {math.ceil(seconds)} s" if self.needs.is_learned and seconds else ""
        return f"loading {self.name}{place}{about}"

    @property
    def server(self) -> Server | None:
        """The driver of the loaded server, for requests that neither wait nor keep it."""
        return self._server

    def stop(self) -> None:
        """End the server as soon as no request uses it, or at once while it loads; the next request
        starts it again."""
        with self._changed:
            loads = self.status == "loading"
            self._ending = loads or self._server is not None
            if loads:
                self.status, self.error = "stopping", None
                self._refuse_waiters()
            elif self._ending and self.slots is not None:
                self.slots.leave()
            self._changed.notify_all()
        if loads:
            self.on_change()

    def pin(self, pinned: bool) -> None:
        """Say whether it gives way to other models, until its settings are read again."""
        with self._changed:
            self._pinned = pinned
            self._changed.notify_all()

    def keep(self, seconds: float) -> None:
        """Replace the ttl until the model is unloaded; inf for never."""
        self._ttl = seconds

    def kill(self, why: str) -> None:
        """Kill a server that hangs."""
        process = self._starter.process
        if process is not None:
            log.error("model %s: %s, its server is killed", self.name, why)
            process.kill()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def gone(self) -> bool:
        """Whether it is closed and its server has ended."""
        return self._closed and (self._thread is None or not self._thread.is_alive())

    def retire(self) -> None:
        """End the server for good as soon as no request uses it or waits for it."""
        with self._changed:
            self._retired = True
            self._changed.notify_all()

    @property
    def _over(self) -> bool:
        """Whether no server is needed any more."""
        return self._closed or (self._retired and not self.users and not self._waiters)

    def close(self) -> None:
        """Begin to end the server for good, whatever it does."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the end after `close`; afterwards the server is killed."""
        if self._thread is not None:
            self._thread.join(seconds)
        process = self._starter.process
        if process is not None:
            process.kill()

    # in the thread

    def _run(self) -> None:
        living = Lasting(f"running model {self.name}", no_pause)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiters or self._over)
                pause = self._retry_at - time.monotonic()
                if pause > 0:
                    self._changed.wait_for(lambda: self._over, pause)
                if self._over:
                    self._thread = self._thread if self._closed else None  # one may still come
                    return
                if not self._waiters:
                    continue
            if not living.turn(self._live):
                self._fail(UpstreamFault(f"the model {self.name}: internal error, see the log"))
                self._set("failed")

    def _live(self) -> None:
        """Run a server from its start to its end, once there is room for it."""
        self._began = math.inf
        self._set("loading")
        self.needs.recall()
        try:
            if self._room.enter(self) and not self._ending:
                self._run_server()
            else:
                self._set("unloaded")
        except BadRequest as error:
            self._fail(error)
            self._set("failed")
        finally:
            with self._changed:
                self._room.leave(self)
                self._ending = False

    def _run_server(self) -> None:
        began = self._began = time.monotonic()
        server: Server | None = None
        log.info("model %s: starting", self.name)
        try:
            server, process, caps = self._starter.start(began + self.config.start_timeout)
            if self.slots is not None:
                self.slots.on_loaded(caps)
            self._on_loaded(server, caps, time.monotonic() - began)
            self._while_loaded(process)
            if self.slots is not None and process.alive:
                self.slots.save(server)
            self._on_end(process)
        except Stopped:
            log.info("model %s: stopped while it was loading", self.name)
        except GatewayError as error:
            self._fail(error)
        except OSError as error:
            why = f"its server could not be started: {error.strerror}"
            self._fail(self._starter.failure(why, "not_started"))
        finally:
            with self._changed:
                self.lost = self.lost or self._server is not None
                self._server = None
                self._ending = True
                self._ttl = self.config.ttl or math.inf
                self.status = "unloaded" if self.error is None else "failed"
            self.on_change()
            self.needs.end()
            self.needs.keep()
            self._starter.end()
            if server is not None:
                server.close()

    def _on_loaded(self, server: Server, caps: Capabilities, took: float) -> None:
        if self._starter.process is not None:
            self.needs.measure(self._starter.process.pid)
        log.info("model %s: loaded after %.1f s, %s", self.name, took, self.needs.shown)
        with self._changed:
            if self._ending:
                raise Stopped
            self.needs.learn(took)
            self.caps, self.error = caps, None
            self._answered = False
            self._fresh = True
            self._used = self._began = time.monotonic()
            self.status = "loaded"
            self._loads += 1
            self._server = server
            self._changed.notify_all()
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
                if self._over or idle or (self._ending and not self.users):
                    self._ending = True  # no request uses it from here on
                    if self.slots is not None:
                        self.slots.leave()
                    return
                self._changed.wait(min(WATCH, max(LOOK, self.left)))

    @property
    def ttl(self) -> float:
        """After how many idle seconds it is unloaded; inf for never."""
        return self._ttl

    @property
    def left(self) -> float:
        """The seconds until it was idle for its ttl, if nobody uses it; inf without one."""
        used = self._used or time.monotonic()
        return used + self._ttl - time.monotonic()

    def _on_end(self, process: ModelProcess) -> None:
        if process.alive:
            log.info("model %s: stopping", self.name)
            return
        worked = self._answered or time.monotonic() - self._used > LASTING
        if worked:
            self._failures = 0
        why = f"the server of the model {self.name} ended with {process.exit}"
        self._fail(LoadFailed(why, cause="died"), loaded=True)

    def _fail(self, error: GatewayError, *, loaded: bool = False) -> None:
        """Record a failure. Requests that wait for a load get the error; after the death of a
        loaded server, the next load starts for them."""
        if self._over:
            return
        log.error("%s", error.message.partition("\n")[0])
        with self._changed:
            self.error = error
            self._failures += 1
            if self._failures > 1:
                pause = FIRST_PAUSE * 2.0 ** (self._failures - 2)
                self._retry_at = time.monotonic() + min(LONGEST_PAUSE, pause)
            if not loaded:
                self._refuse_waiters()
            self._changed.notify_all()

    def _refuse_waiters(self) -> None:
        """End the wait of all requests with `_reason`."""
        self._failed_starts += 1
        self._waiters = []

    def _set(self, status: str) -> None:
        with self._changed:
            self.status = status
            self._changed.notify_all()
        self.on_change()
