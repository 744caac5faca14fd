"""llama-server's router mode: one address, several models, each loaded when a request names it.

Every model of a router is a backend of its own (``Registry`` makes it one), with a `RoutedModel` as
its driver. A `Router` knows which models there are and in which state, from ``GET /v1/models`` and,
as soon as something changes, from the events of ``GET /models/sse``.

Looking never loads or wakes a model: every question that is not a client's goes with
``autoload=false``, and tokens are asked of a loaded model alone. What only a loaded model can tell
(its template, context and slots) is learned once and kept when the router evicts the model. So a
request for an evicted one goes straight to the router, which queues it, loads the model and
answers; only the first request of all has to wait for the load before its prompt can be made.

A router that has no room for one more model evicts an idle one, but never a busy one: under steady
traffic for one model, a request for another one would wait for ever. `Turns` sees to that.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec

from ..cancel import Cancel
from ..core.decoding import decoded
from ..core.events import Batch
from ..core.task import Task
from ..core.usage import Usage
from ..errors import BackendDown, Cancelled, GatewayError, UpstreamFault, UpstreamTimeout
from ..lasting import Lasting
from ..wire import servercpp, sse
from ..wire.router import PRESENT, Event, Listed, as_dict, event, forgotten, listed, room
from .driver import Capabilities, Learned, Run, ignore
from .http import Exchange, Pool
from .llamacpp import METRICS_TIMEOUT, LlamaCpp
from .probe import GET_TIMEOUT, adds_bos, fills_in, first_token, keeps_prompts, saves_slots
from .refusals import LOAD_FAILED, refusal
from .turns import Turns

log = logging.getLogger("slotproxy.router")

AGAIN = 5.0  # seconds until the events are asked for again
STEP = 1.0  # seconds between two looks of a request that waits for another one's load
AWAY = (b"model is not loaded", b"is not running", b"proxy error")
LOOK = 0.1  # seconds between two looks of a request that waits for its model's turn
LOAD = 5.0  # seconds that a load is thought to take before one was seen


def outline(one: Listed, build: str = "") -> Capabilities:
    """What is known of a model that was never seen loaded: only today's llama-server is a
    router."""
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
        vision=one.vision,
        audio=one.audio,
        n_vocab=one.n_vocab,
        models=(one.name,),
        build=build,
        provisional=True,
    )


def described(caps: Capabilities, props: object) -> Capabilities | None:
    """The same with what a loaded model's /props say; None where they say nothing."""
    told = as_dict(props)
    slots, n_ctx = told.get("total_slots"), as_dict(told.get("default_generation_settings"))
    context, modalities = n_ctx.get("n_ctx"), as_dict(told.get("modalities"))
    if type(slots) is not int or type(context) is not int:
        return None
    settings = n_ctx.get("params")
    texts = {name: told.get(name) for name in ("chat_template", "bos_token", "eos_token")}
    clean = {name: text if isinstance(text, str) else "" for name, text in texts.items()}
    return msgspec.structs.replace(
        caps,
        slots=max(0, slots),
        n_ctx=max(0, context),
        vision=modalities.get("vision") is True,
        audio=modalities.get("audio") is True,
        template=clean["chat_template"],
        bos_token=clean["bos_token"],
        eos_token=clean["eos_token"],
        settings=as_dict(settings),
        metrics=told.get("endpoint_metrics") is True,
        provisional=False,
    )


# -- asking it -------------------------------------------------------------------------------------


