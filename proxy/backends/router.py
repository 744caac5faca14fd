"""llama-server's router mode: one address, several models, each loaded when a request names it.

Every model is a backend of its own, with a `RoutedModel` as its driver. A `Router` knows the models
and their states, from ``GET /v1/models``.

Monitoring never loads or wakes a model: every request that is not a client's has
``autoload=false``. What only a loaded model reports (its template, context and slots) is kept when
the router evicts the model, so only the very first request waits for the load before its prompt can
be rendered; later the router itself loads the model and answers.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec

from ..core.decoding import decoded_object
from ..core.events import Batch
from ..core.task import Task
from ..errors import BackendDown, GatewayError, UpstreamFault, UpstreamTimeout
from ..runtime.cancel import Cancel
from ..runtime.locks import native_lock
from ..wire.router import PRESENT, Listed, forgotten, listed
from . import probe
from .driver import Capabilities, LaterRun, ModelHost, OnCapabilities, Run, ignore
from .http import ConnectionPool, Exchange
from .llamacpp import LlamaCpp
from .refusals import refusal

log = logging.getLogger("slotproxy.router")

AWAY = (b"model is not loaded", b"is not running", b"proxy error")
LOOK = 0.1  # seconds between two checks of a request that waits for its model's turn
LOAD = 5.0  # seconds that a load is assumed to take before the first one


def outline(model: Listed, build: str = "") -> Capabilities:
    """What is known of a model that was never loaded."""
    return Capabilities(
        dialect="llama-server",
        slot_field="id_slot",
        queues=True,
        truncates=False,
        honours_seed=True,
        infill=True,
        chat=True,
        json_schema=True,
        progress=True,
        modern_sampling=True,
        ram_cache=True,
        vision=model.vision,
        audio=model.audio,
        n_vocab=model.n_vocab,
        models=(model.name,),
        build=build,
        provisional=True,
    )


# -- the router ------------------------------------------------------------------------------------


class Router(ModelHost):
    """The router at a backend's address. It calls `wake` when a model was loaded for a request."""

    interval = 1.0

    def __init__(self, driver: LlamaCpp, caps: Capabilities, wake: Callable[[], None]) -> None:
        super().__init__(lambda name: RoutedModel(self, name))
        self.url = driver.url
        self.options, self.model_file = driver.options, driver.model_file
        self.build = caps.build
        self.turns = Turns(caps.slots)
        self.takes = LOAD  # seconds that the last load of a model took
        self.wake = wake
        self._pool: ConnectionPool = driver.new_pool(idle=2)

    @property
    def lost(self) -> frozenset[str]:
        return frozenset(name for name, driver in self._drivers.items() if driver.lost)

    def _listed(self) -> Mapping[str, Listed] | None:
        status, answer = probe.document(self._pool, "/v1/models")
        if status != 200:
            raise probe.not_listed(status)
        return listed(answer)

    def may_send(self, name: str) -> bool:
        """Whether a request for a model may be sent now; see `Turns.take`."""
        present = [model.name for model in self.models.values() if model.status in PRESENT]
        return self.turns.take(name, present, time.monotonic(), self.takes)

    def close(self) -> None:
        self._pool.close()


class ModelPool(ConnectionPool):
    """Connections to a router that name the model in every request. `quiet` requests raise
    BackendDown if it is not loaded."""

    def __init__(self, url: str, *, model: str, quiet: bool = False, **options: Any) -> None:
        super().__init__(url, **options)
        self._model = model
        self._quiet = quiet

    def send(
        self, method: str, path: str, body: object = None, *args: Any, **options: Any
    ) -> Exchange:
        query = "autoload=false" if self._quiet else ""
        if isinstance(body, dict):
            body = {**body, "model": self._model}
        else:
            query += f"{'&' if query else ''}model={quote(self._model, safe='')}"
        if query:
            path += ("&" if "?" in path else "?") + query
        return super().send(method, path, body, *args, **options)

    def ask(self, method: str, path: str, *args: Any, **options: Any) -> tuple[int, bytes]:
        status, data = super().ask(method, path, *args, **options)
        if self._quiet and status != 200 and is_away(data):
            raise BackendDown("the model is not loaded")
        return status, data


def is_away(data: bytes) -> bool:
    """Whether the router refuses a request because the model is not loaded, or is being evicted:
    requests with autoload=false still go to a process that is ending."""
    return any(words in data for words in AWAY)


