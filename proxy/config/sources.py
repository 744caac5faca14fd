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
from .macros import Foreign
from .routes import PriceConfig, prices
from .settings import EVERYTHING, GONE_SETTINGS, BackendConfig, McpConfig, Settings, SettingsError
from .table import ENV_PREFIX, read_value, table

HEADER = re.compile(r"[\x20-\x7e]*")
TABLES = ("backend", "macros", "mcp", "model", "price", "route")
# The environment variables of chatglm_cpp's own servers, and the corresponding settings.
_CHATGLM_VARIABLES = {
    "MODEL": "chatglm_model",
    "MAX_LENGTH": "ctx_size",
    "NUM_THREADS": "chatglm_threads",
}


def _no_such(source: str, name: str, names: Iterable[str]) -> SettingsError:
    if why := GONE_SETTINGS.get(name.removeprefix("--").replace("-", "_")):
        return SettingsError(f"{name if name.startswith('--') else f'{source}: {name}'}: {why}")
    near = difflib.get_close_matches(name, list(names), n=1)
    return SettingsError(
        f"{source}: unknown setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    )


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
        if kind in (".yaml", ".yml"):
            from . import llama_swap  # late: few need the YAML library

            return llama_swap.read(text, environ)
        if kind == ".ini":
            server, folder, ttl = map(given, ("llama_server", "models_dir", "models_ttl"))
            found = models_folder.of_folder(folder, server, ttl) if folder else ()
            return model_presets.read(text, server, found)
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None
    return Foreign(_from_toml(path, text, environ))


def _from_toml(path: str, text: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The values of a TOML file by name; ``backend``, ``model``, ``mcp``, ``price`` and
    ``route`` hold the tables of these names."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}") from None
    rows = {row.name: row for row in table()}
    values: dict[str, Any] = {}
    for key, raw in document.items():
        name = key.replace("-", "_")
        if name == "backend":
            values[name] = _backends(raw, path)
        elif name == "mcp":
            values[name] = _mcp(raw, path)
        elif name == "price":
            values[name] = _prices(raw, path)
        elif name == "route":
            values[name] = _routes(raw, path)
        elif name == "model":
            values[name] = _models(raw, document.get("macros", {}), path, environ)
        elif name == "macros":
            continue  # of the models
        elif name in rows:
            values[name] = read_value(rows[name], raw, f"{path}: {key}")
        else:
            raise _no_such(path, key, [*rows, *TABLES])
    return values


def _models(
    raw: Any, shared: object, path: str, environ: Mapping[str, str]
) -> tuple[models.ModelConfig, ...]:
    try:
        common = macros.defined(shared)
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None
    try:
        return models.read(raw, common, environ)
    except ValueError as error:
        raise SettingsError(f"{path}: model {error}") from None


def _backends(raw: Any, path: str) -> tuple[BackendConfig, ...]:
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        raise SettingsError(f"{path}: backend: expected [[backend]] tables")
    rows = {row.name: row for row in table(BackendConfig)}
    backends = []
    for number, document in enumerate(raw, start=1):
        source = f"{path}: backend {number}"
        values = {}
        for key, value in document.items():
            name = key.replace("-", "_")
            if name not in rows:
                raise _no_such(source, key, rows)
            values[name] = read_value(rows[name], value, f"{source}: {key}")
        if not values.keys() & {"url", "file"}:
            raise SettingsError(f"{source}: set url, or file for a ChatGLM model")
        if values.keys() >= {"url", "file"}:
            raise SettingsError(f"{source}: set either url or file, not both")
        fits = ("auto", "chatglm") if "file" in values else ("auto", "llamacpp", "openai")
        if values.get("kind", "auto") not in fits:
            key = "file" if "file" in values else "url"
            kinds = " or ".join(fits[1:])
            raise SettingsError(f"{source}: kind: a backend with a {key} is {kinds}")
        backends.append(BackendConfig(**values))
    return tuple(backends)


def _routes(raw: Any, path: str) -> tuple[routes.RouteConfig, ...]:
    try:
        return routes.read(raw)
    except ValueError as error:
        raise SettingsError(f"{path}: route: {error}") from None


def _prices(raw: Any, path: str) -> tuple[PriceConfig, ...]:
    try:
        return prices(raw)
    except ValueError as error:
        raise SettingsError(f"{path}: price: {error}") from None


def _mcp(raw: Any, path: str) -> tuple[McpConfig, ...]:
    try:
        servers = msgspec.convert(raw, tuple[McpConfig, ...])
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path}: mcp: {error}") from None
    for server in servers:
        if bool(server.command) == bool(server.url):
            raise SettingsError(f"{path}: mcp {server.name}: set command or url")
        if SEPARATOR in f"{server.name}_":
            raise SettingsError(
                f"{path}: mcp {server.name}: name: cannot contain {SEPARATOR} nor end in _"
            )
        if server.url:
            try:
                url(server.url)
            except ValueError as error:
                raise SettingsError(f"{path}: mcp {server.name}: url: {error}") from None
        for name, value in server.headers.items():
            if not HEADER.fullmatch(name + value):
                raise SettingsError(
                    f"{path}: mcp {server.name}: headers: {name[:40]!r} must be printable ASCII,"
                    " without line breaks"
                )
    if len({server.name for server in servers}) != len(servers):
        raise SettingsError(f"{path}: mcp: two servers have the same name")
    return servers


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