class Router:
    """The router at a backend's address; `wake` is called when something has changed there."""

    def __init__(self, driver: LlamaCpp, found: Capabilities, wake: Callable[[], None]) -> None:
        self.url = driver.url
        self.options = driver.options
        self.build = found.build
        self.turns = Turns(found.slots)
        self.takes = LOAD  # seconds that the last load of a model took
        self.up = True
        self.models: Mapping[str, Listed] = {}
        self._drivers: dict[str, RoutedModel] = {}
        self._wake = wake
        self._looking = threading.Lock()
        self._closed = Cancel()
        timeout, connect = driver.options["timeout"], driver.options["connect_timeout"]
        self._pool = Pool(
            self.url, timeout=timeout, connect_timeout=connect, idle=2, headers=driver.headers
        )
        name = f"router-{self.url.split('://', 1)[1]}"
        threading.Thread(target=self._listen, name=name, daemon=True).start()

    def model(self, name: str) -> RoutedModel:
        """The driver of one of its models."""
        if name not in self._drivers:
            self._drivers[name] = RoutedModel(self, name)
        return self._drivers[name]

    def forget(self, name: str) -> None:
        """It has this model no more; one that comes by this name may be another."""
        self._drivers.pop(name, None)

    @property
    def present(self) -> tuple[str, ...]:
        """The models that take room."""
        return tuple(name for name, one in self.models.items() if one.status in PRESENT)

    @property
    def lost(self) -> frozenset[str]:
        """The models whose slots hold nothing any more, which nobody heeded yet."""
        return frozenset(name for name, driver in self._drivers.items() if driver.lost)

    def look(self) -> Mapping[str, Listed] | None:
        """The models as they are now; None when this is no router any more. Raises
        BackendDown."""
        with self._looking:
            try:
                status, data = self._pool.ask("GET", "/v1/models", timeout=GET_TIMEOUT)
            except GatewayError as error:
                self.up = False
                raise BackendDown("the backend does not answer", detail=error.message) from None
            if status != 200:
                self.up = False
                why = "refuses our key" if status in (401, 403) else f"answers {status}"
                raise BackendDown(f"the backend {why}")
            try:
                found = listed(decoded(data))
            except ValueError:
                found = None
            if not self.up and found is not None:
                self._back()
            self.up = found is not None
            before, self.models = self.models, found or {}
            for name, new in self.models.items():
                old = before.get(name)
                if old is not None and old != new and name in self._drivers:
                    self._drivers[name].changed(old, new)
            return found

    def _back(self) -> None:
        """It is up again, perhaps started with another --models-max."""
        with contextlib.suppress(GatewayError, ValueError):
            _, data = self._pool.ask("GET", "/props", timeout=GET_TIMEOUT)
            self.turns.room = room(decoded(data))

    def close(self) -> None:
        self._closed.cancel()
        self._pool.close()

    def _listen(self) -> None:
        """Hear what changes, for as long as there is somebody to hear. A router that has no events
        is looked at by the clock alone."""
        over = threading.Event()
        self._closed.add(over.set)
        listening = Lasting(f"listening to {self.url}", over.wait)

        def hear() -> None:
            try:
                self._hear(self._pool.send("GET", "/models/sse", None, self._closed, 60.0))
            except GatewayError as error:
                log.debug("no events of %s: %s", self.url, error)
            except sse.SSEError as error:
                log.warning("events of %s are garbled: %s", self.url, error)

        while not self._closed.cancelled:
            listening.turn(hear)
            if not self._closed.cancelled:
                self._wake()
                over.wait(AGAIN)

    def _hear(self, exchange: Exchange) -> None:
        decoder = sse.Decoder()
        try:
            while True:
                data = exchange.read()
                if data is None:
                    continue
                if not data or exchange.status != 200:
                    return
                for _, payload in decoder.feed(data):
                    told = event(payload)
                    if told is not None:
                        self._heard(told)
        finally:
            exchange.close()

    def _heard(self, told: Event) -> None:
        driver = self._drivers.get(told.name)
        if driver is not None:
            driver.progress = told.progress
            if told.status in ("unloaded", "sleeping"):
                driver.lost = True
        if told.progress is None:
            self._wake()


