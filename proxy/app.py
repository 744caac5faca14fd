"""The composition root: the only place that knows all the parts."""

from __future__ import annotations

import atexit
import logging
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from . import __version__, api_keys, private, resources
from .agent import Server, Toolbox, functions
from .agent.toolbox import OWN
from .backends.chatglm.driver import ChatGLM
from .backends.chatglm.embedded import bundled_instead, listens, missing
from .backends.chatglm.host import Process, Thread
from .backends.chatglm.place import meeting
from .backends.chatglm.protocol import Load
from .backends.driver import Driver
from .backends.embedding_server import EmbeddingServer, Gift
from .backends.llamacpp import LlamaCpp
from .backends.registry import Backend, Registry
from .config import BackendConfig, Settings, SettingsError
from .dialects.openai import error as error_object
from .dialogue import Bounds, Dialogues, Finder
from .dialogue.finding import KNOWLEDGE, WEB
from .errors import (
    BadRequest,
    GatewayError,
    MethodNotAllowed,
    NotFound,
    StoreUnavailable,
    TooManyWrongKeys,
    Unauthorized,
)
from .gateway import Embedder, Gateway, Manner
from .keeping import FILES, RESPONSES, Keeping, folder_of
from .prompters import Prompters
from .prompting.layouts import Layouts
from .scheduling.admission import Admission
from .scheduling.scheduler import Scheduler
from .scheduling.shared import RedisLog, SharedScheduler
from .store.live import MemorySessions
from .store.responses import ResponseStore
from .web import (
    anthropic,
    body,
    chatchat,
    cors,
    data,
    embeddings,
    files,
    glm,
    native,
    ollama,
    openai,
    pages,
    responses,
    slots,
    status,
    vector_stores,
)
from .web.auth import Keys
from .web.background import Jobs
from .web.calling import Callers
from .web.direct import Application
from .web.exchange import refuse
from .web.observe import Lines, Observer, Record
from .web.ongoing import Ongoing
from .web.peers import TrustedProxies
from .web.routing import LateRule
from .web.seen import Seen
from .web.services import EXTENSION, Services
from .web.services import services_of as services_of  # for who serves it
from .web.shares import Shares
from .web.site import Sites, keyed, keyless
from .websearch import WebSearch, metasearch
from .websearch.engines import Brave, SearXNG, Tavily
from .websearch.metasearch import Metasearch

log = logging.getLogger("slotproxy")

JOINS = 3.0  # seconds a new worker waits for the shared table, and for its first look at backends


