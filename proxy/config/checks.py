"""Checks that involve several settings."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime import private_files
from ..runtime.resources import templates
from . import keys as key_rules
from . import routes
from .keys import Secret
from .settings import Settings, SettingsError
from .table import all_rows

_is_secret = re.compile(r"key|token|secret|passw|credential", re.I).search


def warnings(values: Mapping[str, Any], sources: Mapping[str, str], config: str) -> tuple[str, ...]:
    """Warnings about settings that show keys to other users of this machine; `config` is the path
    of the file, if there is one."""
    messages = []
    in_file = any(item.api_key for item in values.get("backend", ()))
    in_file |= any(item.env or item.headers for item in values.get("mcp", ()))
    environments = [item.environment for item in values.get("model", ())]
    in_file |= any(_is_secret(name) for names in environments for name in names)
    for row in all_rows():
        value = getattr(values[row.section], row.name) if row.section else values.get(row.name)
        # The URL of --state may contain a password.
        if row.item is not Secret or not value or (row.name == "state" and "@" not in value):
            continue
        source = sources.get(row.key, "")
        if source == row.flag:
            instead = row.variable + (" or --api-key-file" if row.name == "api_key" else "")
            messages.append(
                f"{source} is visible to every user of this machine (ps); use {instead}"
            )
        in_file |= source not in (row.flag, row.variable)
    if in_file:
        messages += _readable_by_others(config)
    if values.get("api_key_file"):
        messages += _readable_by_others(values["api_key_file"])
    return tuple(messages)


def _readable_by_others(path: str) -> list[str]:
    if not private_files.shown(Path(path).expanduser()):
        return []
    return [
        f"{path} contains API keys and is readable by every user of this machine; run chmod o-r"
        f" {path}"
    ]


def agree(settings: Settings, sources: Mapping[str, str]) -> Settings:
    """Check combinations of settings, and complete them. Raises SettingsError."""

    def wrong(name: str, why: str) -> SettingsError:
        return SettingsError(f"{sources.get(name, name)}: {why}")

    if settings.model and (why := no_models_here(settings)):
        raise wrong("model", why)
    if settings.workers != 1:
        if not settings.state:
            raise wrong("workers", one_worker(settings.workers))
        if settings.server != "gunicorn":
            raise wrong(
                "workers", "waitress runs a single process; start several and share one --state"
            )
        if why := each_its_own(settings):
            raise wrong("workers", why)
    if settings.watch_config and not (settings.config_file or settings.models_dir):
        raise wrong("watch_config", "watches the file of --config, or the folder of --models-dir")
    if settings.server == "gunicorn" and sys.platform == "win32":
        raise wrong("server", "gunicorn does not run on Windows; use waitress")
    if not settings.host:
        raise wrong("host", "expected an address to listen on, got ''")
    for engine, needed, value in (
        ("searxng", "--searxng-url", settings.searxng_url),
        ("brave", "brave_key in the table [search]", settings.search.brave_key),
        ("tavily", "tavily_key in the table [search]", settings.search.tavily_key),
    ):
        if engine in settings.search_engine and not value:
            raise wrong("search_engine", f"{engine} requires {needed}")
    template = settings.chat_template
    shipped = sorted(path.stem for path in (templates() / "chat").glob("*.jinja"))
    if template not in ("auto", "legacy", *shipped) and not Path(template).is_file():
        names = ", ".join(["auto", "legacy", *shipped])
        raise wrong("chat_template", f"{template!r} is neither a file nor one of {names}")
    keys = settings.keys
    if why := key_rules.conflict(keys):
        raise wrong("api_key_file" if settings.file_keys else "api_key", why)
    for name in settings.admins:
        if why := key_rules.no_such_admin(name, keys):
            raise wrong("admins", why)
    if settings.oidc.issuer and not settings.oidc.client_id:
        raise wrong("oidc.issuer", "requires client_id in the table [oidc]")
    if settings.oidc.issuer and not settings.admins:
        raise wrong(
            "oidc.issuer", "requires --api-key-file and --admins: users get keys in the store"
        )
    backends = settings.backends
    if not backends:
        raise wrong("llama_api", "no backend is left")
    targets = [backend.target for backend in backends]
    named = [backend.name for backend in backends]
    for field, seen in (("address", targets), ("name", named)):
        for value in seen:
            if seen.count(value) > 1:
                plain = "chatglm_model" if settings.chatglm_model else "llama_api"
                source = "backend" if settings.backend else plain
                raise wrong(source, f"two backends have the {field} {value!r}")
    if why := routes.missing(settings.route, named):
        raise wrong("route", why)
    return settings


def one_worker(number: int) -> str:
    """Why ``number`` workers are refused; the gunicorn hooks use this message too."""
    return (
        f"{number} workers require --state redis://…: without it each process would count the"
        " backends' slots separately (one gevent worker handles a thousand streams)"
    )


def no_models_here(settings: Settings) -> str:
    """Why this gateway cannot start models itself, "" if it can."""
    if sys.platform == "win32":
        return "models cannot be started on Windows; start their servers and use --llama-api"
    if settings.state or settings.workers != 1:
        return (
            "models are started by a single process: remove --state and --workers (one gevent"
            " worker handles a thousand streams), or start the models in a slotproxy of its own and"
            ' name it here in a [[backend]] table with kind = "openai"'
        )
    return ""


def each_its_own(settings: Settings) -> str:
    """Why several workers cannot share their backends, "" if they can."""
    if any(backend.file for backend in settings.backends):
        return (
            "each would load the ChatGLM model: use one worker (it handles a thousand streams), or"
            " run the model in a slotproxy of its own and name that here in a [[backend]] table"
            ' with kind = "openai"'
        )
    return ""
