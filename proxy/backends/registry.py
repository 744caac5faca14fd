"""The configured backends, what probes found out about them, and the models they serve.

A model is a pool: all backends that serve a model of the same name. The registry reports health to
the scheduler, which alone assigns slots.

One thread monitors each backend. A backend that is down, or has never answered, must generate a
token within the deadline to come up, since a hung server still answers every GET. A backend that is
up is only asked whether it responds, because a token would cost a slot the conversation it holds;
other faults show in the traffic, through `failed`.

A request that finds no backend up waits in the queue and asks for a health check (`look_soon`). All
waiting requests share it: one check at a time per backend, and a pause after each failure.

A reload compares the configuration with the existing backends. Every change is handled the same
way: a new `Backend` takes over the name, and the old one drains: it finishes its requests and is
closed then. If the address is the same, the scheduler keeps its records, so that the server never
gets more requests than it has slots; another address begins with records of its own.

A llama-server in router mode has many models. Each is a backend here, created when the router lists
it and drained when the router no longer does. The thread of the address checks that list.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from ..config import BackendConfig
from ..errors import (
    BackendDown,
    ConnectionLost,
    GatewayError,
    ModelNotFound,
    NoBackend,
    UpstreamFault,
    UpstreamTimeout,
)
from ..runtime.cancel import Cancel
from ..scheduling.interface import Scheduler
from ..scheduling.state import BackendFacts
from ..wire.router import Listed
from .driver import Capabilities, Driver
from .llamacpp import LlamaCpp
from .probe import ROUTER
from .router import Router
from .tokens import TokenCounter
from .vocabulary import Vocabulary

log = logging.getLogger("slotproxy.backends")

UNNAMED = "default"
SETTLE = 0.02  # seconds an old server needs to free a slot after a complete answer
COUNT_PAUSE = 5.0  # seconds until the slots are counted again; doubled after each failure
COUNT_PAUSE_MOST = 600.0
IDLE_PAUSE = 1.0  # seconds between two checks of a backend that is down while no request waits
# The same while requests wait for it, and the minimum between any two checks.
FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.2, 0.5, 1.3
ChatMode = Literal["auto", "native", "completion"]


class Backend:
    """One configured backend. Values set in the configuration override the probe's.

    `up` is None until the first probe, `caps` until its first questions were answered; `error` says
    why it is down. `config` is its configuration. `leaving`: it drains, and is closed after its
    last answer; `users` counts the attempts under way on it. `presumed` is its model until it
    reports one: that of the backend whose name it took over. `router` is set if its address has
    several models; it then serves nothing itself. `host` is that backend for each of these models,
    and `aliases` are other names of its model. Fields are replaced whole, so readers need no
    lock."""

    def __init__(
        self,
        name: str,
        url: str,
        driver: Driver,
        *,
        model: str = "",
        slots: int = 0,
        n_ctx: int = 0,
        weight: float = 1.0,
        chat_mode: ChatMode = "auto",
        config: BackendConfig | None = None,
    ) -> None:
        self.name = name
        self.url = url
        self.driver = driver
        self.set_model = model
        self.set_slots = slots
        self.set_n_ctx = n_ctx
        self.weight = weight
        self.chat_mode = chat_mode
        self.config = config
        self.presumed = UNNAMED
        self.users = 0  # changed under the registry's lock only
        self.closed = False
        self.wake = threading.Event()  # asks for a check soon
        self.counter = TokenCounter(driver)
        self.vocabulary = Vocabulary(driver)
        self.caps: Capabilities | None = None
        self.up: bool | None = None
        self.error = ""
        self.leaving = False
        self.miscounted = False  # the counted number of slots may be wrong
        self.count_at = 0.0  # when the slots may be counted again
        self.count_pause = COUNT_PAUSE
        self.router: Router | None = None
        self.host: Backend | None = None
        self.router_of: Backend | None = None  # the backend whose router its driver uses
        self.aliases: tuple[str, ...] = ()
        self.awaits = 0.0  # expected seconds until its model is loaded, as last reported

    @property
    def model(self) -> str:
        """The name of its pool."""
        if self.set_model:
            return self.set_model
        return self.caps.models[0] if self.caps is not None and self.caps.models else self.presumed

    def take_over(self, old: Backend) -> None:
        """Keep what was found out about the same server under other settings."""
        self.caps, self.up, self.error, self.awaits = old.caps, old.up, old.error, old.awaits
        self.miscounted, self.count_at = old.miscounted, old.count_at

    @property
    def slots(self) -> int:
        """The number of parallel requests; 0 if unknown."""
        return self.set_slots or (self.caps.slots if self.caps is not None else 0)

    @property
    def uncounted(self) -> bool:
        """Whether its slots should be counted: the server does not report their number, none is
        configured, and there is no reliable count."""
        caps = self.caps
        if self.set_slots or caps is None or caps.queues:
            return False
        return not caps.slots or self.miscounted

    @property
    def n_ctx(self) -> int:
        """The context of a slot in tokens, 0 if unknown."""
        return self.set_n_ctx or (self.caps.n_ctx if self.caps is not None else 0)

    @property
    def status(self) -> str:
        """unloaded, loading, loaded, sleeping or failed, if its server loads models on demand; ""
        if its model is fixed."""
        return self.driver.status

    @property
    def trouble(self) -> str:
        """What is wrong with it, "" for nothing."""
        return self.error or (self.driver.trouble if self.up else "")

    @property
    def provisional(self) -> bool:
        """Whether its model was never loaded, so that little is known about it."""
        return self.caps is not None and self.caps.provisional


class Registry:
    """All backends by name. `start` begins to monitor them, `close` ends that."""

    def __init__(
        self,
        backends: Sequence[Backend],
        scheduler: Scheduler,
        *,
        aliases: Sequence[str] = (),
        strict: bool = False,
        default: str = "",
        interval: float = 5.0,
        deadline: float = 30.0,
    ) -> None:
        self.backends = {backend.name: backend for backend in backends}
        self._configured = dict(self.backends)  # by name; includes routers, not their models
        self._scheduler = scheduler
        self._aliases = tuple(aliases)
        self._strict = strict
        self._default = default
        self._interval = interval
        self._deadline = deadline
        self._stopped = threading.Event()
        self.looked = threading.Event()  # set once every backend was checked
        self._replaced: list[Backend] = []  # draining, with their names taken over
        self._started = False
        self._threads: list[threading.Thread] = []
        self._changing = threading.Lock()  # held to replace any of the following, or `backends`
        self._pools: dict[str, tuple[Backend, ...]] = {}  # cached, since every request reads them
        self._named: tuple[str, ...] = ()  # cached as well
        self._also: dict[str, str] = {}  # model by alias, from routers
        scheduler.on_stranded = self.look_soon
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
        self, wanted: Sequence[BackendConfig], make: Callable[[BackendConfig], Backend]
    ) -> None:
        """Apply a changed configuration. New and changed backends are created first; if that raises
        SettingsError, nothing has changed. Removed backends drain; one that is configured again
        meanwhile comes back."""
        configs = {config.name: config for config in wanted}
        returning: list[Backend] = []
        made: list[Backend] = []
        try:
            for name, config in configs.items():
                old = self._configured.get(name)
                if old is not None and old.config == config:
                    continue
                left = self.borrow(name) if old is None else None
                if left is not None:
                    returning.append(left)  # borrowed, so that it is not closed meanwhile
                if left is None or left.config != config or left.host is not None:
                    made.append(make(config))
        except BaseException:
            for backend in made:
                self._close(backend)
            for backend in returning:
                self.give_back(backend)
            raise
        known = self._configured
        self._configured = {name: known[name] for name in known if name in configs}
        for name in known.keys() - configs.keys():
            backend = known[name]
            for one in (backend, *self._models_of(backend)):
                self._drain(one)
        for backend in made:
            self._replace(backend)
        for backend in returning:
            if backend.config == configs[backend.name] and backend.host is None:
                self._take_back(backend)
            self.give_back(backend)
        self._configured = {name: self._configured[name] for name in configs}
        self._rebuild_pools()
        log.info("backends now: %s", ", ".join(configs) or "none")

    def _replace(self, backend: Backend) -> None:
        """Add a configured backend, in place of the one with its name if there is one."""
        old = self._configured.get(backend.name)
        self._configured = {**self._configured, backend.name: backend}
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
                if old.url == backend.url and _key(old) == _key(backend):
                    backend.take_over(old)
            self.backends = {**self.backends, backend.name: backend}
        self._update_scheduler(backend, replaces=old is not None and old.url != backend.url)
        if old is not None:
            old.wake.set()
        self._start(backend)

    def _take_back(self, backend: Backend) -> None:
        """Take back a draining backend that is configured again."""
        self._configured = {**self._configured, backend.name: backend}
        backend.leaving = False
        self._update_scheduler(backend)
        backend.wake.set()

    def _drain(self, backend: Backend) -> None:
        """Drain a backend. It is removed after its last answer."""
        backend.leaving = True
        self._rebuild_pools()
        if self.backends.get(backend.name) is backend:
            self._scheduler.drain(backend.name)
        backend.wake.set()

    def _remove(self, backend: Backend) -> None:
        with self._changing:
            self.backends = {n: b for n, b in self.backends.items() if b is not backend}
        self._rebuild_pools()

    # attempts

    def borrow(self, name: str) -> Backend | None:
        """The backend of a lease, which is not closed until it is given back. None if it was
        removed after the grant."""
        with self._changing:
            backend = self.backends.get(name)
            if backend is not None:
                backend.users += 1
            return backend

    def give_back(self, backend: Backend) -> None:
        with self._changing:
            backend.users -= 1
        if backend.leaving:
            backend.wake.set()

    def close(self) -> None:
        self._stopped.set()
        known = [*self._configured.values(), *self.backends.values(), *self._replaced]
        for backend in known:
            backend.wake.set()
        for thread in self._threads:
            thread.join(timeout=2 * self._deadline)
        for backend in known:
            self._close(backend)

    def _close(self, backend: Backend) -> None:
        if backend.closed:
            return
        backend.closed = True
        if backend.router is not None:
            backend.router.close()
        backend.driver.close()

    # models

    def models(self) -> tuple[str, ...]:
        """The names of the pools, in the order of the configuration. Backends that have not
        reported a model count only if no other has."""
        return self._named

    def names(self) -> tuple[str, ...]:
        """The names in /v1/models: the aliases if the only model has some, otherwise the models."""
        models = self.models()
        return self._aliases if self._aliases and len(models) == 1 else models

    def resolve(self, name: str) -> tuple[str, str]:
        """The pool and the name to answer with, for the model name in a request.

        With one model, or a default, any name means that model, unless names are strict. Raises
        ModelNotFound, and NoBackend if none is configured."""
        models = self.models()
        if not models:
            raise NoBackend("no backend is configured", retry_after=10.0)
        if name in models:
            return name, name
        if name in self._aliases:
            return models[0], name
        if name in self._also:
            return self._also[name], name
        if not name or (len(models) == 1 and not self._strict):
            return self._first(models), self.names()[0] if len(models) == 1 else self._first(models)
        if self._default in models and not self._strict:
            return self._default, self._default
        raise ModelNotFound(f"the model {name[:100]!r} does not exist", param="model")

    def _first(self, models: Sequence[str]) -> str:
        """The default model: one that need not be loaded, if there is any."""
        if len(models) > 1:
            for model in models:
                if any(b.up and b.status in ("", "loaded") for b in self._pools[model]):
                    return model
        return models[0]

    def pool(self, model: str) -> tuple[Backend, ...]:
        """The backends of a model. Those that are up come first, and fully probed ones before
        provisional ones."""
        return self._pools.get(model, ())

    def is_named(self, model: str) -> bool:
        """Whether this is a model's name, rather than that of backends without a reported model."""
        pool = self.pool(model)
        return not pool or any(b.caps is not None or b.set_model for b in pool)

    def status(self, model: str) -> str:
        """The best status among a model's backends, "" if none of them loads models on demand."""
        pool = self.pool(model)
        statuses = {b.status or "loaded" for b in pool if b.up}
        order = ("loaded", "loading", "sleeping", "unloaded", "failed")
        if not any(b.status for b in pool):
            return ""
        return next((status for status in order if status in statuses), "unloaded")

    def unknown(self, model: str) -> bool:
        """Whether a model must be loaded first because nothing is known about it."""
        pool = self._pools.get(model, ())
        return bool(pool and pool[0].up and pool[0].provisional)

    def load(self, model: str, cancel: Cancel) -> Iterator[str]:
        """Load a model that is `unknown`. Yields a notice for the waiting request at every tick.
        Raises like `Driver.load`."""
        reason: GatewayError | None = None
        for backend in self.pool(model):
            if not (backend.up and backend.status):
                continue
            try:
                for _ in backend.driver.load(cancel):
                    yield backend.driver.loading()
            except UpstreamFault as error:
                reason = error
                self.failed(backend.name, error)
                continue
            self._refresh(backend)
            return
        if reason is not None:
            raise reason

    @property
    def ready(self) -> bool:
        return any(b.up for b in self.backends.values())

    @property
    def settled(self) -> bool:
        """Whether every backend was checked once."""
        return all(b.up is not None for b in self.backends.values())

    # health

    def failed(self, name: str, error: GatewayError) -> None:
        """Handle a fault that an attempt met, with an immediate check of the backend.

        If it refuses connections or timed out, it is down until it generates a token again. Any
        other fault concerns only that request until the check says more."""
        backend = self.backends.get(name)
        if backend is None:
            return
        unreachable = isinstance(error, BackendDown) and not isinstance(error, ConnectionLost)
        if backend.up and (unreachable or isinstance(error, UpstreamTimeout)):
            self._down(backend, error)
        backend.wake.set()

    def miscounted(self, name: str) -> None:
        """Record a contradiction to the number of slots: a busy answer with fewer requests, or a
        slot number beyond. The slots are counted again when nothing runs there."""
        backend = self.backends.get(name)
        if backend is not None:
            backend.miscounted = True

    def look_soon(self, model: str) -> None:
        """Ask for a check because a request waits for this model. Never blocks."""
        for backend in self.pool(model):
            if not backend.up:
                backend.wake.set()

    def _monitor(self, backend: Backend) -> None:
        wake = backend.wake
        pause, defect = FIRST_PAUSE, ""
        while not self._stopped.is_set():
            wake.clear()
            try:
                if not self.tend(backend):
                    return
                defect = ""
            except Exception as error:  # an unexpected error must not end the monitoring
                if repr(error) != defect:
                    defect = repr(error)
                    log.exception("health check of backend %s failed", backend.name)
            if self.settled:
                self.looked.set()
            well = backend.up if backend.router is None else backend.router.up
            calm = well and not backend.leaving
            pause = FIRST_PAUSE if calm else min(LONGEST_PAUSE, pause * GROWTH)
            longest = self._interval if calm else min(IDLE_PAUSE, self._interval)
            if not calm and self._scheduler.waiting:
                longest = min(longest, pause)
            self._rest(wake, min(pause, longest), longest)

    def tend(self, backend: Backend) -> bool:
        """Check a backend once, or remove it if it has drained. False once it is removed."""
        if not backend.leaving:
            self._check(backend)
            return True
        for member in self._models_of(backend):
            if not member.leaving:  # created while its router was drained
                self._drain(member)
        return not self._remove_if_drained(backend)

    def _rest(self, wake: threading.Event, least: float, longest: float) -> None:
        """Wait until the next check, which `wake` may bring forward."""
        end = time.monotonic() + least
        if wake.wait(longest):
            self._stopped.wait(max(0.0, end - time.monotonic()))

    def _remove_if_drained(self, backend: Backend) -> bool:
        """Remove a draining backend without answers under way. Returns whether it was removed."""
        with self._changing:
            everybody = (*self.backends.values(), *self._replaced)
            needed = backend.router is not None and any(b.router_of is backend for b in everybody)
            if not backend.leaving or backend.users or needed:
                return False
            self._replaced = [other for other in self._replaced if other is not backend]
            self.backends = {n: b for n, b in self.backends.items() if b is not backend}
        self._rebuild_pools()
        self._close(backend)
        return True

    def _check(self, backend: Backend) -> None:
        if backend.router is not None:
            self._check_models(backend, backend.router)
        elif not backend.up:
            self._probe(backend)
        elif not backend.driver.alive():
            if backend.up:  # a failed request may have marked it down first
                self._down(backend, None)
        elif backend.uncounted and time.monotonic() >= backend.count_at:
            self._recount(backend)
        elif backend.status:
            self._refresh(backend)

    def _probe(self, backend: Backend) -> None:
        def learned(caps: Capabilities) -> None:
            """Publish the first findings, unless more was known before."""
            if backend.caps is None:
                backend.caps = caps
                self._update_scheduler(backend)

        try:
            caps = backend.driver.probe(self._deadline, learned)
            if caps.dialect == ROUTER and isinstance(backend.driver, LlamaCpp):
                wake = backend.wake.set
                backend.router = Router(backend.driver, caps, wake)
                log.info("backend %s is a multi-model router", backend.name)
                wake()
                return
            backend.counter.clear()
            backend.vocabulary.clear()
            backend.caps, backend.error = caps, ""
            backend.count_pause = COUNT_PAUSE
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
            backend.awaits = backend.driver.awaits
            self._scheduler.mark(backend.name, False, backend.awaits)
        # Before `up` is set, the pools and the scheduler must know the backend.
        self._update_scheduler(backend, rising=True)
        backend.up = True
        log.info("backend %s is up: %s, model %s", backend.name, caps.dialect, backend.model)

    def _count(self, backend: Backend) -> bool:
        """Count the slots if the server does not report them and none of our requests runs there.
        Returns whether the number changed."""
        caps = backend.caps
        assert caps is not None, "counted after a probe"
        if self._scheduler.in_flight(backend.name):
            return False
        count, idle = backend.driver.count_slots()
        # Randomized: workers that started together would disturb each other's counts repeatedly.
        backend.count_at = time.monotonic() + backend.count_pause * random.uniform(0.5, 1.5)
        backend.count_pause = min(COUNT_PAUSE_MOST, 2 * backend.count_pause)
        if not count:
            return False
        backend.miscounted = not idle
        backend.caps = msgspec.structs.replace(caps, slots=count)
        return count != caps.slots

    def _recount(self, backend: Backend) -> None:
        if self._count(backend):
            log.info("backend %s has %d slots", backend.name, backend.slots)
            self._update_scheduler(backend)

    # routers

    def _models_of(self, host: Backend) -> tuple[Backend, ...]:
        return tuple(b for b in self.backends.values() if b.host is host)

    def _check_models(self, host: Backend, router: Router) -> None:
        """Keep a backend for each model that the router lists."""
        before = router.models
        try:
            listed = router.look()
        except GatewayError as error:
            if host.error != str(error):
                host.error = str(error)
                log.warning("router %s is down: %s", host.name, error)
            for member in self._models_of(host):
                member.wake.set()  # each model is checked by its own thread
            return
        host.error = ""
        if listed is None:
            log.warning("backend %s is no longer a router", host.name)
            host.router, host.up = None, None
            router.close()
            self._sync_models(host, router, {})
            return
        wanted = {n: entry for n, entry in listed.items() if host.set_model in ("", n)}
        self._sync_models(host, router, wanted)
        for member in self._models_of(host):
            if member.model in router.lost or listed.get(member.model) != before.get(member.model):
                member.wake.set()
        if not wanted:
            missing = f"the model {host.set_model}" if host.set_model else "any models"
            host.up, host.error = False, f"the router does not list {missing}"

    def _sync_models(self, host: Backend, router: Router, wanted: Mapping[str, Listed]) -> None:
        """Add and drain backends to match the listed models. The router's own backend stands in
        while there are none."""
        known = {member.model: member for member in self._models_of(host)}
        for name, member in known.items():
            if name not in wanted and not member.leaving:
                self._drain(member)
                router.forget(name)
        for name, listed in wanted.items():
            old = known.get(name)
            if old is None or old.leaving or old.router_of is not host:
                member = Backend(
                    f"{host.name}/{name}",
                    host.url,
                    router.model(name),
                    model=name,
                    slots=host.set_slots,
                    n_ctx=host.set_n_ctx,
                    weight=host.weight,
                    chat_mode=host.chat_mode,
                )
                member.host, member.router_of, member.aliases = host, host, listed.aliases
                self._add(member)
            elif old.aliases != listed.aliases:
                old.aliases = listed.aliases
                self._rebuild_pools()
        if wanted and host.name in self.backends:
            self._scheduler.drain(host.name)
            self._remove(host)
        elif not wanted and host.name not in self.backends:
            with self._changing:
                self.backends = {**self.backends, host.name: host}
            self._update_scheduler(host)

    def _rebuild_pools(self, rising: Backend | None = None) -> None:
        """Rebuild the pools after a change; `rising` is about to be up."""
        with self._changing:
            # In configured order, whichever answered first: the first model is the default.
            places = {name: place for place, name in enumerate(self._configured)}
            ordered = sorted(
                self.backends.values(), key=lambda b: places.get((b.host or b).name, len(places))
            )
            pools: dict[str, list[Backend]] = {}
            for backend in ordered:
                if not backend.leaving:
                    pools.setdefault(backend.model, []).append(backend)
            self._pools = {
                model: tuple(sorted(pool, key=lambda b: (not (b.up or b is rising), b.provisional)))
                for model, pool in pools.items()
            }
            self._named = tuple(filter(self.is_named, pools)) or tuple(pools)
            self._also = {
                alias: model
                for model, pool in pools.items()
                for backend in pool
                for alias in backend.aliases
            }

    def _down(self, backend: Backend, error: GatewayError | None) -> None:
        backend.error = str(error) if error is not None else "not responding"
        backend.up = False
        self._rebuild_pools()
        log.warning("backend %s is down: %s", backend.name, backend.error)
        if not backend.leaving:
            self._scheduler.mark(backend.name, up=False)

    def _refresh(self, backend: Backend) -> None:
        """Report the state of a model that its server loads and unloads."""
        driver = backend.driver
        caps, lost = driver.refresh()
        if caps != backend.caps or lost:
            if caps != backend.caps:
                backend.counter.clear()
            backend.caps = caps
            self._update_scheduler(backend, anew=lost)
        if driver.awaits != backend.awaits:
            backend.awaits = driver.awaits
            self._scheduler.mark(backend.name, bool(backend.up), backend.awaits)

    def _update_scheduler(
        self, backend: Backend, rising: bool = False, anew: bool = False, replaces: bool = False
    ) -> None:
        self._rebuild_pools(backend if rising else None)
        if backend.leaving:
            return  # another backend has its name, or the scheduler no longer assigns it
        caps = backend.caps
        ram = caps is not None and caps.ram_cache
        files = caps is not None and caps.slot_save and not ram
        facts = BackendFacts(
            model=backend.model,
            slots=backend.slots,
            weight=backend.weight,
            pins=not ram,
            cache_kind="ram" if ram else "files" if files else "nothing",
            release_delay=0.0 if caps is None or caps.queues else SETTLE,
        )
        up = True if rising else backend.up
        self._scheduler.update(backend.name, facts, up=up, anew=anew, replaces=replaces)


def _key(backend: Backend) -> object:
    """The API key for its server, which may behave differently with another key."""
    return backend.config.api_key if backend.config is not None else None
