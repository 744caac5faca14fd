"""``slotproxy doctor``: checks the settings, the backends and the storage, without serving.

It takes the flags, variables and file of the server. Nothing is changed: no database is created or
upgraded, and no model is started. A backend is asked for a token and for one embedding. Each
question has half a minute.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import msgspec

from .. import __version__
from ..backends.driver import Capabilities, Driver
from ..backends.llamacpp import EmbeddingServer, Gift, LlamaCpp
from ..backends.local_embeddings import is_installed
from ..backends.probe import ROUTER
from ..backends.template_check import check
from ..config import BackendConfig, ModelConfig, Settings, SettingsError, fixed
from ..errors import BackendDown, GatewayError, StoreUnavailable, UpstreamFault
from ..hosting.process import has_program
from ..prompting.prompt import Prompter
from ..prompting.template import TemplateError, templates
from ..runtime.cancel import Cancel
from ..scheduling.shared.log import LogError, RedisLog
from ..server.open_files import raise_limit
from ..store.revisions import newest_revision, revision_of_file
from . import discovery
from . import discovery as programs
from .compose import backend_of, configs
from .data_folder import database_file, folder_of
from .findings import (
    Finding,
    local_embeddings,
    of_access,
    of_backend,
    of_files,
    of_lost_backend,
    of_port,
    of_profile,
    of_space,
    of_tables,
    of_vectors,
    of_verdict,
    without_embeddings,
)
from .prompter_registry import known_formats
from .storage import NEEDED, are_installed

AT_ONCE = 8  # backends
REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
WRITER = 2.0  # seconds to wait for another writer; a gateway's are done in milliseconds
PAUSE = 0.5  # seconds between two looks at a backend that is loading its model


def main(settings: Settings, say: Callable[[str], None], *, as_json: bool = False) -> int:
    """Print the findings. Returns 1 if one of them is a problem, else 0."""
    logging.getLogger("slotproxy").addHandler(logging.NullHandler())  # the findings have it
    found = list(examine(settings))
    if as_json:
        say(msgspec.json.encode(found).decode())
    else:
        python = ".".join(map(str, sys.version_info[:3]))
        say(f"slotproxy {__version__}, Python {python}\n{table(found)}")
    return int(any(finding.level == "problem" for finding in found))


def examine(settings: Settings) -> Iterator[Finding]:
    for warning in settings.warnings:
        yield Finding("advice", "settings", warning)
    yield from _backends(settings)
    yield from _vectors(settings)
    yield from of_access(settings, _mode(settings.api_key_file))
    yield from _port(settings)
    yield from storage(settings)
    yield of_files(raise_limit())


def table(found: Sequence[Finding]) -> str:
    """The findings in columns, each remedy on a line of its own."""
    width = max((len(finding.about) for finding in found), default=0)
    lines = []
    for finding in found:
        lines.append(f"  {finding.level:<7}  {finding.about:<{width}}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<{width + 11}}  → {finding.remedy}")
    return "\n".join(lines)


def _backends(settings: Settings) -> Iterator[Finding]:
    wanted = configs(settings)
    embed: list[bool] = []  # of each backend that was asked
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for found in pool.map(lambda config: list(_backend(settings, config, embed)), wanted):
            yield from found
    if settings.local_embeddings and not settings.embedding_api and is_installed():
        yield local_embeddings()
    elif embed and not any(embed) and not settings.embedding_api and find_spec("apsw"):
        yield without_embeddings()
    if not wanted:
        yield Finding("problem", "backends", "none is configured", "set --llama-api URL")


def _backend(settings: Settings, config: BackendConfig, embed: list[bool]) -> Iterator[Finding]:
    """The findings about one backend. Adds to `embed` whether a server.cpp makes embeddings."""
    if config.launch is not None:
        yield _program(config.launch)
        return
    try:
        backend = backend_of(settings, config)
    except SettingsError as error:
        yield Finding("problem", f"backend {config.name}", str(error))
        return
    driver = backend.driver
    try:
        caps = _probed(driver, fixed.HEALTH_DEADLINE)
        # Short refusals look like those of an old server without a free slot.
        doubtful = not (caps.queues or caps.n_ctx or caps.dialect == ROUTER)
        if isinstance(driver, LlamaCpp) and doubtful and _kind(config.url) != "llamacpp":
            raise UpstreamFault("the backend is not a llama.cpp server")
    except GatewayError as error:
        other = isinstance(driver, LlamaCpp) and isinstance(error, UpstreamFault)
        yield of_lost_backend(config, str(error), _kind(config.url) if other else "")
    else:
        yield from of_backend(config, caps, settings)
        if settings.chat_template == "auto" and (prompter := _prompter(caps)) is not None:
            yield of_profile(config, prompter)
            if caps.chat and caps.template_from == "server" and backend.chat_mode == "auto":
                yield from of_verdict(config, check(driver, prompter, datetime.now()))
        if isinstance(driver, LlamaCpp) and caps.dialect != ROUTER:
            makes = _embeds(driver, caps, fixed.HEALTH_DEADLINE)
            embed += [] if makes is None else [makes]
    finally:
        driver.close()


def _prompter(caps: Capabilities) -> Prompter | None:
    """The prompter of a backend's own template, None if it has none, or an invalid one."""
    if caps.native or not caps.template:
        return None
    try:
        form = templates.compile(caps.template, "")
    except TemplateError:
        return None
    tokens = caps.bos_token, caps.eos_token
    return Prompter(form, *tokens, adds_bos=caps.adds_bos, formats=known_formats())