class RoutedModel(LlamaCpp):
    """One model of a router. `lost`: its slots lost their content since the last `refresh`."""

    def __init__(self, router: Router, name: str) -> None:
        connect = partial(ModelPool, model=name)
        super().__init__(
            router.url, model_file=router.model_file, connect=connect, **router.options
        )
        self.name = self._model = name
        self.lost = False
        self._router = router
        self._quiet: ModelPool = self.new_pool(quiet=True, timeout=probe.GET_TIMEOUT, idle=0)
        self._root = self._quiet
        self._known: Capabilities | None = None
        self._instance = ""  # the load after which `_known` was last requested
        self._features: dict[str, Any] = {}  # found out by requests, when it was first loaded
        self._learning = threading.Lock()
        self._began = 0.0  # when the current load began

    # for the registry

    @property
    def status(self) -> str:
        entry = self._router.models.get(self.name)
        # When a router dies, its models are unloaded.
        return entry.status if entry is not None and self._router.up else "unloaded"

    def trouble(self, *, admin: bool = False) -> str:
        entry = self._router.models.get(self.name)
        if entry is None or entry.status != "failed":
            return ""
        code = entry.exit_code
        return f"the model {self.name} failed to load: its process exited with code {code}"

    @property
    def load_eta(self) -> float:
        return 0.0 if self.status == "loaded" else self._router.takes

    def probe(self, deadline: float, on_capabilities: OnCapabilities = ignore) -> Capabilities:
        if self._router.look() is None or self.name not in self._router.models:
            raise BackendDown("the router no longer lists this model")
        if self.status == "loaded":
            try:
                probe.first_token(self._quiet, deadline)
            except UpstreamFault as error:
                if not is_away(error.detail.encode()):
                    raise
        return self.refresh()[0]

    def alive(self) -> bool:
        return self._router.up and self.name in self._router.models

    def refresh(self) -> tuple[Capabilities, bool]:
        entry = self._router.models.get(self.name) or Listed(name=self.name, status="unloaded")
        if entry.status == "loaded" and not (self._features and self._instance == entry.instance):
            try:
                self._learn(*self._quiet.ask("GET", "/props", timeout=probe.GET_TIMEOUT), entry)
            except GatewayError as error:
                log.debug("%s of %s: %s", self.name, self.url, error)
        lost, self.lost = self.lost, False
        return self._known or outline(entry, self._router.build), lost

    def changed(self, old: Listed, new: Listed) -> None:
        now = time.monotonic()
        if new.status == "loading" and old.status != "loading":
            self._began = now
        elif new.status == "loaded" and old.status == "loading" and self._began:
            self._router.takes = now - self._began
        if forgotten(old, new):
            self.lost = True

    # for the gateway

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> TakingTurns:
        return TakingTurns(self, partial(super().stream, task, slot, caps, cancel), cancel)

    def _ask(self, path: str, body: object, cancel: Cancel) -> bytes:
        for _ in self.turn(cancel):
            pass
        try:
            return super()._ask(path, body, cancel)
        finally:
            self.over()

    def turn(self, cancel: Cancel) -> Iterator[None]:
        """Wait until a request may be sent to the router; `over` must be called after it. Yields
        at every tick. Raises UpstreamTimeout, Cancelled."""
        router, began = self._router, time.monotonic()
        tick = began + self._tick
        try:
            while not router.may_send(self.name):
                cancel.check()
                now = time.monotonic()
                if now - began > self.timeout:
                    raise UpstreamTimeout("timed out waiting for the router's models to unload")
                if now > tick:
                    tick += self._tick
                    yield
                cancel.wait(LOOK)
        except BaseException:
            router.turns.give_up(self.name)
            raise

    def answered(self) -> None:
        self._router.turns.answered(self.name, time.monotonic())
        if self.status != "loaded":
            self._router.wake()

    def over(self) -> None:
        self._router.turns.leave(self.name, time.monotonic())

    def loading(self) -> str:
        """A notice for a request that waits for the model, "" if it is loaded."""
        return "" if self.status == "loaded" else f"loading {self.name}"

    def load(self, cancel: Cancel) -> Iterator[None]:
        """Request the model's props, which makes the router load it and keeps it from evicting it.
        Raises UpstreamFault if the load failed, BackendDown, UpstreamTimeout, Cancelled."""
        if self._known is not None:
            return
        yield from self.turn(cancel)
        try:
            sent = self._pool.send("GET", "/props", None, cancel, self._tick)
            with contextlib.closing(sent) as exchange:
                waited = 0.0
                while not exchange.headers_came():
                    waited += self._tick
                    if waited >= self.timeout:
                        raise UpstreamTimeout("timed out loading the model")
                    yield
                status, data = exchange.status, exchange.read_all(probe.GET_TIMEOUT)
        finally:
            self.over()
        models = self._router.look() or {}
        entry = models.get(self.name) or Listed(name=self.name, status="unloaded")
        self._learn(status, data, entry)
        if self._known is None:
            raise UpstreamFault("the router did not report the model's properties")

    def _learn(self, status: int, data: bytes, entry: Listed) -> None:
        """Use the /props of the loaded model. Raises the error that the answer stands for."""
        if status != 200:
            raise refusal(status, data)
        props = decoded_object(data)
        if props is None:
            raise UpstreamFault("the router returned invalid JSON")
        reported = probe.of_props(props)
        if not (reported["slots"] and reported["n_ctx"]):
            return
        caps = outline(entry, self._router.build)
        caps = msgspec.structs.replace(caps, provisional=False, **reported)
        quiet = self._quiet
        # One at a time, and not if the model was evicted: then after the next load.
        with self._learning, contextlib.suppress(BackendDown):
            self._features = self._features or {
                "slot_save": probe.saves_slots(quiet),
                "infill": probe.fills_in(quiet),
                "ram_cache": probe.keeps_prompts(quiet),
                "adapters": probe.lora_adapters(quiet),
                "adds_bos": probe.adds_bos(quiet, caps),
            }
        self._instance = entry.instance
        self._known = msgspec.structs.replace(caps, **self._features)


