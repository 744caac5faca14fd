"""Health and changes of the backends: probes, health checks, reloads, models of routers.

One thread monitors each backend. One that is down must generate a token within the deadline to come
up, since a hung server still answers every GET. One that is up is only asked whether it responds: a
token would cost a slot its conversation, and other faults show in the traffic, through `failed`.

At a change of the configuration, a new `Backend` takes over the name, and the old one finishes its
requests. For the same address, the scheduler keeps its records, so that the server never gets more
requests than it has slots. Each model of a router, or of a server like Ollama, is a backend here,
created when the address lists it and drained when it no longer does.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ..config import BackendConfig
from ..errors import (
    BackendDown,
    ConnectionLost,
    GatewayError,
    Unreachable,
    UpstreamFault,
    UpstreamTimeout,
)
from ..runtime.cancel import Cancel
from ..runtime.keep_alive import KeepAlive
from ..scheduling.schedulers import Scheduler
from ..wire.router import Listed
from .driver import Capabilities, Driver, ModelHost
from .llamacpp import LlamaCpp
from .local_embeddings import LOCAL
from .openai.driver import OpenAIHost, OpenAIServer
from .pools import Backend, BackendPools
from .probe import ROUTER
from .router import Router

log = logging.getLogger("slotproxy.backends")

CLOSING = 2.0  # seconds that the end waits for health checks under way
IDLE_PAUSE = 1.0  # seconds between two checks of a backend that is down while no request waits
PAUSE = 0.3  # the same while requests wait for it, and the minimum between any two checks


class Registry(BackendPools):
    """Keeps the pools up to date. `start` begins to monitor the backends, `close` ends that."""

    def __init__(
        self,
        backends: Sequence[Backend],
        scheduler: Scheduler,
        *,
        interval: float = 5.0,
        deadline: float = 30.0,
        **names: Any,
    ) -> None:
        """`names` as of `BackendPools`."""
        super().__init__(backends, **names)
        self._scheduler = scheduler
        self._interval = interval
        self._deadline = deadline
        self._stopped = threading.Event()
        # Compares the prompts of a backend that is up with ours.
        self.verify: Callable[[Backend], None] = lambda backend: None
        # Called when a backend was probed, or its model was loaded or unloaded. It must not wait.
        self.on_update: Callable[[Backend], None] = lambda backend: None
        self.looked = threading.Event()  # set once every backend was checked
        self._replaced: list[Backend] = []  # draining, with their names taken over
        self._started = False
        self._threads: list[threading.Thread] = []
        scheduler.on_stranded = self.look_soon
        scheduler.patience = self.patience
        for backend in backends:
            self._update_scheduler(backend)

    def start(self) -> None:
        self._started = True
        for backend in self.backends.values():
            self._start(backend)

    def _start(self, backend: Backend) -> None:
        if not self._started:
            return
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(
            target=self._monitor, args=(backend,), name=f"health-{backend.name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def reload(
        self, new_configs: Sequence[BackendConfig], make: Callable[[BackendConfig], Backend]
    ) -> None:
        """Apply a changed configuration. New and changed backends are created first; if that raises
        SettingsError, nothing has changed. Removed backends drain."""
        configs = {config.name: config for config in new_configs}
        before, made = self.configured, []
        try:
            for name, config in configs.items():
                if name not in before or not _is_moved(before[name].config, config):
                    made.append(make(config))
        except BaseException:
            for backend in made:
                self._close(backend)
            raise
        self.configured = {name: before[name] for name in before if name in configs}
        for name in before.keys() - configs.keys():
            for member in (before[name], *self._models_of(before[name])):
                self._drain(member)
        for name, backend in self.configured.items():
            if _is_moved(backend.config, configs[name]) and backend.config != configs[name]:
                self._move(backend, configs[name])
        for backend in made:
            self._replace(backend)
        self.configured = {name: self.configured[name] for name in configs}
        self.rebuild()
        log.info("reloaded, backends: %s", ", ".join(configs) or "none")

    def _move(self, backend: Backend, config: BackendConfig) -> None:
        """Move a backend to another place in a route, or out of one, without closing it."""
        backend.config = config
        for member in (backend, *self._models_of(backend)):
            member.place = config.place if member is backend or backend.set_model else None
            if member.name in self.backends:
                self._update_scheduler(member)

    def _replace(self, backend: Backend) -> None:
        """Add a configured backend, in place of the one with its name if there is one."""
        old = self.configured.get(backend.name)
        self.configured = {**self.configured, backend.name: backend}
        if old is not None and old.router is not None:
            for member in self._models_of(old):
                if old.url == backend.url:
                    member.host = backend  # it keeps serving until the new one was checked
                else:
                    self._drain(member)
            old.leaving = True
            old.wake.set()
        self._add(backend)

    def _add(self, backend: Backend) -> None:
        with self._changing:
            old = self.backends.get(backend.name)
            if old is not None:
                old.leaving = True
                self._replaced.append(old)
                backend.presumed = old.model
                # With another key, a server may behave differently.
                keys = {b.config.api_key if b.config is not None else None for b in (old, backend)}
                same = type(backend.driver) is type(old.driver) and backend.url == old.url
                if same and len(keys) == 1:
                    backend.take_over(old)
            self.backends = {**self.backends, backend.name: backend}
        self._update_scheduler(backend, replaces=old is not None and old.url != backend.url)
        if old is not None:
            old.wake.set()
        self._start(backend)

    def _drain(self, backend: Backend) -> None:
        """Drain a backend. It is removed after its last answer."""
        backend.leaving = True
        self.rebuild()
        if self.backends.get(backend.name) is backend:
            self._scheduler.drain(backend.name)
        backend.wake.set()

    def close(self) -> None:
        self._stopped.set()
        backends = [*self.configured.values(), *self.backends.values(), *self._replaced]
        for backend in backends:
            backend.wake.set()
        end = time.monotonic() + CLOSING
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        for backend in backends:
            self._close(backend)

    def _close(self, backend: Backend) -> None:
        if backend.closed:
            return
        backend.closed = True
        if backend.router is not None:
            backend.router.close()
        backend.driver.close()

    def load(self, model: str, cancel: Cancel) -> Iterator[str]:
        """Load a model that is `unknown`. Yields notices. Raises like `Driver.load`."""
        reason: GatewayError | None = None
        for backend in self.pool(model):
            if not (backend.up and backend.status):
                continue
            try:
                for _ in backend.driver.load(cancel):
                    yield backend.driver.loading()
            except UpstreamFault as error:
                reason = error
                self.failed(backend, error)
                continue
            self._refresh(backend)
            return
        if reason is not None:
            raise reason

    def load_unknown(self, model: str, cancel: Cancel) -> None:
        """`load` a model that is `unknown`, since only then is it known how to ask it."""
        if self.unknown(model):
            for _ in self.load(model, cancel):
                pass

    # health

    def failed(self, backend: Backend, error: GatewayError) -> None:
        """Check a backend at once after a fault that an attempt met. If it refuses connections or
        timed out, it is down until it generates a token again."""
        if backend.leaving or self.backends.get(backend.name) is not backend:
            return  # another may have its name
        unreachable = isinstance(error, BackendDown) and not isinstance(error, ConnectionLost)
        if backend.up and (unreachable or isinstance(error, UpstreamTimeout)):
            self._down(backend, error)
        backend.wake.set()

    def _monitor(self, backend: Backend) -> None:
        wake = backend.wake
        checks = KeepAlive(f"health check of backend {backend.name}")
        while not (self._stopped.is_set() or backend.closed):
            wake.clear()
            checks.turn(partial(self.check, backend))
            if self.settled:
                self.looked.set()
            well = backend.up if backend.router is None else backend.router.up
            calm = well and not backend.leaving
            longest = self._interval if calm else min(IDLE_PAUSE, self._interval)
            if backend.router is not None:
                longest = min(longest, backend.router.interval)
            if not calm and self._scheduler.waiting:
                longest = min(longest, PAUSE)
            if not backend.closed:
                end = time.monotonic() + min(PAUSE, longest)
                if wake.wait(longest):
                    self._stopped.wait(max(0.0, end - time.monotonic()))

    def check(self, backend: Backend) -> None:
        """Check a backend once; one that drains is removed and closed after its last answer."""
        if not backend.leaving:
            self._check_health(backend)
            if backend.up:
                self.verify(backend)
            return
        for member in self._models_of(backend):
            if not member.leaving:  # created while its router was drained
                self._drain(member)
        self._remove_if_drained(backend)

    def _remove_if_drained(self, backend: Backend) -> None:
        with self._changing:
            everybody = (*self.backends.values(), *self._replaced)
            needed = backend.router is not None and any(b.router_of is backend for b in everybody)
            if not backend.leaving or backend.users or needed:
                return
            self._replaced = [other for other in self._replaced if other is not backend]
            self.backends = {n: b for n, b in self.backends.items() if b is not backend}
        self.rebuild()
        self._close(backend)

    def _check_health(self, backend: Backend) -> None:
        if backend.router is not None:
            self._check_models(backend, backend.router)
        elif not backend.up:
            self._probe(backend)
        elif not backend.driver.alive():
            if backend.up:  # a failed request may have marked it down first
                self._down(backend, None)
        elif backend.uncounted and self._count(backend):
            log.info("backend %s has %d slots", backend.name, backend.slots)
            self._update_scheduler(backend)
        elif backend.status:
            self._refresh(backend)

    def _probe(self, backend: Backend) -> None:
        def on_capabilities(caps: Capabilities) -> None:
            """Publish the first findings, unless more was known before."""
            if backend.caps is None:
                backend.caps = caps
                self._update_scheduler(backend)

        try:
            backend.choose_driver()
            caps = backend.driver.probe(self._deadline, on_capabilities)
            if caps.dialect == ROUTER:
                backend.router = _host(backend.driver, caps, backend.wake.set)
                log.info("backend %s is up: a server with several models", backend.name)
                if backend.place is not None and not backend.set_model:
                    log.warning(
                        "backend %s is not used by the route %s: name one of its models, with model"
                        " in its [[backend]] table",
                        backend.name,
                        backend.place.model,
                    )
                backend.wake.set()
                return
            backend.counter.clear(slow=not caps.queues)
            backend.verified = None
            backend.caps, backend.error = caps, ""
            if backend.uncounted:
                self._count(backend)
        except GatewayError as error:
            if backend.up is not False or str(error) != backend.error:
                self._down(backend, error)
            return
        except Exception:
            self._down(backend, UpstreamFault("health check failed, see the log"))
            raise
        if backend.status:
            # Reported before it is up, or a request would be sent there rather than to a backend
            # that has the model loaded.
            backend.load_eta = backend.driver.load_eta
            self._scheduler.mark(backend.name, False, backend.load_eta)
        backend.unreachable_since = math.inf
        # Before `up` is set, the pools and the scheduler must know the backend.
        self._update_scheduler(backend, rising=True)
        backend.up = True
        if backend.status != "failed":  # the log has the reason already
            log.info("%s", _is_up(backend, caps))

    def _count(self, backend: Backend) -> bool:
        """Count the slots if the server does not report them and none of our requests runs there.
        Returns whether the number changed."""
        caps = backend.caps
        assert caps is not None, "counted after a probe"
        if self._scheduler.in_flight(backend.name):
            return False
        backend.caps = msgspec.structs.replace(caps, slots=backend.driver.count_slots())
        return bool(backend.caps.slots)

    # routers

    def _models_of(self, host: Backend) -> tuple[Backend, ...]:
        return tuple(b for b in self.backends.values() if b.host is host)

    def _check_models(self, host: Backend, router: ModelHost) -> None:
        """Keep a backend for each model that the router lists."""
        before = router.models
        try:
            listed = router.look()
        except GatewayError as error:
            if host.error != str(error):
                host.error = str(error)
                log.warning("backend %s is down: %s", host.name, error)
            for member in self._models_of(host):
                member.wake.set()  # each model is checked by its own thread
            return
        host.error = ""
        if listed is None:
            log.warning("backend %s has only one model now", host.name)
            host.router, host.up = None, None
            router.close()
            self._sync_models(host, router, {})
            return
        offered = {n: entry for n, entry in listed.items() if host.set_model in ("", n)}
        self._sync_models(host, router, offered)
        for member in self._models_of(host):
            name = member.set_model
            if name in router.lost or listed.get(name) != before.get(name):
                member.wake.set()
        if not offered:
            missing = f"the model {host.set_model}" if host.set_model else "any models"
            host.up, host.error = False, f"the router does not list {missing}"

    def _sync_models(self, host: Backend, router: ModelHost, offered: Mapping[str, Listed]) -> None:
        """Add and drain backends to match the listed models; its own stands in for none."""
        members = {member.set_model: member for member in self._models_of(host)}
        for name, member in members.items():
            if name not in offered and not member.leaving:
                self._drain(member)
                router.forget(name)
        for name, listed in offered.items():
            old = members.get(name)
            if old is None or old.leaving or old.router_of is not host:
                self._add(host.of_model(name, router.model(name), listed.aliases))
            elif old.aliases != listed.aliases:
                old.aliases = listed.aliases
                self.rebuild()
        if offered and host.name in self.backends:
            self._scheduler.drain(host.name)
            with self._changing:
                self.backends = {n: b for n, b in self.backends.items() if b is not host}
            self.rebuild()
        elif not offered and host.name not in self.backends:
            with self._changing:
                self.backends = {**self.backends, host.name: host}
            self._update_scheduler(host)

    def _down(self, backend: Backend, error: GatewayError | None) -> None:
        backend.error = str(error) if error is not None else "the backend is not responding"
        if not isinstance(error, Unreachable):
            backend.unreachable_since = math.inf
        elif backend.unreachable_since == math.inf:
            # Nobody knows whether one that never answered will ever be there.
            backend.unreachable_since = -math.inf if backend.caps is None else time.monotonic()
        backend.up = False
        if not backend.leaving:  # at once, or requests that were refused try it again and again
            self._scheduler.mark(backend.name, up=False)
        self.rebuild()
        log.warning("%s is down: %s", _name(backend), backend.error.removeprefix("the backend is "))

    def _refresh(self, backend: Backend) -> None:
        """Report the state of a model that its server loads and unloads."""
        driver = backend.driver
        caps, lost = driver.refresh()
        if caps != backend.caps or lost:
            if caps != backend.caps:
                backend.counter.clear(slow=not caps.queues)
            backend.caps = caps
            self._update_scheduler(backend, anew=lost)
        if driver.load_eta != backend.load_eta:
            backend.load_eta = driver.load_eta
            self._scheduler.mark(backend.name, bool(backend.up), backend.load_eta)

    def _update_scheduler(
        self, backend: Backend, rising: bool = False, anew: bool = False, replaces: bool = False
    ) -> None:
        # The scheduler first: a request enters its queue as soon as its model is in the pools.
        if not backend.leaving:  # another has its name, or the scheduler no longer assigns it
            up = True if rising else backend.up
            self._scheduler.update(backend.name, backend.facts, up=up, anew=anew, replaces=replaces)
        self.rebuild(backend if rising else None)
        if not backend.leaving:
            self.on_update(backend)


def _is_moved(old: BackendConfig | None, new: BackendConfig) -> bool:
    """Whether nothing but the place in a route has changed."""
    return old is not None and msgspec.structs.replace(old, place=new.place) == new


def _host(driver: Driver, caps: Capabilities, wake: Callable[[], None]) -> ModelHost:
    """The host of an address that has several models; it calls `wake` when they change."""
    if isinstance(driver, OpenAIServer):
        return OpenAIHost(driver)
    assert isinstance(driver, LlamaCpp), "only these two find several models"
    return Router(driver, caps, wake)


def _name(backend: Backend) -> str:
    """What the log calls it: a model, if it is started here."""
    is_model = backend.config is not None and backend.config.launch is not None
    return f"{'model' if is_model else 'backend'} {backend.name}"


def _is_up(backend: Backend, caps: Capabilities) -> str:
    if caps.provisional:
        return f"model {backend.model}: available, loads on first request"
    if caps.dialect == LOCAL:
        return f"embeddings: the model {backend.model} is available"
    kind = f"llama.cpp's server of {caps.dialect}" if caps.dialect.isdigit() else caps.dialect
    return f"{_name(backend)} is up: {kind}, model {backend.model}"
