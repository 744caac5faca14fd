"""The backends that are configured, what probes found of each, and the models they serve.

A model is a pool: all backends that serve one of the same name. Health is pushed into the
scheduler, the only one to hand out slots.

One thread looks after each backend. A backend that is down, or never answered, must give a token
within the deadline to come up: a wedged server still answers every GET. One that is up is only
asked whether it answers at all, because a token would cost a slot the conversation it holds; the
traffic itself tells of the rest, through `failed`.

A request that finds no backend up waits in the queue, and asks for a look at once (`look_soon`).
All who ask share that look: one at a time for each backend, and a pause after each that fails.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from ..config import BackendConfig
from ..errors import (
    BackendDown,
    ConnectionLost,
    GatewayError,
    ModelNotFound,
    UpstreamFault,
    UpstreamTimeout,
)
from .driver import Capabilities, CountsSlots, Driver
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
    says why it is down. `leaving`: it is configured no more, and goes when its last answer is out.
    Fields are replaced whole, so readers need no lock."""

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
    ) -> None:
        self.name = name
        self.url = url
        self.driver = driver
        self.set_model = model
        self.set_slots = slots
        self.set_n_ctx = n_ctx
        self.weight = weight
        self.chat_mode = chat_mode
        self.counter = TokenCounter(driver)
        self.vocabulary = Vocabulary(driver)
        self.caps: Capabilities | None = None
        self.up: bool | None = None
        self.error = ""
        self.leaving = False
        self.miscounted = False  # the number of slots that was counted may be wrong
        self.count_at = 0.0  # when the slots may be counted again
        self.count_pause = COUNT_PAUSE

    @property
    def model(self) -> str:
        """The name of the pool it belongs to."""
        if self.set_model:
            return self.set_model
        return self.caps.models[0] if self.caps is not None and self.caps.models else UNNAMED

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
        self._scheduler = scheduler
        self._aliases = tuple(aliases)
        self._strict = strict
        self._default = default
        self._interval = interval
        self._deadline = deadline
        self._stopped = threading.Event()
        self.looked = threading.Event()  # at every backend once
        self._wake = {name: threading.Event() for name in self.backends}
        self._threads: list[threading.Thread] = []
        self._changing = threading.Lock()  # what is replaced whole is read first
        self._pools: dict[str, tuple[Backend, ...]] = {}  # as they are: asked for by every request
        scheduler.on_stranded = self.look_soon
        for backend in backends:
            self._push(backend)

    def start(self) -> None:
        for backend in self.backends.values():
            self._start(backend)

    def _start(self, backend: Backend) -> None:
        thread = threading.Thread(
            target=self._look_after, args=(backend,), name=f"health-{backend.name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def reload(
        self, wanted: Sequence[BackendConfig], make: Callable[[BackendConfig], Backend]
    ) -> None:
        """The configuration changed: new backends are looked after from now on, those that are
        gone get nothing new and end well, weights and slots are as they are told now. Another
        address needs another name."""
        configs = {config.name: config for config in wanted}
        for name, backend in self.backends.items():
            config = configs.get(name)
            if config is None or config.address != backend.url:
                backend.leaving = True
                self._sort()
                self._scheduler.drain(name)
                self._wake[name].set()
            elif (config.weight, config.slots) != (backend.weight, backend.set_slots):
                backend.weight, backend.set_slots = config.weight, config.slots
                self._push(backend)
        for name, config in configs.items():
            if name not in self.backends:
                backend = make(config)
                self._wake[name] = threading.Event()
                with self._changing:
                    self.backends = {**self.backends, name: backend}
                self._push(backend)
                self._start(backend)
        log.info("backends now: %s", ", ".join(configs))

    def close(self) -> None:
        self._stopped.set()
        for wake in self._wake.values():
            wake.set()
        for thread in self._threads:
            thread.join(timeout=2 * self._deadline)
        for backend in self.backends.values():
            backend.driver.close()

    # models

    def models(self) -> tuple[str, ...]:
        """The names of the pools, in the order of their backends."""
        return tuple(self._pools)

    def names(self) -> tuple[str, ...]:
        """What /v1/models lists: the aliases where the only model has some, else the models."""
        models = self.models()
        return self._aliases if self._aliases and len(models) == 1 else models

    def resolve(self, name: str) -> tuple[str, str]:
        """(pool, name to answer with) for the name a client asked for.

        With one model, or with a default, any name means that, unless names are strict. Raises
        ModelNotFound."""
        models = self.models()
        if name in models:
            return name, name
        if name in self._aliases:
            return models[0], name
        if not name or (len(models) == 1 and not self._strict):
            return models[0], self.names()[0]
        if self._default in models and not self._strict:
            return self._default, self._default
        raise ModelNotFound(f"the model {name[:100]!r} is not served here", param="model")

    def pool(self, model: str) -> tuple[Backend, ...]:
        """The backends of a model; those that are up come first."""
        return self._pools.get(model, ())

    def is_named(self, model: str) -> bool:
        """Whether this is the name of a model, rather than of backends that have not told any."""
        pool = self.pool(model)
        return not pool or any(b.caps is not None or b.set_model for b in pool)

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
        self._wake[name].set()

    def miscounted(self, name: str) -> None:
        """A backend was busy with fewer requests than it has slots, or named one that it should
        not have: its slots are counted again when nothing runs there."""
        self.backends[name].miscounted = True

    def look_soon(self, model: str) -> None:
        """Somebody waits for a backend of this model. Never blocks."""
        for backend in self.pool(model):
            if not backend.up:
                self._wake[backend.name].set()

    def _look_after(self, backend: Backend) -> None:
        wake = self._wake[backend.name]
        pause, defect = FIRST_PAUSE, ""
        while not self._stopped.is_set():
            wake.clear()
            try:
                if backend.leaving:
                    if self._let_go(backend):
                        return
                else:
                    self._look(backend)
                defect = ""
            except Exception as error:  # whatever it is, the next look must come
                if repr(error) != defect:
                    defect = repr(error)
                    log.exception("looking at backend %s failed", backend.name)
            if self.settled:
                self.looked.set()
            calm = backend.up and not backend.leaving
            pause = FIRST_PAUSE if calm else min(LONGEST_PAUSE, pause * GROWTH)
            longest = self._interval if calm else min(IDLE_PAUSE, self._interval)
            if not calm and self._scheduler.waiting:
                longest = min(longest, pause)
            self._rest(wake, min(pause, longest), longest)

    def _rest(self, wake: threading.Event, least: float, longest: float) -> None:
        """Wait until the next look, which `wake` may bring forward."""
        end = time.monotonic() + least
        if wake.wait(longest):
            self._stopped.wait(max(0.0, end - time.monotonic()))

    def _let_go(self, backend: Backend) -> bool:
        """Whether a backend that is leaving has no answer under way any more."""
        if self._scheduler.in_flight(backend.name):
            return False
        with self._changing:
            self.backends = {n: b for n, b in self.backends.items() if b is not backend}
        backend.driver.close()
        return True

    def _look(self, backend: Backend) -> None:
        if not backend.up:
            self._probe(backend)
        elif not backend.driver.alive():
            if backend.up:  # traffic may have been quicker
                self._down(backend, None)
        elif backend.uncounted and time.monotonic() >= backend.count_at:
            self._recount(backend)

    def _probe(self, backend: Backend) -> None:
        def learned(caps: Capabilities) -> None:
            """What it tells at once is shown at once, unless more was known before."""
            if backend.caps is None:
                backend.caps = caps
                self._push(backend)

        try:
            caps = backend.driver.probe(self._deadline, learned)
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

    def _sort(self, rising: Backend | None = None) -> None:
        """Something changed: put the pools together anew; `rising` is about to be up."""
        with self._changing:
            pools: dict[str, list[Backend]] = {}
            for backend in self.backends.values():
                if not backend.leaving:
                    pools.setdefault(backend.model, []).append(backend)
            self._pools = {
                model: tuple(sorted(pool, key=lambda b: not (b.up or b is rising)))
                for model, pool in pools.items()
            }

    def _down(self, backend: Backend, error: GatewayError | None) -> None:
        backend.error = str(error) if error is not None else "it does not answer"
        backend.up = False
        self._sort()
        log.warning("backend %s is down: %s", backend.name, backend.error)
        self._scheduler.mark(backend.name, up=False)

    def _push(self, backend: Backend, rising: bool = False) -> None:
        self._sort(backend if rising else None)
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
        )
