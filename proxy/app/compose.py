"""Creates the gateway and all other services, and starts them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from .. import __version__
from ..accounts.key_cache import KeyCache
from ..accounts.limits import NO_LIMITS, Limited
from ..accounts.records import Identity
from ..accounts.rights import Rights
from ..agent import functions
from ..agent.functions import Server as ToolServer
from ..agent.toolbox import OWN, Remotes, Toolbox
from ..apis.litellm.rights import parse_options
from ..apis.responses.routes import websocket
from ..backends.detect import API, Kind, listens, root_of, suiting
from ..backends.driver import Driver, new_id
from ..backends.http import CheckPeer
from ..backends.http_server import HTTPServer, WhisperServer
from ..backends.llamacpp import EmbeddingServer, Gift, LlamaCpp
from ..backends.local_embeddings import NAME as EMBEDDING
from ..backends.local_embeddings import LocalEmbeddings, is_installed
from ..backends.openai.driver import OpenAIServer
from ..backends.pools import Backend
from ..backends.registry import Registry
from ..backends.template_check import look
from ..batches.batch_run import BatchRunner
from ..config import ApiKey, BackendConfig, ModelConfig, Settings, SettingsError, fixed, routes
from ..config.data_folder import CAPTURES, SLOTS, folder_of
from ..core.request import BY_PROMPT
from ..dialogue.finding import KNOWLEDGE, WEB, Finder
from ..dialogue.run import Dialogues
from ..downloads.download import Downloads
from ..downloads.download import room as room_for_files
from ..errors import GatewayStopping, InvalidParameter
from ..gateway import Embedder, Forwarder, Gateway, GatewayContext, GenerationSettings
from ..gateway.admission import idle_slots
from ..gateway.prewarm import Heads, after_load
from ..hosting.driver import HostedDriver
from ..hosting.host import ModelHost, key_of
from ..hosting.memory_budget import Limits, MemoryBudget
from ..hosting.need import Cards
from ..hosting.slot_keeper import SlotKeeper
from ..hosting.starting import Hosting, Server
from ..observe import otel_names
from ..observe.captures import Captures
from ..observe.captures_store import Ring
from ..observe.ring import Requests
from ..prompting.template.dialogues import Layouts
from ..runtime import installation
from ..runtime.cancel import Cancel
from ..runtime.installation import install
from ..runtime.life import Life, Step
from ..scheduling.scheduler import LocalScheduler
from ..scheduling.schedulers import Scheduler
from ..store.accounts import Accounts
from ..store.live import MemorySessions
from ..web import pages
from ..web.attached import AttachedDocuments
from ..web.auth import Keys
from ..web.background import Jobs
from ..web.callers import Callers, KeyWatch
from ..web.ledger.writer import LedgerWriter
from ..web.model_tables import own_request
from ..web.observability import Observer
from ..web.ongoing import FairCap, Ongoing
from ..web.services import Aliases, Services
from ..websearch.engines import Engine, Metasearch, WebSearch
from ..websearch.fetch import fetch
from . import discovery
from .limits import limit_service
from .prompter_registry import Prompters
from .storage import LazyServices

if TYPE_CHECKING:
    from ..observe.otel import Traces
    from ..oidc.service import SignIn


def identities(settings: Settings) -> Mapping[str, Identity]:
    """The keys, by their secrets. Raises SettingsError with the line of an option."""
    return {key.secret: _identity(key) for key in settings.keys}


def share_apart(settings: Settings) -> bool:
    """Whether there may be keys that share no prompts. Administrators make keys at any time."""
    return len({key.cache_group for key in settings.keys}) > 1 or bool(settings.admins)


def are_several(settings: Settings) -> bool:
    """Whether there may be more than one key."""
    return len({key.name for key in settings.keys}) > 1 or bool(settings.admins)


def replaced(services: Services, settings: Settings) -> Callable[[], None]:
    """The function that accepts the keys of these settings instead. Raises SettingsError."""
    began = services.settings
    if bool(began.keys) != bool(settings.keys):
        raise SettingsError("the first API key, and the end of the last, need a restart")
    for test in (share_apart, are_several):
        if test(settings) and not test(began):
            raise SettingsError("a second API key, or group of keys, needs a restart")
    keys = identities(settings)

    def replace_keys() -> None:
        services.keys.replace(keys.items())
        services.callers.replace(keys.values())

    return replace_keys


def _identity(key: ApiKey) -> Identity:
    try:
        rights = parse_options(key.options)
    except InvalidParameter as error:
        raise SettingsError(f"--api-key-file: {key.place}: {error}") from None
    permits = replace(rights, limits=NO_LIMITS)
    return Identity(
        key=key.name,
        group=key.cache_group,
        priority=key.priority,
        on_overflow=key.on_overflow,
        rights=(permits,) if permits != Rights() else (),
        limits=(Limited(f"key {key.name}", rights.limits),) if rights.limits != NO_LIMITS else (),
        trusted=rights.trusted_for_users,
    )


def _sign_in(settings: Settings, accounts: Accounts | None) -> SignIn | None:
    """The sign-in at an OpenID provider, as the settings have it. Raises SettingsError."""
    if not settings.oidc.issuer:
        return None
    if accounts is None:
        raise SettingsError(f"[oidc] requires the extra knowledge: {install('knowledge')}")
    try:
        from ..oidc.provider import Provider
        from ..oidc.service import SignIn
    except ImportError:
        raise SettingsError(f"[oidc] requires the extra oidc: {install('oidc')}") from None
    oidc = settings.oidc
    name = oidc.name or urlsplit(oidc.issuer).hostname or ""
    return SignIn(Provider(oidc, fetch), oidc, accounts, name)


log = logging.getLogger("slotproxy")

# How traces name the kind of a backend's server; the standard has no name for these.
PROVIDERS = {"LlamaCpp": "llama_cpp", "HostedDriver": "llama_cpp", "ChatGLM": "chatglm"}
NO_MODEL = "start a model server, or name its address with --llama-api URL"
_serial = count(1)  # of models that are started here
LOADING = 2.0  # seconds between two notices of a load in a stream that shows them as reasoning
JOINS = 3.0  # seconds a new worker waits for the shared table, and for its first health checks


def compose(settings: Settings, backends: Sequence[Backend] | None = None) -> Services:
    """Create the services for the routes. Threads monitor the backends, by default those of the
    settings, from here on. Raises SettingsError."""
    life = Life()
    groups = share_apart(settings)
    embedder = _embedder(settings, life, settings.embedding_api, "embeddings")
    local = _local_embedder(settings, life)
    ranker = _embedder(settings, life, settings.rerank_api, "rankings")
    storage = LazyServices(settings, embedder or local, ranker)
    scheduler = _scheduler(settings, life, "", groups=groups, disk=settings.slot_disk)
    host = _host(settings, storage, scheduler)
    registry = Registry(
        backends or [backend_of(settings, config, host) for config in configs(settings)],
        scheduler,
        aliases=settings.alias,
        patterns=settings.aliases,
        strict=settings.strict_models,
        default=settings.default_model,
        interval=settings.health_interval,
        deadline=fixed.HEALTH_DEADLINE,
    )
    registry.rules = routes.rules(settings.route)
    if local is not None:
        registry.embedding = EMBEDDING
    # Workers that share a table share aliases too. They have no other secret in common than these.
    aliases = Aliases()
    if settings.state:
        secrets = (key.secret for key in settings.keys)
        aliases = Aliases([settings.state, settings.state_name, *secrets])
    prompters = Prompters(settings, registry, installation.templates() / "chat")
    if settings.chat_template == "auto":
        registry.verify = partial(look, prompters, datetime.now)
    heads, ended = Heads(), Cancel()
    gateway = Gateway(
        GatewayContext(
            registry=registry,
            scheduler=scheduler,
            clock=time.monotonic,
            generation=GenerationSettings(new_id, reasoning=settings.reasoning_format),
            loops=settings.referee.loops,
            reasoning_tokens=settings.referee.max_reasoning_tokens or None,
            continues=settings.continue_broken,
            side_jobs=fixed.SIDE_JOBS,
            ping=fixed.PING,
            learn=heads.learn,
        ),
        prompters,
        now=datetime.now,
        sampling=settings.sampler_defaults,
        wait_for_backend=settings.wait_for_backend,
        max_queue=settings.max_queue,
        on_overflow=settings.on_overflow,
        vision=settings.vision,
    )
    traces = _traces(settings, registry)
    if traces is not None:
        gateway.answer = traces.watching(gateway.answer)  # type: ignore[method-assign]
    layouts = Layouts(installation.dialogues())
    store = storage.responses()
    alone = not are_several(settings)  # there is no other key to share places with
    key_cache = accounts = None
    if settings.admins and storage.api_keys and storage.users and storage.teams:
        key_cache = KeyCache(storage.api_keys)
        accounts = Accounts(storage.api_keys, storage.users, storage.teams, key_cache.follow)
    own_keys = identities(settings)
    keys = Keys(own_keys.items(), settings.wrong_keys, settings.admins, key_cache)
    ledger = None
    if storage.ledger is not None:
        ledger = LedgerWriter(
            storage.ledger, days=settings.ledger_days, needs_key=lambda: keys.needed
        )
    on_finished = [ledger.add] if ledger else []
    observer = Observer(
        metrics=settings.metrics, on_finished=on_finished, stores=ledger is not None
    )
    if ledger is not None:
        ledger.unstored = observer.unstored
    if traces is not None:
        observer.on_begin.append(traces.begin)
        observer.on_end.append(traces.finish)
    requests = Requests(observer)
    observer.on_finished.append(requests.add)
    captures = None
    if settings.keys or settings.capture != "off":  # keys may be captured from any time on
        bounds = settings.captures
        ring = Ring(folder_of(settings) / CAPTURES, bounds.size, 86400 * bounds.days)
        texts = [key.secret for key in settings.keys]
        captures = Captures(ring, partial(keys.capture, default=settings.capture), texts)
        observer.on_begin.append(captures.begin)
        observer.on_end.append(captures.finished)
        life.on_close(Step.LEDGER, captures.close)
    embeds = embedder or Embedder(registry, scheduler)
    batch_runner = None
    if storage.batches is not None:

        def room(endpoint: str, name: str) -> int | None:
            """How many lines of batches may be under way."""
            chosen: Gateway | Embedder = gateway
            if endpoint == "/v1/embeddings":
                chosen = local if local is not None and local.makes(name) else embeds
            return idle_slots(chosen.registry, chosen.scheduler, name)

        batch_runner = BatchRunner(storage.batches, room, longest=settings.max_body)
    jobs = Jobs(store, observer, alone=alone)
    writers = FairCap(pages.answers.MOST, alone=alone)
    services = Services(
        settings=settings,
        life=life,
        gateway=gateway,
        keys=keys,
        callers=Callers(
            own_keys.values(),
            limits=limit_service(settings, life, storage.ledger) if settings.keys else None,
        ),
        observer=observer,
        requests=requests,
        started=int(time.time()),
        embedder=embeds,
        local_embedder=local,
        ranker=ranker or Embedder(registry, scheduler),
        forwarder=Forwarder(registry, scheduler),
        store=store,
        jobs=jobs,
        ongoing=Ongoing(),
        watchers=FairCap(pages.status.MOST_WATCHERS, alone=alone),
        sockets=FairCap(websocket.MOST_SOCKETS, alone=alone),
        documents=AttachedDocuments(fixed.READING_TIMEOUT, fixed.READING_MEMORY, alone=alone),
        writers=writers,
        layouts=layouts,
        dialogues=_dialogues(settings, life, gateway, layouts, storage, host),
        accounts=accounts,
        sign_in=_sign_in(settings, accounts),
        knowledge=storage.knowledge,
        captures=captures,
        conversations=storage.conversations,
        vector_stores=storage.vector_stores,
        batches=storage.batches,
        batch_runner=batch_runner,
        aliases=aliases,
        sessions=storage.sessions or (None if settings.state else MemorySessions()),
        host=host,
        downloads=Downloads(
            settings.models_dir,
            lambda: room_for_files(settings.memory_bytes, host.hosting.cards.totals),
            lambda: life.reload(),
        ),
        ledger=ledger,
    )
    watch = KeyWatch(keys, observer)
    life.on_end.append(partial(observer.end_all, GatewayStopping))
    registry.on_update = partial(after_load, gateway, heads, ended)
    life.on_end.append(ended.cancel)
    life.on_end.append(partial(services.mcp_calls.end_all, GatewayStopping))
    life.working.append(lambda: observer.running > 0)
    life.working += [lambda: jobs.taken > 0, lambda: writers.taken > 0]
    life.on_leave += [host.leave, services.downloads.close]
    life.on_close(Step.DATABASE, watch.close)
    life.on_close(Step.MODELS, host.close)
    life.on_close(Step.BACKENDS, registry.close)
    life.on_close(Step.DATABASE, storage.close)
    if key_cache is not None:
        life.on_close(Step.DATABASE, key_cache.close)
    if batch_runner is not None:
        life.on_leave.append(batch_runner.leave)
        life.on_close(Step.BATCHES, batch_runner.close)
    if ledger is not None:
        life.on_close(Step.LEDGER, ledger.close)
    if traces is not None:
        life.on_close(Step.TRACES, traces.close)
    watch.start()
    registry.start()
    host.start()
    storage.resume(batch_runner.wake if batch_runner is not None else lambda: None)
    if ledger is not None:
        ledger.start()
    if captures is not None:
        captures.start()
    return services


def _traces(settings: Settings, registry: Registry) -> Traces | None:
    """What traces requests, if the standard's variables name a collector."""
    if not otel_names.enabled(os.environ):
        return None
    try:
        from ..observe.otel import Traces
    except ImportError:
        variable = otel_names.ENDPOINTS[1]
        log.warning("%s is set, but traces require the extra otel: %s", variable, install("otel"))
        return None

    def server(name: str) -> tuple[str, str]:
        backend = registry.backends.get(name)
        if backend is None:
            return "", ""
        return PROVIDERS.get(type(backend.driver).__name__, "openai_compatible"), backend.url

    return Traces(os.environ, settings.otel.parent, server)