class ModelPool(Pool):
    """Connections to a router that name the model with every request. `quiet`: nothing is loaded
    by what goes here; `missed` says that the model was not there."""

    def __init__(self, url: str, *, model: str, quiet: bool = False, **options: Any) -> None:
        super().__init__(url, **options)
        self._model = model
        self._quiet = quiet
        self.missed = False

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        cancel: Cancel | None = None,
        tick: float = 15.0,
        *,
        patience: float | None = None,
        short: bool = False,
    ) -> Exchange:
        query = "autoload=false" if self._quiet else ""
        if isinstance(body, dict):
            body = {**body, "model": self._model}
        else:
            query += f"{'&' if query else ''}model={quote(self._model, safe='')}"
        if query:
            path += ("&" if "?" in path else "?") + query
        return super().send(method, path, body, cancel, tick, patience=patience, short=short)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        timeout: float | None = None,
        cancel: Cancel | None = None,
        *,
        patience: float | None = None,
        short: bool = False,
    ) -> tuple[int, bytes]:
        status, data = super().ask(
            method, path, body, timeout, cancel, patience=patience, short=short
        )
        if self._quiet and status != 200 and is_away(data):
            self.missed = True
            raise BackendDown("the model is not loaded")
        return status, data


def is_away(data: bytes) -> bool:
    """Whether the router refuses a request because the model is not loaded, or was evicted in this
    moment: what goes with autoload=false goes to a process that is ending, too."""
    return any(words in data for words in AWAY)