class TakingTurns(LaterRun):
    """A completion that starts when it is its model's turn."""

    def __init__(self, model: RoutedModel, begin: Callable[[], Run], cancel: Cancel) -> None:
        self._model = model
        self._begin = begin
        self._cancel = cancel

    def __iter__(self) -> Iterator[Batch]:
        model = self._model
        for _ in model.turn(self._cancel):
            yield []
        try:
            self._run = self._begin()
            batches = iter(self._run)
            for batch in batches:
                yield batch
                if batch:
                    model.answered()
                    yield from batches
        finally:
            model.over()


# -- turns -----------------------------------------------------------------------------------------
#
# llama-server evicts a model for an unloaded one as soon as it is idle, if only between two
# requests of one client, but a busy one never. On a router without free room:
#
# 1. A request for a model that is not loaded is sent once a loaded model is idle: none of its
#    requests has been under way for a moment.
# 2. When it has waited for a turn, new requests for the loaded models wait until one is idle.
# 3. But no model is held back before its own turn is over, which is as long as a load takes: so at
#    most half of the time is spent loading.

SHORTEST = 2.0  # seconds of a turn
SETTLE = 0.25  # seconds without a request after which a model is idle


class Turns:
    """Turns on a router that has room for `room` models; 0 for any number."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self._lock = native_lock()
        self._sent: Counter[str] = Counter()  # requests sent to the router
        self._since: dict[str, float] = {}  # since when a model's requests have waited for a token
        self._ended: dict[str, float] = {}  # when a model's last request ended
        self._began: dict[str, float] = {}  # the first token of a model since it was loaded

    def take(self, model: str, present: Collection[str], now: float, turn: float = 0.0) -> bool:
        """Whether a waiting request may be sent now; then it counts as under way until `leave`.
        `present` are the loaded models, `turn` is the length of a turn in seconds."""
        with self._lock:
            # A model that was just loaded may answer before the list shows it.
            loaded = {*present, *(name for name, count in self._sent.items() if count)}
            self._began = {name: since for name, since in self._began.items() if name in loaded}
            self._since.setdefault(model, now)
            if self._held_back(model, present, now, max(SHORTEST, turn)):
                return False
            self._sent[model] += 1
            return True

    def _held_back(self, model: str, present: Collection[str], now: float, turn: float) -> bool:
        # The router was asked for these; its list shows them later.
        coming = [name for name, count in self._sent.items() if count and name not in present]
        if model in coming or not 0 < self.room <= len(present) + len(coming):
            return False
        if model not in present:
            return bool(coming) or not any(self._is_idle(other, now) for other in present)
        if len(present) + len(coming) > self.room and self._is_idle(model, now):
            return True  # the router may evict it for those
        loaded = (*present, *coming)
        starving = any(now - t >= turn for name, t in self._since.items() if name not in loaded)
        return starving and now - self._began.get(model, now) >= turn

    def _is_idle(self, model: str, now: float) -> bool:
        return not self._sent[model] and now - self._ended.get(model, -math.inf) >= SETTLE

    def give_up(self, model: str) -> None:
        """Record that a waiting request is not sent. If others wait, they say so again."""
        with self._lock:
            self._since.pop(model, None)

    def answered(self, model: str, now: float) -> None:
        with self._lock:
            self._began.setdefault(model, now)
            self._since.pop(model, None)

    def leave(self, model: str, now: float) -> None:
        with self._lock:
            self._sent[model] -= 1
            self._ended[model] = now
            self._since.pop(model, None)