def _dialogues(
    settings: Settings,
    life: Life,
    gateway: Gateway,
    layouts: Layouts,
    storage: LazyServices,
    host: ModelHost,
) -> Dialogues:
    """Raises SettingsError for an unknown tool."""
    make: dict[str, Callable[[], Any]] = {
        "ddgs": Metasearch,
        "searxng": lambda: Engine("searxng", settings.searxng_url),
        "brave": lambda: Engine("brave", key=settings.search.brave_key),
        "tavily": lambda: Engine("tavily", key=settings.search.tavily_key),
    }
    if "ddgs" in settings.search_engine and find_spec("ddgs") is None:
        command = install("knowledge")
        raise SettingsError(f"--search-engine: ddgs requires the extra knowledge: {command}")
    web = None
    if settings.search_engine:
        engines = [make[name]() for name in settings.search_engine]
        web = WebSearch(engines, seconds=settings.search.timeout, clock=time.monotonic)
        life.on_close(Step.TOOLS, web.close)
    servers = [ToolServer(**msgspec.structs.asdict(server)) for server in settings.mcp]
    tool_names = {KNOWLEDGE, WEB, *OWN, *(server.name for server in servers)}
    if not tool_names.issuperset(settings.tools):
        tool_names.update(functions.installed())
    for name in settings.tools:
        if name not in tool_names:
            names = ", ".join(sorted(tool_names))
            raise SettingsError(f"--tools: unknown tool {name!r}; available: {names}")
    toolbox = Toolbox(settings.tools, servers, clock=time.monotonic, now=datetime.now)
    life.on_close(Step.TOOLS, toolbox.close)
    return Dialogues(
        gateway,
        layouts,
        Finder(storage.knowledge, web, storage.vector_stores),
        toolbox,
        tools=settings.tools,
        remotes=Remotes(settings.mcp_url),
        bounds=settings.agent,
        interval=fixed.PING,
        preset=partial(own_request, host, gateway),
    )


