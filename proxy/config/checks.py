"""Checks that involve several settings."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..accounts.limiting.budgets import NO_PRICE
from ..runtime import private_files
from ..runtime.installation import templates
from . import keys as key_rules
from . import routes
from .keys import Secret
from .models import ModelConfig
from .settings import Settings, SettingsError
from .table import all_rows

_is_secret = re.compile(r"key|token|secret|passw|credential", re.I).search


def warnings(values: Mapping[str, Any], sources: Mapping[str, str], config: str) -> tuple[str, ...]:
    """Warnings about keys that other users of this machine can see, about budgets without prices,
    and an empty folder of models; `config` is the file."""
    messages = []
    in_file = any(item.api_key for item in values.get("backend", ()))
    in_file |= any(item.env or item.headers for item in values.get("mcp", ()))
    in_file |= any(
        _is_secret(name) for item in values.get("model", ()) for name in item.environment
    )
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
    for path in (config if in_file else "", values.get("api_key_file")):
        if path and private_files.shown(Path(path).expanduser()):
            messages.append(
                f"{path} contains API keys and is readable by every user of this machine; run chmod"
                f" o-r {path}"
            )
    has_budget = any("max_budget" in key.options for key in values.get("file_keys", ()))
    if has_budget and not values.get("price"):
        messages.append(f"{values['api_key_file']}: {NO_PRICE}")
    if values.get("models_dir") and not values.get("model"):
        messages.append(f"{sources['models_dir']}: {values['models_dir']} contains no .gguf file")
    return tuple(messages)


def agree(settings: Settings, sources: Mapping[str, str]) -> Settings:
    """Check combinations of settings, and complete them. Raises SettingsError."""

    def wrong(name: str, why: str) -> SettingsError:
        return SettingsError(f"{sources.get(name, name)}: {why}")

    if settings.model and sys.platform == "win32":
        why = "models cannot be started on Windows; start their servers and use --llama-api"
        raise wrong("model", why)
    if settings.model and (settings.state or settings.workers != 1):
        raise wrong("model", _MODELS_ALONE)
    if why := no_workers(settings, settings.workers):
        raise wrong("workers", why)
    if settings.workers != 1 and settings.server != "gunicorn":
        why = "waitress runs a single process; start several and share one --state"
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
        choices = ", ".join(["auto", "legacy", *shipped])
        raise wrong("chat_template", f"{template!r} is neither a file nor one of {choices}")
    keys = settings.keys
    if why := key_rules.conflict(keys):
        raise wrong("api_key_file" if settings.file_keys else "api_key", why)
    names = [key.name for key in keys]
    for name in settings.admins:
        if name not in names:
            choices = ", ".join(map(repr, names)) or "no API keys are configured"
            raise wrong("admins", f"there is no key named {name!r}: {choices}")
    if settings.oidc.issuer and not settings.oidc.client_id:
        raise wrong("oidc.issuer", "requires client_id in the table [oidc]")
    if settings.oidc.issuer and not settings.admins:
        why = "requires --api-key-file and --admins: users get keys in the store"
        raise wrong("oidc.issuer", why)
    backends = settings.backends
    if not backends:
        raise wrong("llama_api", "no backend is left")
    named = [backend.name for backend in backends]
    plain = "chatglm_model" if settings.chatglm_model else "llama_api"
    for field, seen in (("address", [backend.target for backend in backends]), ("name", named)):
        if twice := [value for value in seen if seen.count(value) > 1]:
            source = "backend" if settings.backend else plain
            more = '; kind = "openai" allows one per model' if field == "address" else ""
            raise wrong(source, f"two backends have the {field} {twice[0]!r}{more}")
    for name, place in routes.places(settings.route).items():
        if name not in named:
            choices = ", ".join(sorted(named))
            why = f"there is no backend named {name!r}; the names are {choices}"
            raise wrong("route", f"{place.model}: {why}")
    return settings


def programs(settings: Settings) -> list[str]:
    """Warnings about missing programs of models. Raises SettingsError for --models-dir."""
    warnings = []
    for model in settings.model:
        why = f"{model.program_trouble}: {program_remedy(settings, model)}"
        if not model.has_program and _is_of_folder(settings, model):
            raise SettingsError(f"--llama-server: {why}")
        if not model.has_program:
            warnings.append(f"model {model.name}: {why}")
    return warnings


def program_remedy(settings: Settings, model: ModelConfig) -> str:
    """What to do about the program of a model that does not exist."""
    where = "--llama-server" if _is_of_folder(settings, model) else "`command`"
    return f"write its path in {where}"


def _is_of_folder(settings: Settings, model: ModelConfig) -> bool:
    """Whether it is started by --llama-server."""
    return bool(settings.models_dir) and settings.llama_server.split()[:1] == [model.command[0]]


# What a reload applies, and what is no setting.
RELOADED = """llama_api chatglm_model slots ctx_size models_dir llama_server models_ttl chat_mode
    on_overflow api_key api_key_file backend model route file_keys names_backend config_file
    warnings""".split()


def changed(began: Settings, now: Settings) -> list[str]:
    """The settings and tables that differ, but for those that a reload applies."""
    fixed = [name for name in Settings.__struct_fields__ if name not in RELOADED]
    return [name for name in fixed if getattr(began, name) != getattr(now, name)]


def no_workers(settings: Settings, number: int) -> str:
    """Why there cannot be so many workers, "" if there can. The gunicorn hooks ask this too."""
    if number == 1:
        return ""
    if settings.model:
        return _MODELS_ALONE
    if not settings.state:
        return (
            f"{number} workers require --state redis://…: without it each process would count the"
            " backends' slots separately (one gevent worker handles a thousand streams)"
        )
    if any(backend.file for backend in settings.backends):
        return (
            "each would load the ChatGLM model: use one worker (it handles a thousand streams), or"
            " run the model in a slotproxy of its own and name that here in a [[backend]] table"
            ' with kind = "openai"'
        )
    return ""


_MODELS_ALONE = (
    "models are started by a single process: remove --state and --workers (one gevent worker"
    " handles a thousand streams), or start the models in a slotproxy of its own and name it here"
    ' in a [[backend]] table with kind = "openai"'
)
