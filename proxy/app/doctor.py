"""``slotproxy doctor``: checks the settings, the backends and the storage, without serving.

It takes the flags, variables and file of the server. Nothing is changed: no database is created or
upgraded, and no model is started. A backend is asked for a token and for one embedding; a server of
2023 also generates, outside the gateway's slots, until its batching is known: a second of tokens,
unless it is busy. Each question has the time of --health-deadline.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import msgspec

from .. import __version__
from ..backends.driver import Capabilities, Driver
from ..backends.llamacpp import EmbeddingServer, Gift, LlamaCpp
from ..backends.local_embeddings.driver import is_installed
from ..backends.probe import ROUTER
from ..config import BackendConfig, ModelConfig, Settings, SettingsError
from ..errors import BackendDown, GatewayError
from ..hosting.process import has_program
from ..runtime.cancel import Cancel
from ..scheduling.shared.log import LogError, RedisLog
from ..server.files_limit import raise_limit
from . import programs
from .compose import backend_of, configs
from .data_folder import data_folder
from .findings import (
    Finding,
    local_embeddings,
    of_access,
    of_backend,
    of_batching,
    of_files,
    of_lost_backend,
    of_space,
    of_vectors,
    without_embeddings,
)

AT_ONCE = 8  # backends
PAUSE = 0.5  # seconds between two looks at a backend that is loading its model


def main(settings: Settings, say: Callable[[str], None], *, as_json: bool = False) -> int:
    """Print the findings. Returns 1 if one of them is a problem, else 0."""
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
    yield of_space(*_space(settings))
    yield from _database(settings)
    yield from _shared_state(settings)
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
        caps = _probed(driver, settings.health_deadline)
    except GatewayError as error:
        yield of_lost_backend(config, str(error))
    else:
        yield from of_backend(config, caps, settings)
        if isinstance(driver, LlamaCpp) and caps.dialect != ROUTER:
            if (makes := _embeds(driver, caps, settings.health_deadline)) is not None:
                embed.append(makes)
            if not caps.queues:
                yield from of_batching(config, driver.batches(settings.health_deadline))
    finally:
        driver.close()


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
            driver = EmbeddingServer(url, connect_timeout=settings.connect_timeout)
            driver.gift = gift
            try:
                _probed(driver, settings.health_deadline)
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


def _space(settings: Settings) -> tuple[str, int | None]:
    """The data folder, and the bytes that are free for it: None if it cannot be written."""
    folder = Path(settings.data) if settings.data else data_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    writable = os.access(existing, os.W_OK | os.X_OK)
    return str(folder), shutil.disk_usage(existing).free if writable else None


def _database(settings: Settings) -> Iterator[Finding]:
    if not settings.database:
        return
    kind = settings.database.partition(":")[0]
    try:
        from sqlalchemy import text

        from ..store.database import Database

        database = Database(settings.database)
        try:
            database.first(text("SELECT 1"))
        finally:
            database.engine.dispose()
    except ImportError:
        yield Finding("problem", "database", "not installed", "pip install slotproxy[postgres]")
    except Exception as error:
        # Whatever a driver raises; its message may have the password, its type has not.
        yield Finding(
            "problem",
            "database",
            f"{kind} cannot be reached: {type(error).__name__}",
            "start it, or correct --database",
        )
    else:
        yield Finding("ok", "database", kind)


def _shared_state(settings: Settings) -> Iterator[Finding]:
    if not settings.state:
        return
    try:
        RedisLog(settings.state, settings.state_name).ping()
    except ImportError:
        yield Finding("problem", "state", "not installed", "pip install slotproxy[redis]")
    except (LogError, ValueError) as error:
        yield Finding("problem", "state", str(error), "start Redis, or correct --state")
    else:
        yield Finding("ok", "state", "Redis answers")
