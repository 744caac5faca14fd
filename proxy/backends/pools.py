"""The backends, the models they serve, and the names of these models: what every request reads.

A model is a pool: all backends that serve a model of the same name.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from msgspec import Struct, field

from ..config import BackendConfig
from ..config.routes import Place
from ..config.routes import Rule as Rule  # for the gateway, which reads no configuration
from ..core.task import NO_TIER, Tier
from ..errors import GatewayError, ModelNotFound, NoBackend, Unsupported
from ..prompting.profile import verify
from ..runtime.locks import native_lock
from ..scheduling.state import BackendFacts
from .driver import Capabilities, Driver, ModelHost
from .tokens import TokenCounter

UNNAMED = "default"
CLOUDS = ("claude-", "gpt-")  # beginnings of the names that Claude Code, Codex and others insist on
THE_BACKEND = "the backend "
EARLY = 2.0  # seconds that a request waits for a server that has been gone for long, or ever
RETRY = 5.0  # seconds until a request is worth another try, if its backend is down
LOADED = ("", "loaded")  # statuses of a model that need not be loaded first
SETTLE = 0.02  # seconds an old server needs to free a slot after a complete answer
ChatMode = Literal["auto", "native", "completion"]
OnOverflow = Literal["refuse", "compact"]


class Backend(Struct, eq=False, dict=True):
    """One configured backend. Values set in the configuration override the probe's. Fields are
    replaced whole, so readers need no lock."""

    name: str
    url: str
    driver: Driver
    set_model: str = ""
    set_slots: int = 0
    set_n_ctx: int = 0
    weight: float = 1.0
    chat_mode: ChatMode = "auto"
    config: BackendConfig | None = None
    aliases: tuple[str, ...] = ()  # other names of its model
    unlisted: bool = False  # lists of models leave it out
    shows_load: bool = False  # streams of chats show a load as reasoning
    lists_aliases: bool = False  # they have its other names, too
    place: Place | None = None  # in a route
    # Chooses the driver for what answers at the address, from the present one.
    detect: Callable[[Driver], Driver] | None = None
    router: ModelHost | None = None  # if its address has several models: it serves nothing
    host: Backend | None = None  # that backend, for each of these models
    router_of: Backend | None = None  # the backend whose router its driver uses
    presumed: str = UNNAMED  # its model until it reports one: that of whose name it took over
    caps: Capabilities | None = None  # None until the first probe's questions were answered
    up: bool | None = None  # None until the first probe
    error: str = ""  # why it is down
    # Since when there is no connection to it: -inf if there never was one, inf if there is.
    unreachable_since: float = math.inf
    leaving: bool = False  # it drains, and is closed after its last answer
    closed: bool = False
    users: int = 0  # attempts under way, changed under the registry's lock only
    load_eta: float = 0.0  # expected seconds until its model is loaded, as last reported
    verdict: verify.Verdict = verify.UNKNOWN  # on our prompts, compared with its own
    verified: object = None  # the template and build of the verdict
    wake: threading.Event = field(default_factory=lambda: threading.Event())  # asks for a check

    def __post_init__(self) -> None:
        self.counter = TokenCounter(self.driver)
        if self.config is not None:
            self.place = self.config.place

    def own(self, name: str) -> Any:
        """What the operator says of its model in the settings, None for nothing."""
        return getattr((self.host or self).config, name, None)

    @property
    def model(self) -> str:
        """The name of its pool."""
        if self.place is not None:
            return self.place.model
        if self.set_model:
            return self.set_model
        return self.caps.models[0] if self.caps is not None and self.caps.models else self.presumed

    def choose_driver(self) -> None:
        """Talk to what answers at the address now with the driver for its kind. Raises
        BackendDown."""
        if self.detect is None or (driver := self.detect(self.driver)) is self.driver:
            return
        self.driver.close()
        self.driver, self.counter, self.caps = driver, TokenCounter(driver), None

    def take_over(self, old: Backend) -> None:
        """Keep what was found out about the same server under other settings."""
        self.caps, self.up, self.error, self.load_eta = old.caps, old.up, old.error, old.load_eta
        self.verdict, self.verified = old.verdict, old.verified
        self.unreachable_since = old.unreachable_since

    def of_model(self, name: str, driver: Driver, aliases: tuple[str, ...]) -> Backend:
        return Backend(
            f"{self.name}/{name}",
            self.url,
            driver,
            set_model=name,
            set_slots=self.set_slots,
            set_n_ctx=self.set_n_ctx,
            weight=self.weight,
            chat_mode=self.chat_mode,
            aliases=aliases,
            place=self.place if self.set_model else None,
            host=self,
            router_of=self,
        )

    @property
    def forwards(self) -> str:
        return self.driver.forwards

    @property
    def is_unread(self) -> bool:
        """Whether nothing says which models it has: it has not reported any yet."""
        return self.caps is None and not (self.set_model or self.place)

    @property
    def tier(self) -> Tier:
        return self.place.tier if self.place is not None else NO_TIER

    @property
    def facts(self) -> BackendFacts:
        caps = self.caps
        ram = caps is not None and caps.ram_cache
        files = caps is not None and caps.slot_save and not ram
        return BackendFacts(
            model=self.model,
            slots=self.slots,
            weight=self.weight,
            pins=not ram,
            cache_kind="ram" if ram else "files" if files else "nothing",
            release_delay=0.0 if caps is None or caps.queues else SETTLE,
            keeps_files=self.driver.keeps_files,
            tier=self.tier,
            adapters=caps is not None and bool(caps.adapters),
            mixes=caps is not None and not all(adapter.scale for adapter in caps.adapters),
            most=0 if caps is None or self.set_slots else caps.most_slots,
        )

    @property
    def slots(self) -> int:
        """The number of parallel requests; 0 if unknown."""
        return self.set_slots or (self.caps.slots if self.caps is not None else 0)

    @property
    def uncounted(self) -> bool:
        """Whether its slots should be counted: their number is neither reported nor configured."""
        caps = self.caps
        return not self.slots and caps is not None and not caps.queues

    @property
    def n_ctx(self) -> int:
        """The context of a slot in tokens, 0 if unknown."""
        return self.set_n_ctx or (self.caps.n_ctx if self.caps is not None else 0)

    @property
    def status(self) -> str:
        return self.driver.status

    @property
    def sees(self) -> bool:
        """Whether it is known to accept images."""
        caps = self.caps
        if caps is None or not caps.vision:
            return False
        return caps.native or (caps.chat and self.chat_mode != "completion")

    @property
    def is_loaded(self) -> bool:
        """Whether its slots exist: those of a model that is loaded on demand do only then."""
        return self.status in LOADED

    def trouble(self, *, admin: bool = False) -> str:
        """What is wrong with it, as an admin or others read it, "" for nothing."""
        return self.error or (self.driver.trouble(admin=admin) if self.up else "")

    @property
    def provisional(self) -> bool:
        return self.caps is not None and self.caps.provisional


class BackendPools:
    """All backends by name, and by the model they serve. `configured` are those of the
    configuration: it includes routers, but not their models."""

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        aliases: Sequence[str] = (),
        patterns: Mapping[str, str] = {},
        strict: bool = False,
        default: str = "",
    ) -> None:
        self.backends = {backend.name: backend for backend in backends}
        self.configured = dict(self.backends)
        self._aliases = tuple(aliases)
        self._patterns = patterns
        self._strict = strict
        self._default = default
        self.rules: Mapping[str, tuple[Rule, ...]] = {}  # that choose a model, by name of a route
        self.embedding = ""  # the model with which the gateway itself makes embeddings
        self._changing = native_lock()  # held to replace any of the following, or `backends`
        self._pools: dict[str, tuple[Backend, ...]] = {}  # cached, since every request reads them
        self._named: tuple[str, ...] = ()
        self._unread: frozenset[str] = frozenset()  # pools of backends without a reported model
        self._listed: tuple[str, ...] = ()
        self._forwarding: frozenset[str] = frozenset()  # models to which requests are forwarded
        self._answering: tuple[str, ...] = ()  # the other models,
        self._known: dict[str, tuple[str, str]] = {}  # and what their own names resolve to
        self._shown = ""  # the name of the only one of them in answers
        self._also: dict[str, str] = {}  # model by alias, from routers
        self.adapters: Mapping[str, str] = {}  # of the models that are one with an adapter, by name
        # What happens to conversations that do not fit, by model, where its backends say it.
        self.on_overflow: Mapping[str, OnOverflow] = {}
        self.late_binding: Mapping[str, tuple[str, ...]] = {}  # the same of lines that are moved

    def models(self) -> tuple[str, ...]:
        """The names of the pools, in the order of the configuration. Backends that have not
        reported a model count only if no other has."""
        return self._named

    def names(self) -> tuple[str, ...]:
        """The names in /v1/models: the aliases of the only model, otherwise the listed models."""
        if self._aliases and len(self._named) == 1:
            return (*self._aliases, *self.adapted(), *self.routes)
        backends = (backend for model in self._listed for backend in self._pools[model])
        more = (alias for b in backends if b.lists_aliases for alias in b.aliases)
        return tuple(dict.fromkeys((*self._listed, *more, *self.adapted(), *self.routes)))

    def adapted(self) -> tuple[str, ...]:
        """The models with an adapter, without those that lists leave out."""
        return tuple(name for name in self.adapters if self._also.get(name) in self._listed)

    def listed(self) -> tuple[str, ...]:
        """The models without those that lists leave out."""
        return self._listed

    @property
    def routes(self) -> Mapping[str, str]:
        """The last model that exists of each route with rules that has any."""
        names = {r: [n for rule in self.rules[r] for n in rule.models] for r in self.rules}
        known = {r: [n for n in names[r] if n in self._named or n in self._also] for r in names}
        return {route: models[-1] for route, models in known.items() if models}

    def ruled(self, name: str) -> str:
        """The route with rules that this name means, "" for none."""
        if name in self.rules or not self.rules:
            return name if self.rules else ""
        if name in (*self._named, *self._also, *self._aliases):
            return ""
        targets = (to for pattern, to in self._patterns.items() if fnmatchcase(name, pattern))
        target = next(targets if name else iter(()), "" if self._strict else self._default)
        return target if target in self.rules else ""

    def resolve(self, name: str, may: Callable[[str], bool] = lambda _: True) -> tuple[str, str]:
        """The pool and the name to answer with, for the model name in a request. Other names than
        those of models mean what the first matching pattern says. With one model, or a default,
        the rest mean that model, and with several those of clouds mean the first that the caller
        `may` use, unless names are strict or requests for it are only forwarded. A route with rules
        means the last model that exists, where no request tells which one. Raises
        ModelNotFound, Unsupported, and NoBackend without models."""
        models = self._answering
        if name in self._named:
            return name, name
        if models and name in self._aliases:
            return models[0], name
        if name in self._also:
            return self._also[name], name
        if route := self.ruled(name):
            if route not in self.routes:
                raise self.not_found(route)
            return self.resolve(self.routes[route], may)
        if name and name == self.embedding:
            raise Unsupported(
                f"the model {name} makes embeddings only: send its requests to /v1/embeddings",
                param="model",
            )
        if not self._named:
            raise NoBackend("no backend is configured", retry_after=10.0)
        for pattern, target in self._patterns.items() if name else ():
            if fnmatchcase(name, pattern):
                model = self._also.get(target, target)
                if model in self._named:
                    return model, target if target in self.adapters else model
                raise self.not_found(name, f", nor does {target[:100]!r}, its alias")
        if len(models) == 1 and not (name and self._strict):
            return models[0], self._shown
        if models and not name:
            first = self._first(models, may)
            return first, first
        is_cloud = name.startswith(CLOUDS)
        if self._strict or not models:
            raise self.not_found(name)
        if self._default in models and (may(self._default) or not is_cloud):
            return self._default, self._default
        if is_cloud:
            first = self._first(models, may)
            return first, first
        raise self.not_found(name)

    def meant(self, name: str, may: Callable[[str], bool]) -> str:
        """The name, or the model that it means for a caller that `may` use some models, if it is no
        name or one of clouds: of several models, the first of those."""
        is_any = not name or name.startswith(CLOUDS)
        if not is_any or name in self._known or len(self._answering) < 2 or self.ruled(name):
            return name
        model, shown = self.resolve(name, may)
        return shown if may(model) else name

    def names_of(self, model: str) -> tuple[str, ...]:
        """All names by which requests may ask for this pool, which comes first."""
        also = (alias for alias, named in list(self._also.items()) if named == model)
        return (model, *also, *(self._aliases if self.models()[:1] == (model,) else ()))

    def not_found(self, name: str, why: str = "") -> GatewayError:
        """The error for a model of this name, which nobody has: ModelNotFound, or NoBackend while a
        server that may have it is off, as that is not for good."""
        if name and (unread := self.unread()):
            return _unavailable(unread[0], "a backend", f"may have the model {name[:100]!r}, but ")
        error = ModelNotFound(f"the model {name[:100]!r} does not exist{why}", param="model")
        error.name = name[:100]
        error.models = tuple(
            other for other in self.names() if self.status(self._also.get(other, other)) != "failed"
        )
        return error

    def answering(self, name: str) -> tuple[str, str]:
        """The same for a request that the gateway answers itself. Raises Unsupported for a model to
        which requests are only forwarded."""
        answered = self._known.get(name)
        if answered is not None:
            return answered
        model, shown = self.resolve(name)
        if model in self._forwarding:
            raise Unsupported(
                f"the model {shown} has no text API: send its requests to"
                f" {self._pools[model][0].forwards}",
                param="model",
            )
        return model, shown

    def named(self, name: str) -> str:
        """The pool of this very name or alias. Raises ModelNotFound, which names those to which
        requests are forwarded."""
        model = name if name in self._named else self._also.get(name)
        if model is None:
            error = self.not_found(name)
            if isinstance(error, ModelNotFound):
                error.models = tuple(filter(self.forwards, error.models))
            raise error
        return model

    def forwards(self, name: str) -> bool:
        """Whether requests for the model of this name or alias are only forwarded."""
        return self._also.get(name, name) in self._forwarding

    def _first(self, models: Sequence[str], may: Callable[[str], bool]) -> str:
        """The default of those that a caller `may` use: one that need not be loaded, else one that
        can be, if there is any."""
        models = tuple(filter(may, models)) or models
        for statuses in (LOADED, (*LOADED, "loading", "sleeping", "unloaded")):
            for model in models:
                if any(b.up and b.status in statuses for b in self._pools[model]):
                    return model
        return models[0]

    def pool(self, model: str, barred: frozenset[str] = frozenset()) -> tuple[Backend, ...]:
        """The backends of a model, outside of the `barred` tiers. Those that are up come first, and
        of them those of earlier tiers and fully probed ones."""
        pool = self._pools.get(model, ())
        return tuple(b for b in pool if b.tier.name not in barred) if barred else pool

    def is_named(self, model: str) -> bool:
        """Whether this is a model's name, rather than that of backends without a reported model."""
        return model not in self._unread

    def unread(self) -> list[Backend]:
        """The servers of the configuration whose models are unknown."""
        return [b for b in self.configured.values() if b.is_unread and b.router is None]

    def status(self, model: str) -> str:
        """The best status among a model's backends, "" if none of them loads models on demand."""
        pool = self.pool(model)
        statuses = {b.status or "loaded" for b in pool if b.up}
        order = ("loaded", "loading", "sleeping", "unloaded", "failed")
        if not any(b.status for b in pool):
            return ""
        return next((status for status in order if status in statuses), "unloaded")

    def unknown(self, model: str) -> bool:
        """Whether a model must be loaded first: nothing is known of it, or it is about to leave."""
        pool = self._pools.get(model)
        if not pool or not (first := pool[0]).up:
            return False
        caps = first.caps
        return (caps is not None and caps.provisional) or first.driver.leaving

    @property
    def ready(self) -> bool:
        return any(b.up for b in self.backends.values())

    @property
    def settled(self) -> bool:
        return all(b.up is not None for b in self.backends.values())

    def borrow(self, name: str) -> Backend | None:
        """The backend of a lease, not closed until it is given back. None if it was removed."""
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

    def none_up(self, model: str) -> NoBackend:
        """The error for a request for a model without a backend that is up: which one, and why."""
        down = [backend for backend in self.pool(model) if backend.up is False and backend.error]
        return _unavailable(down[0], "the backend of this model") if down else NoBackend()

    def patience(self, model: str, waited: float, longest: float) -> float:
        """The seconds that a request which has `waited` still waits for a backend of this model, of
        the `longest` wait. Without a connection to any, that wait counts from when the last one was
        lost, since what has been gone for so long is no restart: an address may be wrong, or a
        machine off. A request waits EARLY seconds all the same."""
        lost = max((b.unreachable_since for b in self.pool(model)), default=math.inf)
        left = max(EARLY - waited, lost + longest - time.monotonic())
        return min(longest - waited, left)

    def look_soon(self, model: str) -> None:
        """Ask for a check because a request waits for this model. Never blocks."""
        for backend in self.pool(model):
            if not backend.up:
                backend.wake.set()

    def rebuild(self, rising: Backend | None = None) -> None:
        """Rebuild the pools after a change; `rising` is about to be up."""
        with self._changing:
            # In configured order, whichever answered first: the first model is the default.
            places = {name: place for place, name in enumerate(self.configured)}
            ordered = sorted(
                self.backends.values(), key=lambda b: places.get((b.host or b).name, len(places))
            )
            pools: dict[str, list[Backend]] = {}
            for backend in ordered:
                if not backend.leaving:
                    pools.setdefault(backend.model, []).append(backend)
            for pool in pools.values():
                pool.sort(key=lambda b: _rank(b, b is rising))
            self._pools = {model: tuple(pool) for model, pool in pools.items()}
            unread = frozenset(m for m in pools if all(b.is_unread for b in pools[m]))
            self._named = named = tuple(m for m in pools if m not in unread) or tuple(pools)
            reported = (m for m in named if m not in unread)
            self._listed = tuple(m for m in reported if not all(b.unlisted for b in pools[m]))
            self._forwarding = frozenset(m for m in pools if all(b.forwards for b in pools[m]))
            self._answering = tuple(model for model in named if model not in self._forwarding)
            self._known = {model: (model, model) for model in self._answering}
            shown = [name for name in self.names() if name not in self._forwarding]
            self._shown = next(iter((*shown, *self._answering)), "")
            self.on_overflow = _settings_of(pools, "on_overflow")
            self.late_binding = _settings_of(pools, "late_binding")
            also = {
                alias: model
                for model, pool in pools.items()
                for backend in pool
                for alias in backend.aliases
            }
            prefix = self._aliases[0] if self._aliases and len(named) == 1 else ""
            other_names = {*also, *named, *self._aliases}
            adapted = [
                (name, model, adapter.name)
                for model, pool in pools.items()
                for backend in pool
                if backend.caps is not None
                for adapter in backend.caps.adapters
                if (name := f"{prefix or model}:{adapter.name}") not in other_names
            ]
            self._also = {**also, **{name: model for name, model, _ in adapted}}
            self.adapters = {name: adapter for name, _, adapter in adapted}
            self._unread = unread  # last: a request that waits for this resolves its model anew


def _settings_of(pools: Mapping[str, Sequence[Backend]], name: str) -> dict[str, Any]:
    """A setting of each model, where the first backend that has it counts."""
    backends = ((model, backend) for model in pools for backend in reversed(pools[model]))
    return {model: value for model, backend in backends if (value := backend.own(name))}


def _unavailable(backend: Backend, who: str, before: str = "") -> NoBackend:
    """The error of a backend that is down, with its reason behind these words. `who` is for clients
    that know no names."""
    reason = f"is not available: {backend.error}" if backend.error else "was not reached yet"
    if backend.error.startswith(THE_BACKEND):
        reason = backend.error.removeprefix(THE_BACKEND)
    error = NoBackend(f"{who} {before}{reason}", RETRY)
    error.backend, error.reason = backend.name, before + reason
    return error


def _rank(backend: Backend, rises: bool) -> tuple[bool, int, bool]:
    return not (backend.up or rises), backend.tier.number, backend.provisional