def configs(settings: Settings) -> Sequence[BackendConfig]:
    """The backends. If none was named: the default addresses that answer, or a bundled model."""
    chat_mode, overflow = settings.chat_mode, settings.on_overflow
    configs = tuple(
        replace(c, chat_mode=c.chat_mode or chat_mode, on_overflow=c.on_overflow or overflow)
        for c in settings.backends
    )
    if not settings.is_default:
        return configs
    listening = [config for config in configs if listens(config.url)]
    if listening or settings.workers != 1:  # each worker would load the bundled model
        return listening or configs
    remedy = discovery.remedy(os.environ, Path.home())
    # Whoever wrote a file, or has models, expects those and not the toy.
    expects = settings.config_file or settings.models_dir or remedy
    from ..backends.chatglm.driver import bundled_instead

    if not expects and (file := bundled_instead(installation.bundled())):
        log.info("%s", nothing_at(configs))
        return (BackendConfig(file=str(file), kind="chatglm", name="embedded"),)
    log.warning("%s: %s", nothing_at(configs), remedy or NO_MODEL)
    return configs


def nothing_at(configs: Sequence[BackendConfig]) -> str:
    """That nobody named a backend, and nothing answers at the default addresses."""
    where = " or ".join(config.name for config in configs)
    return f"nothing is configured, and no model server answers at {where}"