def create_app(settings: Settings, backends: Sequence[Backend] | None = None) -> Flask:
    """The WSGI application. Its backends, those of the settings unless given, are looked after
    from here on, in threads of their own.

    Raises SettingsError for a setting that only a part can judge."""
    logging.basicConfig(handlers=[Lines()], level=settings.log_level.upper())
    groups = len({key.cache_group for key in settings.keys}) > 1
    scheduler = _scheduler(settings, "", groups=groups, disk=settings.slot_disk)
    registry = Registry(
        backends or [_backend(settings, config) for config in _configs(settings)],
        scheduler,
        aliases=settings.alias,
        strict=settings.strict_models,
        default=settings.default_model,
        interval=settings.health_interval,
        deadline=settings.health_deadline,
    )
    prompters = Prompters(settings, registry, resources.templates() / "chat")
    gateway = Gateway(
        registry,
        scheduler,
        prompters,
        clock=time.monotonic,
        now=datetime.now,
        manner=Manner(
            lambda: f"call_{uuid.uuid4().hex[:24]}",
            settings.json_retries,
            settings.reasoning_format,
            settings.max_media,
        ),
        continues=settings.continue_broken,
        side_jobs=settings.side_jobs,
        hygiene=settings.prefix_hygiene,
        sampling=settings.sampler_defaults,
        ping=settings.sse_ping_interval,
        wait_for_backend=settings.wait_for_backend,
        max_queue=settings.max_queue,
    )
    layouts = Layouts(resources.dialogues())
    embedder = _embedder(settings, settings.embedding_api, "embeddings")
    ranker = _embedder(settings, settings.rerank_api, "rankings")
    keeping = Keeping(settings, embedder, ranker)
    store, observer = _responses(settings), Observer(metrics=settings.metrics)
    alone = len({key.name for key in settings.keys}) <= 1  # nobody to share places with
    app = Application("slotproxy")
    app.url_rule_class = LateRule
    app.config["MAX_CONTENT_LENGTH"] = body.NET
    if settings.trusted_proxies:
        app.proxies = TrustedProxies(settings.trusted_proxies)
    app.extensions[EXTENSION] = Services(
        settings,
        gateway,
        Keys(((key.name, key.secret) for key in settings.keys), settings.wrong_keys),
        Callers(settings.keys),
        observer,
        int(time.time()),
        embedder or Embedder(registry, scheduler),
        ranker or Embedder(registry, scheduler),
        store,
        Jobs(store, observer, alone=alone),
        Ongoing(),
        Shares(pages.status.MOST_WATCHERS, alone=alone),
        Shares(pages.answers.MOST, alone=alone),
        layouts,
        _dialogues(settings, gateway, layouts, keeping),
        keeping.knowledge,
        keeping.conversations,
        keeping.vector_stores,
        seen=_seen(settings),
        sessions=keeping.sessions or (None if settings.state else MemorySessions()),
    )
    for routes in (openai, responses, anthropic, ollama, glm, embeddings, native, slots, status):
        app.register_blueprint(routes.blueprint, url_prefix=settings.api_prefix)
    for kept in (files, vector_stores, data):
        app.register_blueprint(kept.blueprint, url_prefix=settings.api_prefix)
    if settings.chatchat:
        app.register_blueprint(chatchat.blueprint, url_prefix=settings.api_prefix)
    if settings.pages:
        pages.install(app)
    cors.install(app, settings.cors_origins)
    machine = socket.gethostname()
    sites = Sites(settings.host, settings.allowed_hosts, settings.cors_origins, machine=machine)
    app.judge = keyed(sites) if settings.keys else keyless(sites)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _defect)
    registry.start()
    atexit.register(registry.close)
    keeping.resume()
    if settings.state:
        registry.looked.wait(JOINS)  # others answer meanwhile: this one is to be able to as well
    return app


def _dialogues(
    settings: Settings, gateway: Gateway, layouts: Layouts, keeping: Keeping
) -> Dialogues:
    """Raises SettingsError for a tool that is none."""
    make: dict[str, Callable[[], Any]] = {
        "ddgs": Metasearch,
        "searxng": lambda: SearXNG(settings.searxng_url),
        "brave": lambda: Brave(settings.brave_key or ""),
        "tavily": lambda: Tavily(settings.tavily_key or ""),
    }
    if "ddgs" in settings.search_engine and not metasearch.there():
        raise SettingsError("--search-engine: ddgs needs pip install slotproxy[knowledge]")
    web = None
    if settings.search_engine:
        engines = [make[name]() for name in settings.search_engine]
        web = WebSearch(engines, seconds=settings.search_timeout, clock=time.monotonic)
        atexit.register(web.close)
    servers = [
        Server(one.name, one.command, one.url, one.env, one.headers, one.tools)
        for one in settings.mcp
    ]
    known = {KNOWLEDGE, WEB, *OWN, *(one.name for one in servers)}
    if not known.issuperset(settings.tools):
        known.update(functions.installed())
    for name in settings.tools:
        if name not in known:
            raise SettingsError(f"--tools: {name!r} is none of {', '.join(sorted(known))}")
    toolbox = Toolbox(settings.tools, servers, clock=time.monotonic, now=datetime.now)
    atexit.register(toolbox.close)
    return Dialogues(
        gateway,
        layouts,
        Finder(keeping.knowledge, web, keeping.vector_stores),
        toolbox,
        tools=settings.tools,
        bounds=Bounds(
            settings.agent_rounds,
            settings.agent_timeout,
            settings.agent_tokens,
            settings.tool_timeout,
        ),
        interval=settings.sse_ping_interval,
    )


