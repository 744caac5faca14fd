"""The backends that are configured, what probes found of each, and the models they serve.

A model is a pool: all backends that serve one of the same name. Health is pushed into the
scheduler, the only one to hand out slots.

One thread looks after each backend. A backend that is down, or never answered, must give a token
within the deadline to come up: a wedged server still answers every GET. One that is up is only
asked whether it answers at all, because a token would cost a slot the conversation it holds; the
traffic itself tells of the rest, through `failed`.

A request that finds no backend up waits in the queue, and asks for a look at once (`look_soon`).
All who ask share that look: one at a time for each backend, and a pause after each that fails.

A reload compares what is configured with what is here, and there is one way for every change: a new
`Backend` takes the name over, and the old one leaves, which means that it serves what is under way
and is closed when that is over. Behind the same address the scheduler keeps its records, so that no
more is asked of the server than it has slots; another address begins with records of its own.

A llama-server in router mode has many models: each is a backend here, made when the router lists
it and let go when it does so no more. What looks after the address looks at that list.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from ..cancel import Cancel
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
from ..wire.router import Listed
from .driver import Capabilities, CountsSlots, Driver, LoadsModel
from .llamacpp import LlamaCpp
from .probe import ROUTER
from .router import Router
from .tokens import TokenCounter
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from ..scheduling.admission import Admission

log = logging.getLogger("slotproxy.backends")

UNNAMED = "default"
SETTLE = 0.02  # seconds an old server needs to let go of a slot whose answer was whole
COUNT_PAUSE = 5.0  # seconds until the slots are counted again; doubled when it failed
COUNT_PAUSE_MOST = 600.0
IDLE_PAUSE = 1.0  # seconds between two looks at a backend that is down and that nobody waits for
# The same while requests wait for it, and the least between any two looks.
FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.2, 0.5, 1.3
ChatMode = Literal["auto", "native", "completion"]


class Backend:
    """One configured backend; what is set here wins over what the probe finds.

    `up` is None until a probe came back, `caps` until its first questions were answered; `error`
    says why it is down. `config` is what it was made from. `leaving`: it gets nothing new, and is
    closed when its last answer is out; `users` counts the attempts that are under way on it.
    `presumed` is its model until it tells one: that of the backend whose name it took over.
    `router` is set where several models are behind its address: then it serves nothing itself;
    `host` is that backend for one of these, and `aliases` are other names of its model. Fields are
    replaced whole, so readers need no lock."""

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
        self.users = 0  # changed under the registry's lock
        self.closed = False
        self.wake = threading.Event()  # look at it soon
        self.counter = TokenCounter(driver)
        self.vocabulary = Vocabulary(driver)
        self.caps: Capabilities | None = None
        self.up: bool | None = None
        self.error = ""
        self.leaving = False
        self.miscounted = False  # the number of slots that was counted may be wrong
        self.count_at = 0.0  # when the slots may be counted again
        self.count_pause = COUNT_PAUSE
        self.router: Router | None = None
        self.host: Backend | None = None
        self.router_of: Backend | None = None  # the backend whose router its driver asks
        self.aliases: tuple[str, ...] = ()
        self.awaits = 0.0  # seconds until its model is loaded, as the scheduler has it

    @property
    def model(self) -> str:
        """The name of the pool it belongs to."""
        if self.set_model:
            return self.set_model
        return self.caps.models[0] if self.caps is not None and self.caps.models else self.presumed

    def take_over(self, old: Backend) -> None:
        """Go on from what was found of the same server under other settings."""
        self.caps, self.up, self.error, self.awaits = old.caps, old.up, old.error, old.awaits
        self.miscounted, self.count_at = old.miscounted, old.count_at

    @property
    def slots(self) -> int:
        """How many requests at once; 0 where nobody knows."""
        return self.set_slots or (self.caps.slots if self.caps is not None else 0)

    @property
    def uncounted(self) -> bool:
        """Whether its slots should be counted: it does not tell their number and nobody set it,
        and there is no count, or one that may be wrong."""
        caps = self.caps
        if self.set_slots or caps is None or caps.queues:
            return False
        return not caps.slots or self.miscounted

    @property
    def n_ctx(self) -> int:
        """Tokens a slot holds, 0 unknown."""
        return self.set_n_ctx or (self.caps.n_ctx if self.caps is not None else 0)

    @property
    def status(self) -> str:
        """unloaded, loading, loaded, sleeping or failed, where its server loads models when they
        are asked for; "" where it has the one it was started with."""
        return self.driver.status if isinstance(self.driver, LoadsModel) else ""

    @property
    def trouble(self) -> str:
        """What is wrong with it, "" for nothing."""
        return self.error or (
            self.driver.trouble if isinstance(self.driver, LoadsModel) and self.up else ""
        )

    @property
    def provisional(self) -> bool:
        """Whether its model was never loaded, so that hardly anything is known of it."""
        return self.caps is not None and self.caps.provisional


class Registry:
    """All backends by name; `start` begins to look after them, `close` ends that."""

    def __init__(
        self,
        backends: Sequence[Backend],
        scheduler: Admission,
        *,
        aliases: Sequence[str] = (),
        strict: bool = False,
        default: str = "",
        interval: float = 5.0,
        deadline: float = 30.0,
    ) -> None:
        self.backends = {backend.name: backend for backend in backends}
        self._configured = dict(self.backends)  # by name: with routers, without their models
        self._scheduler = scheduler
        self._aliases = tuple(aliases)
        self._strict = strict
        self._default = default
        self._interval = interval
        self._deadline = deadline
        self._stopped = threading.Event()
        self.looked = threading.Event()  # at every backend once
        self._replaced: list[Backend] = []  # they left, and others have their names
        self._started = False
        self._threads: list[threading.Thread] = []
        self._changing = threading.Lock()  # what is replaced whole is read first
        self._pools: dict[str, tuple[Backend, ...]] = {}  # as they are: asked for by every request
        self._named: tuple[str, ...] = ()  # the same
        self._also: dict[str, str] = {}  # model by alias, as routers have them
        scheduler.on_stranded = self.look_soon
        for backend in backends:
            self._push(backend)

    def start(self) -> None:
        self._started = True
        for backend in self.backends.values():
            self._start(backend)

    def _start(self, backend: Backend) -> None:
        if not self._started:
            return
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(
            target=self._look_after, args=(backend,), name=f"health-{backend.name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def reload(
        self, wanted: Sequence[BackendConfig], make: Callable[[BackendConfig], Backend]
    ) -> None:
        """The configuration changed. What is new, or was changed, is made first: where that raises
        SettingsError nothing has changed. Backends that are configured no more get nothing new and
        end well; one that is named again meanwhile comes back."""
        configs = {config.name: config for config in wanted}
        back: list[Backend] = []
        made: list[Backend] = []
        try:
            for name, config in configs.items():
                old = self._configured.get(name)
                if old is not None and old.config == config:
                    continue
                left = self.borrow(name) if old is None else None
                if left is not None:
                    back.append(left)  # it cannot go meanwhile
                if left is None or left.config != config or left.host is not None:
                    made.append(make(config))
        except BaseException:
            for backend in made:
                self._close(backend)
            for backend in back:
                self.give_back(backend)
            raise
        known = self._configured
        self._configured = {name: known[name] for name in known if name in configs}
        for name in known.keys() - configs.keys():
            backend = known[name]
            for one in (backend, *self._models_of(backend)):
                self._let_go(one)
        for backend in made:
            self._replace(backend)
        for backend in back:
            if backend.config == configs[backend.name] and backend.host is None:
                self._come_back(backend)
            self.give_back(backend)
        self._configured = {name: self._configured[name] for name in configs}
        self._sort()
        log.info("backends now: %s", ", ".join(configs) or "none")

    def _replace(self, backend: Backend) -> None:
        """A backend was configured, in place of the one of its name if there is one."""
        old = self._configured.get(backend.name)
        self._configured = {**self._configured, backend.name: backend}
        if old is not None and old.router is not None:
            for one in self._models_of(old):
                if old.url == backend.url:
                    one.host = backend  # it serves on until the new one has looked
                else:
                    self._let_go(one)
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
        self._push(backend, replaces=old is not None and old.url != backend.url)
        if old is not None:
            old.wake.set()
        self._start(backend)

    def _come_back(self, backend: Backend) -> None:
        """It was leaving, and is configured again."""
        self._configured = {**self._configured, backend.name: backend}
        backend.leaving = False
        self._push(backend)
        backend.wake.set()

    def _let_go(self, backend: Backend) -> None:
        """Nothing new for it; it goes when its last answer is out."""
        backend.leaving = True
        self._sort()
        if self.backends.get(backend.name) is backend:
            self._scheduler.drain(backend.name)
        backend.wake.set()

    def _remove(self, backend: Backend) -> None:
        with self._changing:
            self.backends = {n: b for n, b in self.backends.items() if b is not backend}
        self._sort()

    # attempts

    def borrow(self, name: str) -> Backend | None:
        """The backend of a lease; it is not closed before it is given back. None where it was let
        go of after the grant."""
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
        """The names of the pools, in the order in which their backends are configured. Backends
        that have not told theirs yet count only where no other has."""
        return self._named

    def names(self) -> tuple[str, ...]:
        """What /v1/models lists: the aliases where the only model has some, else the models."""
        models = self.models()
        return self._aliases if self._aliases and len(models) == 1 else models

    def resolve(self, name: str) -> tuple[str, str]:
        """(pool, name to answer with) for the name a client asked for.

        With one model, or with a default, any name means that, unless names are strict. Raises
        ModelNotFound, and NoBackend where none is configured."""
        models = self.models()
        if not models:
            raise NoBackend("no backend is configured here", retry_after=10.0)
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
        raise ModelNotFound(f"the model {name[:100]!r} is not served here", param="model")

    def _first(self, models: Sequence[str]) -> str:
        """The model of who names none: one that need not be loaded, if there is."""
        if len(models) > 1:
            for model in models:
                if any(b.up and b.status in ("", "loaded") for b in self._pools[model]):
                    return model
        return models[0]

    def pool(self, model: str) -> tuple[Backend, ...]:
        """The backends of a model; those that are up come first, those that are known in full
        before the others."""
        return self._pools.get(model, ())

    def is_named(self, model: str) -> bool:
        """Whether this is the name of a model, rather than of backends that have not told any."""
        pool = self.pool(model)
        return not pool or any(b.caps is not None or b.set_model for b in pool)

    def status(self, model: str) -> str:
        """Of the backends of a model, the status that is the nearest to an answer; "" where none
        loads it when it is asked for."""
        pool = self.pool(model)
        found = {b.status or "loaded" for b in pool if b.up}
        order = ("loaded", "loading", "sleeping", "unloaded", "failed")
        asked = any(isinstance(b.driver, LoadsModel) for b in pool)
        return next((one for one in order if one in found), "unloaded") if asked else ""

    def unknown(self, model: str) -> bool:
        """Whether a model must be loaded first, since nobody saw it loaded yet."""
        pool = self._pools.get(model, ())
        return bool(pool and pool[0].up and pool[0].provisional)

    def load(self, model: str, cancel: Cancel) -> Iterator[str]:
        """Load a model that is `unknown`; at every tick yields what to tell who waits. Raises what
        `LoadsModel.load` does."""
        reason: GatewayError | None = None
        for backend in self.pool(model):
            driver = backend.driver
            if not (backend.up and isinstance(driver, LoadsModel)):
                continue
            try:
                for _ in driver.load(cancel):
                    yield driver.loading()
            except UpstreamFault as error:
                reason = error
                self.failed(backend.name, error)
                continue
            self._refresh(backend, driver)
            return
        if reason is not None:
            raise reason

    @property
    def ready(self) -> bool:
        return any(b.up for b in self.backends.values())

    @property
    def settled(self) -> bool:
        """Whether every backend was looked at once."""
        return all(b.up is not None for b in self.backends.values())

    # health

    def failed(self, name: str, error: GatewayError) -> None:
        """An attempt met this fault: look at the backend at once.

        Where nobody listens, or nothing came in time, it is down until it gives a token again. Any
        other fault is that one request's until the look says more."""
        backend = self.backends.get(name)
        if backend is None:
            return
        unreachable = isinstance(error, BackendDown) and not isinstance(error, ConnectionLost)
        if backend.up and (unreachable or isinstance(error, UpstreamTimeout)):
            self._down(backend, error)
        backend.wake.set()

    def miscounted(self, name: str) -> None:
        """A backend was busy with fewer requests than it has slots, or named one that it should
        not have: its slots are counted again when nothing runs there."""
        backend = self.backends.get(name)
        if backend is not None:
            backend.miscounted = True

    def look_soon(self, model: str) -> None:
        """Somebody waits for a backend of this model. Never blocks."""
        for backend in self.pool(model):
            if not backend.up:
                backend.wake.set()

    def _look_after(self, backend: Backend) -> None:
        wake = backend.wake
        pause, defect = FIRST_PAUSE, ""
        while not self._stopped.is_set():
            wake.clear()
            try:
                if not self.tend(backend):
                    return
                defect = ""
            except Exception as error:  # whatever it is, the next look must come
                if repr(error) != defect:
                    defect = repr(error)
                    log.exception("looking at backend %s failed", backend.name)
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
        """One look at a backend, or one at whether it can go. False when it has gone."""
        if not backend.leaving:
            self._look(backend)
            return True
        for one in self._models_of(backend):
            if not one.leaving:  # made while its router was let go of
                self._let_go(one)
        return not self._left(backend)

    def _rest(self, wake: threading.Event, least: float, longest: float) -> None:
        """Wait until the next look, which `wake` may bring forward."""
        end = time.monotonic() + least
        if wake.wait(longest):
            self._stopped.wait(max(0.0, end - time.monotonic()))

    def _left(self, backend: Backend) -> bool:
        """Whether a backend that is leaving has no answer under way any more: then it goes."""
        with self._changing:
            everybody = (*self.backends.values(), *self._replaced)
            needed = backend.router is not None and any(b.router_of is backend for b in everybody)
            if not backend.leaving or backend.users or needed:
                return False
            self._replaced = [one for one in self._replaced if one is not backend]
            self.backends = {n: b for n, b in self.backends.items() if b is not backend}
        self._sort()
        self._close(backend)
        return True

    def _look(self, backend: Backend) -> None:
        if backend.router is not None:
            self._look_at_models(backend, backend.router)
        elif not backend.up:
            self._probe(backend)
        elif not backend.driver.alive():
            if backend.up:  # traffic may have been quicker
                self._down(backend, None)
        elif backend.uncounted and time.monotonic() >= backend.count_at:
            self._recount(backend)
        elif isinstance(backend.driver, LoadsModel):
            self._refresh(backend, backend.driver)

    def _probe(self, backend: Backend) -> None:
        def learned(caps: Capabilities) -> None:
            """What it tells at once is shown at once, unless more was known before."""
            if backend.caps is None:
                backend.caps = caps
                self._push(backend)

        try:
            caps = backend.driver.probe(self._deadline, learned)
            if caps.dialect == ROUTER and isinstance(backend.driver, LlamaCpp):
                wake = backend.wake.set
                backend.router = Router(backend.driver, caps, wake)
                log.info("backend %s is a router of several models", backend.name)
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
            self._down(backend, UpstreamFault("looking at it failed, see the log"))
            raise
        if isinstance(backend.driver, LoadsModel):
            # Told before it is up, or a request would be sent there rather than to one with the
            # model loaded.
            backend.awaits = backend.driver.awaits
            self._scheduler.mark(backend.name, False, backend.awaits)
        # Whoever sees it up must find it in its pool, and get a slot of it.
        self._push(backend, rising=True)
        backend.up = True
        log.info("backend %s is up: %s, model %s", backend.name, caps.dialect, backend.model)

    def _count(self, backend: Backend) -> bool:
        """Count the slots where the server does not tell, while nothing of ours runs there.
        Whether another number than before was found."""
        caps, driver = backend.caps, backend.driver
        assert caps is not None, "counted after a probe"
        if not isinstance(driver, CountsSlots) or self._scheduler.in_flight(backend.name):
            return False
        found, idle = driver.count_slots()
        # At random: workers that began together would spoil each other's counts again and again.
        backend.count_at = time.monotonic() + backend.count_pause * random.uniform(0.5, 1.5)
        backend.count_pause = min(COUNT_PAUSE_MOST, 2 * backend.count_pause)
        if not found:
            return False
        backend.miscounted = not idle
        backend.caps = msgspec.structs.replace(caps, slots=found)
        return found != caps.slots

    def _recount(self, backend: Backend) -> None:
        if self._count(backend):
            log.info("backend %s has %d slots", backend.name, backend.slots)
            self._push(backend)

    # routers

    def _models_of(self, host: Backend) -> tuple[Backend, ...]:
        return tuple(b for b in self.backends.values() if b.host is host)

    def _look_at_models(self, host: Backend, router: Router) -> None:
        """Have a backend for each model that the router lists."""
        before = router.models
        try:
            listed = router.look()
        except GatewayError as error:
            if host.error != str(error):
                host.error = str(error)
                log.warning("router %s is down: %s", host.name, error)
            for one in self._models_of(host):
                one.wake.set()  # each finds out by itself
            return
        host.error = ""
        if listed is None:
            log.warning("backend %s is a router no more", host.name)
            host.router, host.up = None, None
            router.close()
            self._have(host, router, {})
            return
        wanted = {n: one for n, one in listed.items() if host.set_model in ("", n)}
        self._have(host, router, wanted)
        for one in self._models_of(host):
            if one.model in router.lost or listed.get(one.model) != before.get(one.model):
                one.wake.set()
        if not wanted:
            what = f"the model {host.set_model}" if host.set_model else "any models"
            host.up, host.error = False, f"the router does not have {what}"

    def _have(self, host: Backend, router: Router, wanted: Mapping[str, Listed]) -> None:
        """These models and no others; the router's own backend stands for it while there is
        none."""
        known = {one.model: one for one in self._models_of(host)}
        for name, one in known.items():
            if name not in wanted and not one.leaving:
                self._let_go(one)
                router.forget(name)
        for name, listed in wanted.items():
            old = known.get(name)
            if old is None or old.leaving or old.router_of is not host:
                one = Backend(
                    f"{host.name}/{name}",
                    host.url,
                    router.model(name),
                    model=name,
                    slots=host.set_slots,
                    n_ctx=host.set_n_ctx,
                    weight=host.weight,
                    chat_mode=host.chat_mode,
                )
                one.host, one.router_of, one.aliases = host, host, listed.aliases
                self._add(one)
            elif old.aliases != listed.aliases:
                old.aliases = listed.aliases
                self._sort()
        if wanted and host.name in self.backends:
            self._scheduler.drain(host.name)
            self._remove(host)
        elif not wanted and host.name not in self.backends:
            with self._changing:
                self.backends = {**self.backends, host.name: host}
            self._push(host)

    def _sort(self, rising: Backend | None = None) -> None:
        """Something changed: put the pools together anew; `rising` is about to be up."""
        with self._changing:
            # As configured, whichever answered first: the first model is the default one.
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
        backend.error = str(error) if error is not None else "it does not answer"
        backend.up = False
        self._sort()
        log.warning("backend %s is down: %s", backend.name, backend.error)
        if not backend.leaving:
            self._scheduler.mark(backend.name, up=False)

    def _refresh(self, backend: Backend, driver: LoadsModel) -> None:
        """Tell what became of a model that its server loads and unloads."""
        caps, lost = driver.refresh()
        if caps != backend.caps or lost:
            if caps != backend.caps:
                backend.counter.clear()
            backend.caps = caps
            self._push(backend, anew=lost)
        if driver.awaits != backend.awaits:
            backend.awaits = driver.awaits
            self._scheduler.mark(backend.name, bool(backend.up), backend.awaits)

    def _push(
        self, backend: Backend, rising: bool = False, anew: bool = False, replaces: bool = False
    ) -> None:
        self._sort(backend if rising else None)
        if backend.leaving:
            return  # another one has its name, or the scheduler gives nothing of it away any more
        caps = backend.caps
        ram = caps is not None and caps.ram_cache
        files = caps is not None and caps.slot_save and not ram
        self._scheduler.update(
            backend.name,
            backend.model,
            up=True if rising else backend.up,
            slots=backend.slots,
            weight=backend.weight,
            pins=not ram,
            keeps="ram" if ram else "files" if files else "nothing",
            settles=0.0 if caps is None or caps.queues else SETTLE,
            anew=anew,
            replaces=replaces,
        )


def _key(backend: Backend) -> object:
    """What is sent to its server with every request: with another key all may be different."""
    return backend.config.api_key if backend.config is not None else None