class RoutedModel(LlamaCpp):
    """One model of a router. `lost`: its slots hold nothing any more, which nobody heeded yet;
    `progress` is the part of it that is loaded, None where that is not known."""

    def __init__(self, router: Router, name: str) -> None:
        super().__init__(router.url, **router.options, connect=partial(ModelPool, model=name))
        self.name = name
        self.lost = False
        self.progress: float | None = None
        self.takes = LOAD  # seconds that the last load took
        self._router = router
        self._quiet = ModelPool(
            router.url,
            model=name,
            quiet=True,
            timeout=GET_TIMEOUT,
            connect_timeout=router.options["connect_timeout"],
            idle=0,
            headers=self.headers,
        )
        self._known: Capabilities | None = None
        self._instance = ""  # of which `_known` was asked last
        self._sure = False  # … in full
        self._learning = threading.Lock()
        self._began = 0.0  # when a load did

    # what the registry asks

    @property
    def status(self) -> str:
        one = self._router.models.get(self.name)
        # What a dead router had loaded went with it.
        return one.status if one is not None and self._router.up else "unloaded"

    @property
    def trouble(self) -> str:
        one = self._router.models.get(self.name)
        if one is None or one.status != "failed":
            return ""
        why = f"its process ended with exit code {one.exit_code}"
        return f"the model {self.name} could not be loaded: {why}"

    @property
    def awaits(self) -> float:
        return 0.0 if self.status == "loaded" else self.takes

    def probe(self, deadline: float, learned: Learned = ignore) -> Capabilities:
        if self._router.look() is None or self.name not in self._router.models:
            raise BackendDown("the router does not have this model any more")
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
        one = self._router.models.get(self.name) or Listed(name=self.name, status="unloaded")
        seen = self._sure and self._instance == one.instance
        if one.status == "loaded" and not seen and self._learning.acquire(blocking=False):
            try:
                self._learn(*self._quiet.ask("GET", "/props", timeout=GET_TIMEOUT), one)
            except GatewayError as error:
                log.debug("%s of %s: %s", self.name, self.url, error)
            finally:
                self._learning.release()
        lost, self.lost = self.lost, False
        return self._known or outline(one, self._router.build), lost

    def changed(self, old: Listed, new: Listed) -> None:
        """The router lists it otherwise than before."""
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

    # what the gateway asks

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> TakingTurns:
        return TakingTurns(self, partial(super().stream, task, slot, caps, cancel), cancel)

    def _ask(self, path: str, body: object, cancel: Cancel) -> tuple[int, bytes]:
        for _ in self.turn(cancel):
            pass
        try:
            return super()._ask(path, body, cancel)
        finally:
            self.over()

    def counters(self) -> dict[str, float]:
        # Somebody looks at the numbers, which must not load the model.
        status, data = self._quiet.ask("GET", "/metrics", timeout=METRICS_TIMEOUT)
        return servercpp.counters(data) if status == 200 else {}

    def _refusal(self, status: int, data: bytes) -> GatewayError:
        return self.explained(super()._refusal(status, data))

    def turn(self, cancel: Cancel) -> Iterator[None]:
        """Until a request may be sent to the router, which `over` ends; yields at every tick.
        Raises UpstreamTimeout, Cancelled."""
        router, began = self._router, time.monotonic()
        ticks, now = 1, began
        awake = threading.Event()
        cancel.add(awake.set)
        try:
            while not router.turns.take(self.name, router.present, now, router.takes):
                if cancel.cancelled:
                    raise Cancelled("the client closed the request")
                if now - began > self.timeout:
                    raise UpstreamTimeout("the models of the router took turns for too long")
                if now - began > ticks * self._tick:
                    ticks += 1
                    yield
                awake.wait(LOOK)
                now = time.monotonic()
        finally:
            cancel.remove(awake.set)

    def answered(self) -> None:
        """A request that was sent has begun to be answered."""
        self._router.turns.answered(self.name, time.monotonic())

    def over(self, answered: bool = False) -> None:
        """A request that was sent has ended."""
        self._router.turns.leave(self.name, answered)

    def explained(self, error: GatewayError) -> GatewayError:
        """The same with what the router says of a load that failed."""
        if error.code == LOAD_FAILED:
            with contextlib.suppress(BackendDown):
                self._router.look()
            if self.trouble:
                error.message = f"{self.trouble}; the log of its server says why"
        return error

    def loading(self) -> str:
        """What to tell a request that waits for the model; "" when it is loaded."""
        if self.status == "loaded":
            return ""
        part = self.progress
        return f"loading {self.name}" + (f", {part:.0%}" if part is not None else "")

    def load(self, cancel: Cancel) -> Iterator[None]:
        """Until what only the loaded model can tell is known, asked for by one at a time. Raises
        UpstreamFault for a load that failed, BackendDown, UpstreamTimeout, Cancelled."""
        end = time.monotonic() + self.timeout
        while self._known is None:
            if self._learning.acquire(timeout=min(STEP, self._tick)):
                try:
                    if self._known is None:
                        yield from self._load(cancel)
                finally:
                    self._learning.release()
                continue
            if cancel.cancelled:
                raise Cancelled("the client closed the request")
            if time.monotonic() > end:
                raise UpstreamTimeout("the model was not loaded in time")
            yield

    def _load(self, cancel: Cancel) -> Iterator[None]:
        """The router loads a model to tell its props, and what waits for it protects it from being
        evicted."""
        yield from self.turn(cancel)
        exchange: Exchange | None = None
        waited = 0.0
        try:
            exchange = self._pool.send("GET", "/props", None, cancel, self._tick)
            while not exchange.headers_came():
                waited += self._tick
                if waited >= self.timeout:
                    raise UpstreamTimeout("the model was not loaded in time")
                yield
            status, data = exchange.status, exchange.read_all(GET_TIMEOUT)
        finally:
            if exchange is not None:
                exchange.close()
            self.over()
        found = self._router.look() or {}
        one = found.get(self.name) or Listed(name=self.name, status="unloaded")
        self._learn(status, data, one)
        if self._known is None:
            raise UpstreamFault("the router told nothing of the model")

    def _learn(self, status: int, data: bytes, one: Listed) -> None:
        """From what /props said of the loaded model. Raises what the answer stands for."""
        if status != 200:
            raise self.explained(refusal(status, data))
        try:
            props = decoded(data)
        except ValueError:
            raise UpstreamFault("the router sent no JSON") from None
        known = described(outline(one, self._router.build), props)
        if known is None:
            return
        before = self._known
        if before is None or not self._sure:
            quiet = self._quiet
            quiet.missed = False
            before = msgspec.structs.replace(
                known,
                slot_save=saves_slots(quiet),
                infill=fills_in(quiet),
                ram_cache=keeps_prompts(quiet),
                adds_bos=not known.bos_token or adds_bos(quiet),
            )
            self._sure = not quiet.missed
        if self._sure:  # else it was evicted meanwhile: as most are, until it is loaded again
            known = msgspec.structs.replace(
                known,
                slot_save=before.slot_save,
                infill=before.infill,
                ram_cache=before.ram_cache,
                adds_bos=before.adds_bos,
            )
        self._instance = one.instance
        self._known = known


class TakingTurns:
    """A completion that begins when its model's turn has come."""

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