def _kind(url: str) -> str:
    """The kind of the server at an address, as in `discovery.Server`; "other" for a program that is
    none, "" if nothing answers."""
    found = discovery.identify(url)
    return found[0] or "other" if found else ""


def _probed(driver: Driver, patience: float) -> Capabilities:
    """Probe a backend, which may be loading its model at the moment. Raises GatewayError."""
    end = time.monotonic() + patience
    while True:
        try:
            return driver.probe(patience)
        except BackendDown as error:
            if "loading" not in str(error) or time.monotonic() >= end:
                raise
            time.sleep(PAUSE)


def _embeds(driver: Driver, caps: Capabilities, patience: float) -> bool | None:
    """Whether a backend makes embeddings; None if it does not answer within `patience` seconds."""
    cancel = Cancel()
    late = threading.Timer(patience, cancel.cancel)
    late.daemon = True
    late.start()
    try:
        driver.embed(("Hi",), caps, cancel)
    except GatewayError:
        return None if cancel.cancelled else False
    finally:
        late.cancel()
    return True


def _vectors(settings: Settings) -> Iterator[Finding]:
    """The servers that are used only for embeddings or rankings, each asked once."""
    gifts: tuple[tuple[Gift, Sequence[str]], ...] = (
        ("embeddings", settings.embedding_api),
        ("rankings", settings.rerank_api),
    )
    for gift, urls in gifts:
        for url in urls:
            driver = EmbeddingServer(url, connect_timeout=fixed.CONNECT_TIMEOUT)
            driver.gift = gift
            try:
                _probed(driver, fixed.HEALTH_DEADLINE)
                error = ""
            except GatewayError as fault:
                error = str(fault)
            finally:
                driver.close()
            yield of_vectors(gift, url.split("://", 1)[1], error)


def _program(model: ModelConfig) -> Finding:
    """Whether the program of a model to start exists; it is not started."""
    about, program = f"model {model.name}", model.command[0]
    if has_program(model):
        return Finding("ok", about, f"{program} is started by the first request")
    return Finding("problem", about, f"{program} is not a program", programs.REMEDY)


def _mode(file: str) -> int | None:
    """The permissions of a file, None without one; Windows has none."""
    return Path(file).stat().st_mode if file and os.name != "nt" else None


def _port(settings: Settings) -> Iterator[Finding]:
    """Whether the address can be listened on; a slotproxy that runs may have it."""
    host, port = settings.host, settings.port
    if host.startswith("unix:") or not port:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reachable = REACHABLE.get(host, f"[{host}]" if ":" in host else host)
        url = f"http://{reachable}:{port}{settings.api_prefix}"
        ours = taken and discovery.is_slotproxy(url)
        where = f"{host}:{port}"
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        yield of_port(where, reason, taken=taken, ours=ours)


def storage(settings: Settings) -> Iterator[Finding]:
    """The folder of the data, the database and Redis."""
    folder = folder_of(settings)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    writable = os.access(existing, os.W_OK | os.X_OK)
    yield of_space(str(folder), shutil.disk_usage(existing).free if writable else None)
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
        locked = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        remedy = (
            "end the program that keeps it locked"
            if locked
            else ("if it is damaged, stop slotproxy and use a backup: slotproxy restore FILE")
        )
        return Finding("problem", "database", f"{file} cannot be used: {error}", remedy)
    return of_tables("SQLite", revision, newest_revision(), "slotproxy backup FILE")


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
        return Finding("problem", "database", "not installed", "pip install slotproxy[postgres]")
    except StoreUnavailable as error:
        return _away(kind, error.detail)
    except Exception as error:
        # Whatever a driver raises; its message may have the password, its type has not.
        return _away(kind, type(error).__name__)
    return of_tables(kind, revision, newest_revision(), "pg_dump")


def _away(kind: str, reason: str) -> Finding:
    remedy = "start it, or correct --database"
    return Finding("problem", "database", f"{kind} cannot be reached: {reason}", remedy)


def _shared_state(settings: Settings) -> Finding:
    try:
        RedisLog(settings.state, settings.state_name).ping()
    except ImportError:
        return Finding("problem", "state", "not installed", "pip install slotproxy[redis]")
    except (LogError, ValueError) as error:
        return Finding("problem", "state", str(error), "start Redis, or correct --state")
    return Finding("ok", "state", "Redis answers")
