"""``slotproxy doctor``: checks the settings, the backends and the storage, without serving.

It takes the flags, variables and file of the server. Nothing is changed: no database is created or
upgraded, and of each backend no more is asked than at the start of the server.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from .. import __version__
from ..config import BackendConfig, ModelConfig, Settings, SettingsError
from ..errors import GatewayError
from ..hosting.process import has_program
from ..scheduling.shared.log import LogError, RedisLog
from ..server.files_limit import raise_limit
from . import programs
from .compose import backend_of, configs
from .data_folder import data_folder
from .findings import (
    Finding,
    of_access,
    of_backend,
    of_files,
    of_lost_backend,
    of_space,
)

AT_ONCE = 8  # backends


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
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for found in pool.map(lambda config: list(_backend(settings, config)), wanted):
            yield from found
    if not wanted:
        yield Finding("problem", "backends", "none is configured", "set --llama-api URL")


def _backend(settings: Settings, config: BackendConfig) -> Iterator[Finding]:
    if config.launch is not None:
        yield _program(config.launch)
        return
    try:
        backend = backend_of(settings, config)
    except SettingsError as error:
        yield Finding("problem", f"backend {config.name}", str(error))
        return
    try:
        caps = backend.driver.probe(settings.health_deadline)
    except GatewayError as error:
        yield of_lost_backend(config, str(error))
    else:
        yield from of_backend(config, caps, settings)
    finally:
        backend.driver.close()


def _program(model: ModelConfig) -> Finding:
    """Whether the program of a model to start exists; it is not started."""
    about, program = f"model {model.name}", model.command[0]
    if has_program(model):
        return Finding("ok", about, f"{program} is started by the first request")
    return Finding("problem", about, f"{program} is not a program", programs.REMEDY)


def _mode(file: str) -> int | None:
    """The permissions of a file, None without one; Windows has none."""
    return Path(file).stat().st_mode if file and os.name != "nt" else None


def _space(settings: Settings) -> tuple[str, int]:
    """The data folder, and the bytes that are free for it: 0 if it cannot be written."""
    folder = Path(settings.data) if settings.data else data_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free if os.access(existing, os.W_OK | os.X_OK) else 0
    return str(folder), free


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