def backend_of(settings: Settings, config: BackendConfig, host: ModelHost | None = None) -> Backend:
    """Raises SettingsError. Only a model to start needs the host."""
    model, address = None, config.address
    if config.launch is None:
        driver = _driver(settings, config)
    else:
        assert host is not None, "it starts the model"
        model = host.add(config.launch)
        tick = LOADING if config.launch.loading_state else fixed.PING
        driver = HostedDriver(model, tick=tick, timeout=settings.timeout)
        # Not that of another life under this name, whose slots are not these.
        address = f"{address}#{next(_serial)}"
    backend = Backend(
        config.name,
        address,
        driver,
        set_model=config.model,
        set_slots=config.slots,
        set_n_ctx=config.ctx_size,
        weight=config.weight,
        chat_mode=config.chat_mode or settings.chat_mode,
        config=config,
        aliases=config.aliases,
    )
    if config.kind == "auto" and isinstance(driver, LlamaCpp):
        root = root_of(config.url)
        pool = driver.new_pool(url=root, idle=0)
        backend.detect = partial(suiting, root, pool, partial(_of_server, settings, config))
    if model is not None:
        backend.aliases = model.config.aliases
        backend.unlisted = model.config.unlisted
        backend.lists_aliases = model.config.list_aliases
        backend.shows_load = model.config.loading_state
        model.on_change = backend.wake.set
    return backend