def reload(app: Flask, settings: Settings) -> None:
    """Add, change and drain backends as these settings say; nothing else changes. Raises
    SettingsError, and then nothing has changed."""
    services = services_of(app)
    configs = _configs(settings)
    services.gateway.registry.reload(configs, lambda config: _backend(settings, config))


def shows_key(app: Flask, environ: Mapping[str, str]) -> bool:
    """Whether a request with these headers shows a right key, or the session of one: asked by a
    server that reads bodies before the application is called."""
    here = services_of(app)
    if not here.keys.needed:
        return True
    assert isinstance(app, Application)
    asked = dict(environ)
    if app.proxies is not None:
        asked["REMOTE_ADDR"] = app.proxies.client(asked)
    try:
        if asked.get("HTTP_AUTHORIZATION", "").lower().startswith("basic "):
            return bool(chatchat.view.owner(here, asked))
        if here.keys.shows(asked):
            return True
    except (Unauthorized, TooManyWrongKeys):
        return False
    with app.test_request_context(headers={"Cookie": asked.get("HTTP_COOKIE", "")}):
        try:
            return bool(pages.session.signed_in())
        except StoreUnavailable:
            return False


def _configs(settings: Settings) -> Sequence[BackendConfig]:
    """The configured backends; where none was named, those of the default addresses where somebody
    is, or else the bundled model."""
    configs = tuple(
        msgspec.structs.replace(config, chat_mode=config.chat_mode or settings.chat_mode)
        for config in settings.backends
    )
    if not settings.is_default:
        return configs
    there = [config for config in configs if listens(config.url)]
    if not there and (file := bundled_instead(resources.bundled())):
        log.info("nothing answers at %s", " or ".join(config.url for config in configs))
        return (BackendConfig(file=str(file), kind="chatglm", name="embedded"),)
    return there or configs


def _backend(settings: Settings, config: BackendConfig) -> Backend:
    """Raises SettingsError."""
    make = _chatglm if config.file else _llamacpp
    return Backend(
        config.name,
        config.address,
        make(settings, config),
        model=config.model,
        slots=config.slots,
        n_ctx=config.ctx_size,
        weight=config.weight,
        chat_mode=config.chat_mode or settings.chat_mode,
        config=config,
    )


def _scheduler(
    settings: Settings, purpose: str, *, groups: bool = False, disk: int = 0
) -> Admission:
    """Of this process, or of all that share a table for this purpose. Raises SettingsError."""
    most, seconds, patience = settings.max_queue, settings.queue_timeout, settings.wait_for_backend
    if not settings.state:
        return Scheduler(
            time.monotonic,
            max_queue=most,
            queue_timeout=seconds,
            wait_for_backend=patience,
            groups=groups,
            disk=disk,
        )
    try:
        table = RedisLog(settings.state, settings.state_name + purpose)
    except ImportError:
        raise SettingsError("--state needs pip install slotproxy[redis]") from None
    except ValueError:
        raise SettingsError("--state: not an address of Redis") from None
    shared = SharedScheduler(
        table,
        time.monotonic,
        version=__version__,
        max_queue=most,
        queue_timeout=seconds,
        wait_for_backend=patience,
        groups=groups,
        disk=disk,
    )
    atexit.register(shared.close)
    shared.ready(JOINS)
    return shared


def _seen(settings: Settings) -> Seen:
    """Workers that share a table show the same; they have no other secret in common."""
    if not settings.state:
        return Seen()
    return Seen([settings.state, settings.state_name, *(key.secret for key in settings.keys)])


