"""llama-server's router mode: one address, several models, each loaded when a request names it.

Every model of a router is a backend of its own (created by `Registry`), with a `RoutedModel` as its
driver. A `Router` knows its models and their states, from ``GET /v1/models`` and, as soon as
something changes, from the events of ``GET /models/sse``.

Monitoring never loads or wakes a model: every request that is not a client's has
``autoload=false``, and only a loaded model is asked for a token. What only a loaded model reports
(its template, context and slots) is learned once and kept when the router evicts the model. So a
request for an evicted model goes straight to the router, which queues it, loads the model and
answers; only the very first request waits for the load before its prompt can be rendered.

A router without room for another model evicts an idle one, but never a busy one: under steady
traffic for one model, a request for another would wait forever. And one that is idle between two
requests is evicted at once. `Turns` prevents both.
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

from ..core.decoding import decoded
from ..core.events import Batch
from ..core.task import Task
from ..core.usage import Usage
from ..errors import BackendDown, GatewayError, UpstreamFault, UpstreamTimeout
from ..runtime.cancel import Cancel
from ..runtime.lasting import Lasting
from ..runtime.locks import native_lock
from ..wire import servercpp, sse
from ..wire.router import PRESENT, Listed, RouterEvent, as_dict, event, forgotten, listed, room
from . import relay
from .driver import Capabilities, Learned, Run, ignore
from .http import ConnectionPool, Exchange
from .llamacpp import METRICS_TIMEOUT, LlamaCpp
from .probe import (
    GET_TIMEOUT,
    adds_bos,
    fills_in,
    first_token,
    keeps_prompts,
    of_props,
    saves_slots,
)
from .refusals import LOAD_FAILED, refusal

# Gives models turns on a router with little room: no request waits forever, and no model is
# evicted at once.
#
# llama-server queues requests for unloaded models, first come, first served, and evicts a model
# for them as soon as it is idle, if only between two requests of one client. A busy one it never
# evicts, so while the requests of a loaded model overlap, requests for others wait forever. Three
# rules change both, on a router without free room:
#
# 1. A request for a model that is not loaded is sent to the router once a loaded model is idle:
# none of its requests has been under way for a moment. 2. When it has waited for a turn, new
# requests for one loaded model are held back, the one with the fewest under way, until it is
# idle. 3. But no model is held back before its own turn is over. A turn is as long as a load
# takes, so that at most half of the time is spent loading.
#
# Pure: the time and the loaded models are parameters. Thread-safe.
SHORTEST = 2.0  # seconds of a turn
SETTLE = 0.25  # seconds without a request after which a model is idle


class Turns:
    """Turns on a router that has room for `room` models; 0 for any number."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self._lock = native_lock()
        self._waiting: Counter[str] = Counter()  # requests that may not be sent yet
        self._asked: Counter[str] = Counter()  # requests sent to the router
        self._silent: Counter[str] = Counter()  # those of them without a first token
        self._since: dict[str, float] = {}  # since when a model's requests have waited for a token
        self._ended: dict[str, float] = {}  # when a model's last request ended
        self._began: dict[str, float] = {}  # the first token of a model since it was loaded

    def wait(self, model: str, now: float) -> None:
        """Record a request for a model. It waits until `take` permits it, or `give_up`."""
        with self._lock:
            self._waiting[model] += 1
            self._since.setdefault(model, now)

    def take(self, model: str, present: Collection[str], now: float, turn: float = 0.0) -> bool:
        """Whether a waiting request may be sent now; if so, it counts as under way until `leave`.
        `present` are the loaded models, `turn` is the length of a turn in seconds."""
        with self._lock:
            # A model that was just loaded may answer before the list shows it.
            loaded = {*present, *(name for name, count in self._asked.items() if count)}
            self._began = {name: since for name, since in self._began.items() if name in loaded}
            if self._held_back(model, present, now, max(SHORTEST, turn)):
                return False
            self._waiting[model] -= 1
            self._asked[model] += 1
            self._silent[model] += 1
            return True

    def _held_back(self, model: str, present: Collection[str], now: float, turn: float) -> bool:
        loaded = self._loaded_soon(present, now)
        if not 0 < self.room <= len(loaded):
            return False
        if model not in loaded:
            return not any(self._is_idle(other, now) for other in loaded)
        if not any(now - since >= turn for m, since in self._since.items() if m not in loaded):
            return False
        if now - self._began.get(model, now) < turn:
            return False
        return model == min(loaded, key=lambda candidate: (self._asked[candidate], candidate))

    def _loaded_soon(self, present: Collection[str], now: float) -> set[str]:
        """The models that are loaded once the router has those that it was asked for: it evicts the
        idle ones that were used least recently. The list in `present` comes later."""
        coming = {model for model, count in self._asked.items() if count and model not in present}
        idle = sorted(
            (model for model in present if self._is_idle(model, now)),
            key=lambda model: (self._ended.get(model, -math.inf), model),
        )
        lacking = max(0, len(present) + len(coming) - self.room)
        return {*present, *coming} - {*idle[:lacking]}

    def _is_idle(self, model: str, now: float) -> bool:
        return not self._asked[model] and now - self._ended.get(model, -math.inf) >= SETTLE

    def give_up(self, model: str) -> None:
        """Record that a waiting request is not sent."""
        with self._lock:
            self._waiting[model] -= 1
            self._forget(model)

    def answered(self, model: str, now: float) -> None:
        """Record the first token of a request."""
        with self._lock:
            self._silent[model] -= 1
            self._began.setdefault(model, now)
            self._since[model] = now
            self._forget(model)

    def leave(self, model: str, answered: bool, now: float) -> None:
        """Record the end of a request."""
        with self._lock:
            self._asked[model] -= 1
            self._ended[model] = now
            if not answered:
                self._silent[model] -= 1
                self._forget(model)

    def _forget(self, model: str) -> None:
        if self._silent[model] + self._waiting[model] <= 0:
            self._since.pop(model, None)


