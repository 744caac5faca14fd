"""Settings read from flags, environment and a file: TOML, or one of llama-swap or llama-server.

Order: a flag overrides the environment, the environment the file, the file the default. Any mistake
raises ``SettingsError`` with one line that names the setting as the user wrote it (``--port``,
``SLOTPROXY_PORT`` or ``slotproxy.toml: port``). Keys are never part of a message.

``load`` is the entry point. Pure except for reading the config file and the key file. Nothing here
imports flask, requests or ssl: gunicorn's master reads the settings before gevent patches a worker.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ..core.mcp import SEPARATOR
from . import keys, macros, model_presets, models, models_folder, routes
from .checks import agree, warnings
from .command_line import parser
from .forms import url
from .keys import ApiKey
from .models import Foreign
from .removed import REMOVED
from .settings import SECTIONS, BackendConfig, McpConfig, Settings, SettingsError
from .table import ENV_PREFIX, SettingRow, all_rows, read_value, table

FOREIGN = (".yaml", ".yml", ".ini")  # endings of other programs' files
HEADER = re.compile(r"[\x20-\x7e]*")
TABLES = ("backend", "macros", "mcp", "model", "price", "route", *SECTIONS)
# The environment variables of chatglm_cpp's own servers, and the corresponding settings.
_CHATGLM_VARIABLES = {
    "chatglm_model": "MODEL",
    "ctx_size": "MAX_LENGTH",
    "chatglm.threads": "NUM_THREADS",
}


def _no_such(name: str, names: Iterable[str]) -> str:
    """Why there is no setting of this name."""
    plain = name.removeprefix("--").replace("-", "_")
    if why := REMOVED.get(plain) or REMOVED.get(plain.removeprefix("no_")):
        return f"{name}: {why}"
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"unknown setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _read_text(path: str, source: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the file is not UTF-8"
        raise SettingsError(f"{source}: cannot read {path}: {reason}") from None


def _from_file(
    path: str, source: str, environ: Mapping[str, str], given: Callable[[str], Any]
) -> Foreign:
    """What a file says, by its ending or else as TOML: llama-swap's configuration (YAML),
    llama-server's presets (INI), or our own settings (TOML). `given` returns a setting of the flags
    and the environment."""
    text = _read_text(path, source)
    kind = Path(path).suffix.lower()
    try:
        if kind == ".ini":
            server, folder, ttl = map(given, ("llama_server", "models_dir", "models_ttl"))
            found = models_folder.of_folder(folder, server, ttl) if folder else ()
            return model_presets.read(text, server, found)
        if kind in FOREIGN:
            from . import llama_swap  # late: few need the YAML library

            return llama_swap.read(text, environ)
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None
    return Foreign(_from_toml(path, text, environ))


def of_other_program(path: str, environ: Mapping[str, str]) -> Foreign:
    """What a configuration file of another program says, for ``init --from``."""
    if Path(path).suffix.lower() not in FOREIGN:
        raise SettingsError(f"--from: expected a file that ends with {', '.join(FOREIGN)}")
    return _from_file(path, "--from", environ, partial(_given, {}, environ))


def _from_toml(path: str, text: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The values of a TOML file by name; ``backend``, ``model``, ``mcp``, ``price`` and
    ``route`` hold the tables of these names."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}") from None
    shared = document.pop("macros", {})
    readers: dict[str, Callable[[Any], Any]] = {
        "backend": _backends,
        "mcp": _mcp,
        "model": lambda raw: models.read(raw, macros.defined(shared), environ),
        "price": routes.prices,
        "route": routes.read,
        **{name: partial(_keys_of, struct) for name, struct in SECTIONS.items()},
    }
    rows = {row.name: row for row in table()}
    values: dict[str, Any] = {}
    for key, raw in document.items():
        name = key.replace("-", "_")
        if name in rows:
            values[name] = read_value(rows[name], raw, f"{path}: {key}")
        elif name in readers:
            try:
                values[name] = readers[name](raw)
            except ValueError as error:
                raise SettingsError(f"{path}: {name}: {error}") from None
        else:
            raise SettingsError(f"{path}: {_no_such(key, [*rows, *TABLES])}")
    return values


def _keys_of(struct: type[msgspec.Struct], document: Any) -> dict[str, Any]:
    """The values of a table of the file, by name. Raises ValueError."""
    if not isinstance(document, dict):
        raise ValueError("expected a table")
    rows = {row.name: row for row in table(struct)}
    values = {}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name not in rows:
            raise ValueError(_no_such(key, rows))
        values[name] = read_value(rows[name], value, key)
    return values


def _backends(raw: Any) -> tuple[BackendConfig, ...]:
    """Raises ValueError."""
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        raise ValueError("expected [[backend]] tables")
    return tuple(_backend(number, document) for number, document in enumerate(raw, start=1))


def _backend(number: int, document: dict[str, Any]) -> BackendConfig:
    try:
        values = _keys_of(BackendConfig, document)
        if not values.keys() & {"url", "file"}:
            raise ValueError("set url, or file for a ChatGLM model")
        if values.keys() >= {"url", "file"}:
            raise ValueError("set either url or file, not both")
        fits = ("auto", "chatglm") if "file" in values else ("auto", "llamacpp", "openai")
        if values.get("kind", "auto") not in fits:
            key = "file" if "file" in values else "url"
            raise ValueError(f"kind: a backend with a {key} is {' or '.join(fits[1:])}")
    except ValueError as error:
        raise ValueError(f"number {number}: {error}") from None
    return BackendConfig(**values)


def _mcp(raw: Any) -> tuple[McpConfig, ...]:
    """Raises ValueError."""
    servers = msgspec.convert(raw, tuple[McpConfig, ...])
    for server in servers:
        try:
            _check_mcp(server)
        except ValueError as error:
            raise ValueError(f"{server.name}: {error}") from None
    if len({server.name for server in servers}) != len(servers):
        raise ValueError("two servers have the same name")
    return servers


def _check_mcp(server: McpConfig) -> None:
    if bool(server.command) == bool(server.url):
        raise ValueError("set command or url")
    if SEPARATOR in f"{server.name}_":
        raise ValueError(f"name: cannot contain {SEPARATOR} nor end in _")
    if server.url:
        try:
            url(server.url)
        except ValueError as error:
            raise ValueError(f"url: {error}") from None
    for name, value in server.headers.items():
        if not HEADER.fullmatch(name + value):
            raise ValueError(f"headers: {name[:40]!r} must be printable ASCII, without line breaks")


def _with_folder(values: Mapping[str, Any], source: str) -> tuple[models.ModelConfig, ...]:
    """The models of the file, and those of --models-dir that it does not name."""
    own: tuple[models.ModelConfig, ...] = values.get("model", ())
    taken = {name for model in own for name in (model.name, *model.aliases)}
    server = values.get("llama_server", Settings().llama_server)
    try:
        found = models_folder.of_folder(values["models_dir"], server, values.get("models_ttl", 0.0))
    except ValueError as error:
        raise SettingsError(f"{source}: {error}") from None
    return (*own, *(model for model in found if model.name not in taken))


def _read_keys(path: str, source: str) -> tuple[ApiKey, ...]:
    text = _read_text(path, source)
    try:
        return keys.read(text, path)
    except ValueError as error:
        raise SettingsError(f"{source}: {error}") from None


def _raw(row: SettingRow, flags: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[Any, str]:
    """The value of a setting as the flags or the environment have it, and its source; "" for
    none."""
    if row.key in flags:
        return flags[row.key], row.flag
    # gunicorn's own variable, set by hosting platforms, is read so that it can be refused.
    also = "WEB_CONCURRENCY" if row.key == "workers" else row.variable
    for variable in (row.variable, also):
        if environ.get(variable):  # an empty variable counts as unset, as in compose files
            return environ[variable], variable
    return None, ""


def _given(flags: Mapping[str, Any], environ: Mapping[str, str], name: str) -> Any:
    """A setting of the flags or the environment, or else its default."""
    (row,) = (row for row in table() if row.name == name)
    raw, source = _raw(row, flags, environ)
    return read_value(row, raw, source) if source else row.default


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from flags, environment and the file that ``--config`` names.

    Raises ``SettingsError``; ``--help`` and ``--version`` print and raise ``SystemExit(0)``.
    """
    parsed, unknown = parser().parse_known_args(list(argv))
    if unknown:
        # Only the name, because the value of a mistyped flag may be a key.
        name = unknown[0].split("=")[0]
        why = _no_such(name, [row.flag for row in table()])
        raise SettingsError(why if why.startswith(name) else f"flags: {why}")
    flags = vars(parsed)
    rows = {row.key: row for row in all_rows()}
    for name, reason in REMOVED.items():
        removed = ENV_PREFIX + name.upper()
        if environ.get(removed) and removed not in {row.variable for row in rows.values()}:
            raise SettingsError(f"{removed}: {reason}")

    config, source = flags.pop("config", ""), "--config"
    if not config:
        config, source = environ.get(ENV_PREFIX + "CONFIG", ""), ENV_PREFIX + "CONFIG"
    found = Foreign({})
    if config:
        found = _from_file(config, source, environ, partial(_given, flags, environ))
    values: dict[str, Any] = {name: {} for name in SECTIONS} | found.values
    sources = {name: f"{config}: {name}" for name in found.values}

    def put(row: SettingRow, raw: Any, source: str) -> None:
        target = values[row.section] if row.section else values
        target[row.name] = read_value(row, raw, source)
        sources[row.key] = source

    for row in rows.values():
        raw, source = _raw(row, flags, environ)
        if source:
            put(row, raw, source)
    if found.models_max and "models_max" not in values and not values.get("memory"):
        values["models_max"] = found.models_max
    if values.get("models_dir"):
        values["model"] = _with_folder(values, sources["models_dir"])
    named = {"llama_api", "chatglm_model", "backend", "model"} & values.keys()
    if "chatglm_model" in values or (environ.get("MODEL") and not named):
        # Their names are common words, so they only count if a ChatGLM model is configured.
        for key, variable in _CHATGLM_VARIABLES.items():
            row = rows[key]
            there = values[row.section] if row.section else values
            if environ.get(variable) and row.name not in there:
                put(row, environ[variable], variable)
        named.add("chatglm_model")
    if "llama_api" not in named and any(values.get(name) for name in named):
        values["llama_api"] = ()  # the default address only applies if no backend is named
    values |= {section: struct(**values[section]) for section, struct in SECTIONS.items()}
    values["names_backend"] = bool(named)
    values["config_file"] = config
    if values.get("api_key_file"):
        values["file_keys"] = _read_keys(values["api_key_file"], sources["api_key_file"])
    notes = (f"{config}: {note}" for note in found.notes)
    values["warnings"] = (*warnings(values, sources, config), *notes)
    return agree(Settings(**values), sources)


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Settings without flags, for ``gunicorn proxy.wsgi``."""
    return load((), environ)