def _given(flags: Mapping[str, Any], environ: Mapping[str, str], name: str) -> Any:
    """A setting of the flags or the environment, or else its default."""
    (row,) = (row for row in table() if row.name == name)
    if name in flags:
        return read_value(row, flags[name], row.flag)
    if environ.get(row.variable):
        return read_value(row, environ[row.variable], row.variable)
    return row.default


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from flags, environment and the file that ``--config`` names.

    Raises ``SettingsError``; ``--help`` and ``--version`` print and raise ``SystemExit(0)``.
    """
    parsed, unknown = parser().parse_known_args(list(argv))
    if unknown:
        # Only the name, because the value of a mistyped flag may be a key.
        raise _no_such("flags", unknown[0].split("=")[0], [row.flag for row in table()])
    flags = vars(parsed)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    found = Foreign({})

    for config, source in (
        (flags.pop("config", ""), "--config"),
        (environ.get(ENV_PREFIX + "CONFIG", ""), ENV_PREFIX + "CONFIG"),
    ):
        if config:
            found = _from_file(config, source, environ, partial(_given, flags, environ))
            values = dict(found.values)
            sources = {name: f"{config}: {name}" for name in values}
            break

    for gone, reason in GONE_SETTINGS.items():
        if environ.get(removed := ENV_PREFIX + gone.upper()):
            raise SettingsError(f"{removed}: {reason}")
    for row in table():
        raw: Any = None
        source = ""
        # An empty variable counts as unset, as in compose files.
        if environ.get(row.variable):
            raw, source = environ[row.variable], row.variable
        elif row.name == "workers" and environ.get("WEB_CONCURRENCY"):
            # gunicorn's own variable, set by hosting platforms: read so that it can be refused.
            raw, source = environ["WEB_CONCURRENCY"], "WEB_CONCURRENCY"
        if row.name in flags:
            raw, source = flags[row.name], row.flag
        if source:
            values[row.name], sources[row.name] = read_value(row, raw, source), source

    if found.models_max and "models_max" not in values and not values.get("memory"):
        values["models_max"] = found.models_max
    if values.get("models_dir"):
        values["model"] = _with_folder(values, sources["models_dir"])
    named = {"llama_api", "chatglm_model", "backend", "model"} & values.keys()
    variables = {n: v for v, n in _CHATGLM_VARIABLES.items() if environ.get(v)}
    if "chatglm_model" in values or (variables.get("chatglm_model") and not named):
        # Their names are common words, so they only count if a ChatGLM model is configured.
        for row in table():
            variable = variables.get(row.name)
            if variable and row.name not in values:
                values[row.name] = read_value(row, environ[variable], variable)
                sources[row.name] = variable
        named.add("chatglm_model")
    if "llama_api" not in named and any(values.get(name) for name in named):
        values["llama_api"] = ()  # the default address only applies if no backend is named
    values["names_backend"] = bool(named)
    values["config_file"] = config
    if values.get("all"):
        values = {**dict.fromkeys(EVERYTHING, True), **values}
    if values.get("api_key_file"):
        values["file_keys"] = _read_keys(values["api_key_file"], sources["api_key_file"])
    notes = (f"{config}: {note}" for note in found.notes)
    values["warnings"] = (*warnings(values, sources, config), *notes)
    return agree(Settings(**values), sources)


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Settings without flags, for ``gunicorn proxy.wsgi``."""
    return load((), environ)