log = logging.getLogger("slotproxy.router")

AGAIN = 5.0  # seconds until the event stream is opened again
STEP = 1.0  # seconds between two checks of a request that waits for another request's load
AWAY = (b"model is not loaded", b"is not running", b"proxy error")
LOOK = 0.1  # seconds between two checks of a request that waits for its model's turn
LOAD = 5.0  # seconds that a load is assumed to take before the first one


def outline(model: Listed, build: str = "") -> Capabilities:
    """What is known of a model that was never loaded. Only today's llama-server is a router."""
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


def described(caps: Capabilities, props: object) -> Capabilities | None:
    """The capabilities with a loaded model's /props added. None if /props has none."""
    reported = of_props(as_dict(props))
    if not (reported["slots"] and reported["n_ctx"]):
        return None
    return msgspec.structs.replace(caps, provisional=False, **reported)


# -- the router ------------------------------------------------------------------------------------


class Router:
    """The router at a backend's address. It calls `wake` when something has changed."""

    def __init__(self, driver: LlamaCpp, caps: Capabilities, wake: Callable[[], None]) -> None:
        self.url = driver.url
        self.options = driver.options
        self.build = caps.build
        self.turns = Turns(caps.slots)
        self.takes = LOAD  # seconds that the last load of a model took
        self.up = True
        self.models: Mapping[str, Listed] = {}
        self._drivers: dict[str, RoutedModel] = {}
        self._wake = wake
        self._looking = threading.Lock()
        self._closed = Cancel()
        self._pool: ConnectionPool = driver.new_pool(idle=2)
        name = f"router-{self.url.split('://', 1)[1]}"
        threading.Thread(target=self._listen, name=name, daemon=True).start()

    def model(self, name: str) -> RoutedModel:
        """The driver of one of its models."""
        if name not in self._drivers:
            self._drivers[name] = RoutedModel(self, name)
        return self._drivers[name]

    def forget(self, name: str) -> None:
        """Forget a model that is no longer listed. A later one of this name may be another."""
        self._drivers.pop(name, None)

    @property
    def present(self) -> tuple[str, ...]:
        """The loaded models, which take room."""
        return tuple(name for name, model in self.models.items() if model.status in PRESENT)

    @property
    def lost(self) -> frozenset[str]:
        """The models whose slots lost their content, until the registry has handled it."""
        return frozenset(name for name, driver in self._drivers.items() if driver.lost)

    def look(self) -> Mapping[str, Listed] | None:
        """The models as they are now. None if the server is no longer a router. Raises
        BackendDown."""
        with self._looking:
            try:
                status, data = self._pool.ask("GET", "/v1/models", timeout=GET_TIMEOUT)
            except GatewayError as error:
                self.up = False
                raise BackendDown("the backend is not responding", detail=error.message) from None
            if status != 200:
                self.up = False
                why = (
                    "rejects our API key"
                    if status in (401, 403)
                    else f"responds with status {status}"
                )
                raise BackendDown(f"the backend {why}")
            try:
                models = listed(decoded(data))
            except ValueError:
                models = None
            if not self.up and models is not None:
                self._on_restart()
            self.up = models is not None
            before, self.models = self.models, models or {}
            for name, new in self.models.items():
                old = before.get(name)
                if old is not None and old != new and name in self._drivers:
                    self._drivers[name].changed(old, new)
            return models

    def _on_restart(self) -> None:
        """Handle a restart, perhaps with another --models-max."""
        with contextlib.suppress(GatewayError, ValueError):
            _, data = self._pool.ask("GET", "/props", timeout=GET_TIMEOUT)
            self.turns.room = room(decoded(data))

    def close(self) -> None:
        self._closed.cancel()
        self._pool.close()

    def _listen(self) -> None:
        """Follow the events until the router is closed. One without events is only checked at
        intervals."""
        listening = Lasting(f"following {self.url}", self._closed.wait)
        while not self._closed.cancelled:
            listening.turn(self._hear)
            if not self._closed.cancelled:
                self._wake()
                self._closed.wait(AGAIN)

    def _hear(self) -> None:
        try:
            self._follow_events(self._pool.send("GET", "/models/sse", None, self._closed, 60.0))
        except GatewayError as error:
            log.debug("no events from %s: %s", self.url, error)
        except sse.SSEError as error:
            log.warning("invalid events from %s: %s", self.url, error)

    def _follow_events(self, exchange: Exchange) -> None:
        decoder = sse.Decoder()
        try:
            while True:
                data = exchange.read()
                if data is None:
                    continue
                if not data or exchange.status != 200:
                    return
                for _, payload in decoder.feed(data):
                    change = event(payload)
                    if change is not None:
                        self._on_event(change)
        finally:
            exchange.close()

    def _on_event(self, change: RouterEvent) -> None:
        driver = self._drivers.get(change.name)
        if driver is not None:
            driver.progress = change.progress
            if change.status in ("unloaded", "sleeping"):
                driver.lost = True
        if change.progress is None:
            self._wake()