def _scheduler(
    settings: Settings, life: Life, purpose: str, *, groups: bool = False, disk: int = 0
) -> Scheduler:
    """A local scheduler, or one that shares its table. Raises SettingsError."""
    names = ("max_queue", "queue_timeout", "wait_for_backend")
    options: dict[str, Any] = {name: getattr(settings, name) for name in names}
    options |= {"groups": groups, "disk": disk}
    if not settings.state:
        return LocalScheduler(time.monotonic, **options)
    from ..scheduling.shared import RedisLog, SharedScheduler  # late: few processes share

    try:
        table = RedisLog(settings.state, settings.state_name + purpose)
    except ImportError:
        raise SettingsError(f"--state requires the extra redis: {install('redis')}") from None
    except ValueError:
        raise SettingsError("--state: not a Redis URL") from None
    shared = SharedScheduler(table, time.monotonic, version=__version__, **options)
    life.on_close(Step.TABLES, shared.close)
    shared.ready(JOINS)
    return shared


def _driver(settings: Settings, config: BackendConfig) -> Driver:
    """Raises SettingsError for a ChatGLM model that cannot run here."""
    if config.file:
        from ..backends.chatglm.driver import ChatGLM, missing
        from ..backends.chatglm.supervisor import in_process, in_thread

        if why := missing(config.file):
            raise SettingsError(f"--chatglm-model: {config.file}: {why}")
        chatglm = settings.chatglm
        return ChatGLM(
            config.file,
            in_thread if chatglm.isolation == "thread" else partial(in_process, chatglm.threads),
            eager=chatglm.load == "start",
            n_ctx=config.ctx_size,
            timeout=settings.timeout,
            tick=fixed.PING,
        )
    return _of_server(settings, config, "openai" if config.kind == "openai" else "llamacpp")