def _responses(settings: Settings) -> ResponseStore:
    """Where there may be other workers, in a file: they are asked for the same responses."""
    path = settings.response_store
    if settings.state and not path:
        folder = folder_of(settings)
        private.folder(folder, FILES)
        path = str(folder / RESPONSES)
    try:
        return ResponseStore(
            path, settings.stored_responses, renamed=api_keys.renamed(settings.keys)
        )
    except StoreUnavailable as fault:
        raise SettingsError(f"--response-store: {path}: {fault.detail}") from None


def _llamacpp(settings: Settings, config: BackendConfig) -> Driver:
    return LlamaCpp(
        config.url,
        timeout=settings.timeout,
        connect_timeout=settings.connect_timeout,
        tick=settings.sse_ping_interval,
        api_key=config.api_key or "",
        lenient=settings.ignore_unsupported,
    )


def _embedder(settings: Settings, urls: Sequence[str], gift: Gift) -> Embedder | None:
    """The servers that are there for embeddings, or for rankings, alone, with a queue of their own;
    None where none is named."""
    if not urls:
        return None
    # Nobody waits for one that is down: a search goes on by words alone, and reading tries again.
    scheduler = _scheduler(msgspec.structs.replace(settings, wait_for_backend=0.0), f":{gift}")
    servers = []
    for url in urls:
        driver = EmbeddingServer(
            url, timeout=settings.timeout, connect_timeout=settings.connect_timeout
        )
        driver.gift = gift
        servers.append(Backend(url.split("://", 1)[1], url, driver))
    registry = Registry(
        servers,
        scheduler,
        interval=settings.health_interval,
        deadline=settings.health_deadline,
    )
    registry.start()
    atexit.register(registry.close)
    return Embedder(registry, scheduler)


def _chatglm(settings: Settings, config: BackendConfig) -> Driver:
    """Raises SettingsError for a file that is no model, or where chatglm_cpp is not installed."""
    if why := missing(config.file):
        raise SettingsError(f"--chatglm-model: {config.file}: {why}")
    threads = settings.chatglm_threads

    def start(load: Load) -> Process:
        # All that share slots on this machine share the engine.
        shared = (settings.state, settings.state_name, load, threads, __version__)
        return Process(load, threads, meeting(*shared) if settings.state else None)

    return ChatGLM(
        config.file,
        Thread if settings.chatglm_isolation == "thread" else start,
        eager=settings.chatglm_load == "start",
        idle=settings.chatglm_unload,
        n_ctx=config.ctx_size,
        timeout=settings.timeout,
        tick=settings.sse_ping_interval,
        lenient=settings.ignore_unsupported,
    )


def _http_error(error: HTTPException) -> Response:
    """What flask itself refuses, in our own form."""
    fault: GatewayError
    allowed = set(getattr(error, "valid_methods", None) or ())
    # OPTIONS is answered everywhere, also where there is nothing else.
    if error.code == 404 or (error.code == 405 and allowed <= {"OPTIONS"}):
        fault = NotFound(f"there is no route {request.path[:200]}")
    elif error.code == 405:
        fault = MethodNotAllowed(f"{request.method} is not allowed here")
    else:
        fault = BadRequest(error.description or "the request is not understood")
        fault.status = error.code or 400
    response = _refused(fault)
    if fault.status == 405:
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


def _defect(error: Exception) -> Response:
    """A defect of ours: told in full to our log and not at all to the client. (What a hook, or a
    store that it asked, refuses comes here too.)"""
    if isinstance(error, GatewayError):
        return _refused(error)
    log.exception("a defect in %s", request.path[:200])
    return _refused(GatewayError("internal error"))


def _refused(fault: GatewayError) -> Response:
    """For who asks with a browser a page, for all others the error object."""
    if pages.errors.wanted():
        return pages.errors.page(fault)
    return refuse(fault, error_object, Record.of(request.environ))