class ModelPool(ConnectionPool):
    """Connections to a router that name the model in every request. `quiet`: requests do not load
    the model; `missed` is called if the model was not loaded."""

    def __init__(self, url: str, *, model: str, quiet: bool = False, **options: Any) -> None:
        super().__init__(url, **options)
        self._model = model
        self._quiet = quiet
        self.missed = False

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
            self.missed = True
            raise BackendDown("the model is not loaded")
        return status, data


def is_away(data: bytes) -> bool:
    """Whether the router refuses a request because the model is not loaded, or is being evicted:
    requests with autoload=false still go to a process that is ending."""
    return any(words in data for words in AWAY)


class RoutedModel(LlamaCpp):
    """One model of a router. `lost`: its slots lost their content, until the registry has handled
    it. `progress` is the loaded part of the model, None if unknown."""

    def __init__(self, router: Router, name: str) -> None:
        super().__init__(router.url, **router.options, connect=partial(ModelPool, model=name))
        self.name = name
        self.lost = False
        self.progress: float | None = None
        self.takes = LOAD  # seconds that the last load took
        self._router = router
        self._quiet: ModelPool = self.new_pool(quiet=True, timeout=GET_TIMEOUT, idle=0)
        self._known: Capabilities | None = None
        self._instance = ""  # the load after which `_known` was last requested
        self._features: dict[str, bool] = {}  # found out by requests, when it was first loaded
        self._learning = threading.Lock()
        self._began = 0.0  # when the current load began

    # for the registry

    @property
    def status(self) -> str:
        entry = self._router.models.get(self.name)
        # When a router dies, its models are unloaded.
        return entry.status if entry is not None and self._router.up else "unloaded"

    @property
    def trouble(self) -> str:
        entry = self._router.models.get(self.name)
        if entry is None or entry.status != "failed":
            return ""
        why = f"its process exited with code {entry.exit_code}"
        return f"the model {self.name} failed to load: {why}"

    @property
    def awaits(self) -> float:
        return 0.0 if self.status == "loaded" else self.takes

    def probe(self, deadline: float, learned: Learned = ignore) -> Capabilities:
        if self._router.look() is None or self.name not in self._router.models:
            raise BackendDown("the router no longer lists this model")
        if self.status == "loaded":
            try:
                first_token(self._quiet, deadline)
            except UpstreamFault as error:
                if not is_away(error.detail.encode()):
                    raise
        return self.refresh()[0]

    def alive(self, seconds: float = GET_TIMEOUT) -> bool:
        return self._router.up and self.name in self._router.models

    def refresh(self) -> tuple[Capabilities, bool]:
        entry = self._router.models.get(self.name) or Listed(name=self.name, status="unloaded")
        seen = bool(self._features) and self._instance == entry.instance
        if entry.status == "loaded" and not seen and self._learning.acquire(blocking=False):
            try:
                self._learn(*self._quiet.ask("GET", "/props", timeout=GET_TIMEOUT), entry)
            except GatewayError as error:
                log.debug("%s of %s: %s", self.name, self.url, error)
            finally:
                self._learning.release()
        lost, self.lost = self.lost, False
        return self._known or outline(entry, self._router.build), lost

    def changed(self, old: Listed, new: Listed) -> None:
        """Handle a change of its entry in the router's list."""
        now = time.monotonic()
        if new.status == "loading" and old.status != "loading":
            self._began = now
        elif new.status == "loaded" and old.status == "loading" and self._began:
            self.takes = self._router.takes = now - self._began
        if forgotten(old, new):
            self.lost = True

    def close(self) -> None:
        super().close()
        self._quiet.close()

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

    def server_prompt(self, task: Task) -> str | None:
        return relay.server_prompt(self._quiet, task)

    def counters(self) -> dict[str, float]:
        # A metrics request must not load the model.
        status, data = self._quiet.ask("GET", "/metrics", timeout=METRICS_TIMEOUT)
        return servercpp.counters(data) if status == 200 else {}

    def _refusal(self, status: int, data: bytes) -> GatewayError:
        return self.explained(super()._refusal(status, data))

    def turn(self, cancel: Cancel) -> Iterator[None]:
        """Wait until a request may be sent to the router; call `over` after it. Yields at every
        tick. Raises UpstreamTimeout, Cancelled."""
        router, began = self._router, time.monotonic()
        ticks, now, sent = 1, began, False
        router.turns.wait(self.name, now)
        try:
            while not router.turns.take(self.name, router.present, now, router.takes):
                cancel.check()
                if now - began > self.timeout:
                    raise UpstreamTimeout(
                        "timed out waiting for the router's other models to unload"
                    )
                if now - began > ticks * self._tick:
                    ticks += 1
                    yield
                cancel.wait(LOOK)
                now = time.monotonic()
            sent = True
        finally:
            if not sent:
                router.turns.give_up(self.name)

    def answered(self) -> None:
        """Record that the answer to a request has begun."""
        self._router.turns.answered(self.name, time.monotonic())

    def over(self, answered: bool = False) -> None:
        """Record that a request has ended."""
        self._router.turns.leave(self.name, answered, time.monotonic())

    def explained(self, error: GatewayError) -> GatewayError:
        """The error, with the router's message about a failed load added."""
        if error.code == LOAD_FAILED:
            with contextlib.suppress(BackendDown):
                self._router.look()
            if self.trouble:
                error.message = f"{self.trouble}; see its server's log for the reason"
        return error

    def loading(self) -> str:
        """A notice for a request that waits for the model, "" if it is loaded."""
        if self.status == "loaded":
            return ""
        part = self.progress
        return f"loading {self.name}" + (f", {part:.0%}" if part is not None else "")

    def load(self, cancel: Cancel, key: str = "") -> Iterator[None]:
        """Load the model until its properties are known; one request at a time does it. Raises
        UpstreamFault if the load failed, BackendDown, UpstreamTimeout, Cancelled."""
        end = time.monotonic() + self.timeout
        while self._known is None:
            if self._learning.acquire(timeout=min(STEP, self._tick)):
                try:
                    if self._known is None:
                        yield from self._load(cancel)
                finally:
                    self._learning.release()
                continue
            cancel.check()
            if time.monotonic() > end:
                raise UpstreamTimeout("timed out loading the model")
            yield

    def _load(self, cancel: Cancel) -> Iterator[None]:
        """Request the model's props, which makes the router load it. The pending request keeps the
        router from evicting it."""
        yield from self.turn(cancel)
        exchange: Exchange | None = None
        waited = 0.0
        try:
            exchange = self._pool.send("GET", "/props", None, cancel, self._tick)
            while not exchange.headers_came():
                waited += self._tick
                if waited >= self.timeout:
                    raise UpstreamTimeout("timed out loading the model")
                yield
            status, data = exchange.status, exchange.read_all(GET_TIMEOUT)
        finally:
            if exchange is not None:
                exchange.close()
            self.over()
        models = self._router.look() or {}
        entry = models.get(self.name) or Listed(name=self.name, status="unloaded")
        self._learn(status, data, entry)
        if self._known is None:
            raise UpstreamFault("the router did not report the model's properties")

    def _learn(self, status: int, data: bytes, entry: Listed) -> None:
        """Use the /props of the loaded model. Raises the error that the answer stands for."""
        if status != 200:
            raise self.explained(refusal(status, data))
        try:
            props = decoded(data)
        except ValueError:
            raise UpstreamFault("the router returned invalid JSON") from None
        known = described(outline(entry, self._router.build), props)
        if known is None:
            return
        if not self._features:
            quiet = self._quiet
            quiet.missed = False
            found = {
                "slot_save": saves_slots(quiet),
                "infill": fills_in(quiet),
                "ram_cache": keeps_prompts(quiet),
                "adds_bos": not known.bos_token or adds_bos(quiet),
            }
            if not quiet.missed:  # otherwise it was evicted meanwhile: asked after the next load
                self._features = found
        self._instance = entry.instance
        self._known = msgspec.structs.replace(known, **self._features)


class TakingTurns:
    """A completion that starts when it is its model's turn."""

    def __init__(self, model: RoutedModel, begin: Callable[[], Run], cancel: Cancel) -> None:
        self._model = model
        self._begin = begin
        self._cancel = cancel
        self._run: Run | None = None

    @property
    def slot(self) -> int:
        return self._run.slot if self._run is not None else -1

    def usage(self) -> Usage:
        return self._run.usage() if self._run is not None else Usage()

    def close(self) -> None:
        if self._run is not None:
            self._run.close()

    def __iter__(self) -> Iterator[Batch]:
        model = self._model
        for _ in model.turn(self._cancel):
            yield []
        answered = False
        try:
            self._run = self._begin()
            batches = iter(self._run)
            for batch in batches:
                yield batch
                if batch:
                    answered = True
                    model.answered()
                    yield from batches
        except UpstreamFault as error:
            raise model.explained(error) from None
        finally:
            model.over(answered)