def _of_server(
    settings: Settings, config: BackendConfig, kind: Kind, url: str = ""
) -> OpenAIServer | LlamaCpp | WhisperServer:
    """The driver for a server of this kind, by default at the address of the settings."""
    key, options = config.api_key or "", _server_options(settings)
    if kind == "openai":
        by_prompt = frozenset[str]().union(*(BY_PROMPT[name] for name in config.by_prompt))
        url = url or (config.url if urlsplit(config.url).path else config.url + API)
        options |= {"api_key": key, "by_prompt": by_prompt, "n_ctx": config.ctx_size}
        return OpenAIServer(url, model=config.model, **options)
    model_file = settings.chat_template == "auto"
    url = url or root_of(config.url)
    if kind == "whisper":
        return WhisperServer(url, api_key=key, **options)
    return LlamaCpp(url, api_key=key, model_file=model_file, slots=config.slots, **options)


def _launched(settings: Settings, model: ModelConfig, url: str, check: CheckPeer) -> Server:
    """The driver for a server that was started here."""
    options = {**_server_options(settings), "check_peer": check}
    if model.kind == "llamacpp":
        return LlamaCpp(url, api_key=key_of(model), slots=model.slots, **options)
    if model.kind == "whisper":
        return WhisperServer(url, **options)
    if model.kind == "http":
        return HTTPServer(url, model=model.server_model, **options)
    api = url if url.endswith("/v1") else f"{url}/v1"
    return OpenAIServer(api, model=model.server_model, api_key=key_of(model), **options)


def _server_options(settings: Settings) -> dict[str, Any]:
    """The options of every driver for a server with a URL."""
    connect = fixed.CONNECT_TIMEOUT
    return {"timeout": settings.timeout, "connect_timeout": connect, "tick": fixed.PING}


def _host(settings: Settings, storage: LazyServices, scheduler: Scheduler) -> ModelHost:
    """The host of the models that are started here, and after a reload perhaps of the first."""
    keeper = None
    if isinstance(scheduler, LocalScheduler) and settings.slot_disk:
        keeper = SlotKeeper(scheduler.saved_slots, folder_of(settings) / SLOTS)
    hosting = Hosting(
        connect=partial(_launched, settings),
        room=MemoryBudget(Limits(settings.memory_bytes, settings.models_max), settings.swap_wait),
        deadline=fixed.HEALTH_DEADLINE,
        max_waiting=max(1, settings.max_queue),
        needs=storage.measured_memory,
        cards=Cards(settings.gpu_memory_bytes),
        keeper=keeper,
    )
    return ModelHost(hosting)


def _embedder(settings: Settings, life: Life, urls: Sequence[str], gift: Gift) -> Embedder | None:
    """The servers that only make embeddings or rankings, with a queue of their own."""
    if not urls:
        return None
    servers = []
    for url in urls:
        driver = EmbeddingServer(
            root_of(url), timeout=settings.timeout, connect_timeout=fixed.CONNECT_TIMEOUT
        )
        driver.gift = gift
        servers.append(Backend(url.split("://", 1)[1], url, driver))
    return _embedder_on(settings, life, servers, gift)


def _local_embedder(settings: Settings, life: Life) -> Embedder | None:
    """The local embedding model, if the settings want it. Each worker has one."""
    if settings.embedding_api or not settings.local_embeddings or not is_installed():
        return None
    driver = LocalEmbeddings(unload=fixed.UNLOAD_EMBEDDINGS)
    return _embedder_on(replace(settings, state=""), life, [Backend("local", "", driver)], "local")


def _embedder_on(settings: Settings, life: Life, servers: Sequence[Backend], name: str) -> Embedder:
    """`name` is that of the queue in a shared state."""
    # Without waiting for one that is down: searches continue with keywords, ingestion retries.
    scheduler = _scheduler(replace(settings, wait_for_backend=0.0), life, f":{name}")
    interval, deadline = settings.health_interval, fixed.HEALTH_DEADLINE
    registry = Registry(servers, scheduler, interval=interval, deadline=deadline)
    registry.start()
    life.on_close(Step.BACKENDS, registry.close)
    return Embedder(registry, scheduler)
