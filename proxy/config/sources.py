"""Settings read from flags, environment and a file: TOML, or one of llama-swap or llama-server.

Flags override the environment, which overrides the file. Any mistake raises ``SettingsError`` with
one line that names the setting as the user wrote it. Keys are never part of a message. Nothing here
imports flask, requests or ssl: gunicorn's master reads the settings before gevent patches a worker.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ..accounts.limiting.budgets import Price
from ..core.mcp import SEPARATOR
from . import keys, macros, model_presets, models, routes
from .checks import agree, warnings
from .command_line import no_command, parser
from .models import ImportedConfig
from .settings import SECTIONS, BackendConfig, McpConfig, Settings, SettingsError
from .table import ENV_PREFIX, all_rows, read_value, table
from .validators import naming, no_field, of_table, tables, url

FOREIGN = (".yaml", ".yml", ".ini")  # endings of other programs' files
MOST_LINES = 1000  # of a file with a mistake that are looked at
# tomllib's errors, none of which has a part of the file: it may be a key.
MISTAKES = (
    (r"Illegal char|Unterminated|Expected (\"'|'\")", "a quote is missing: this text has no end"),
    (r"Invalid value|after a statement", 'expected a value; a text needs quotes, as host = "::1"'),
    (r"Unescaped|hex value", "write \\ as \\\\, or put the text between single quotes"),
    (r"Unclosed array", "a ] is missing: this list has no end"),
    (r"Cannot overwrite", "this setting, or this table, is there a second time"),
)
HEADER = re.compile(r"[\x20-\x7e]*")
TABLES = ("aliases", "backend", "macros", "mcp", "model", "price", "route", *SECTIONS)

# Settings that are gone: for each, what to do instead. Their use is refused with that.
_GONE = "this setting was removed"

# Those that are now in a table of the file, by its name: their names began with it.
_NOW_IN = {
    f"{table}_{key}": (table, key)
    for table, struct in SECTIONS.items()
    for key in struct.__struct_fields__
}
_NOW_IN |= {key: ("search", key) for key in ("brave_key", "tavily_key")}
_NOW_IN["tool_timeout"] = ("agent", "tool_timeout")
# Now constants, in `fixed` or beside their users.
_FIXED = """body_timeout chatglm_unload connect_timeout health_deadline json_retries
    local_embeddings_unload max_media max_parallel_calls quota_documents quota_files
    reading_memory reading_timeout send_timeout side_jobs sse_ping_interval
    stored_responses threads"""
_OTHERS = {
    "all": "everything but --chatchat is on by default",
    "bing_key": "Microsoft shut down the Bing Search API; use ddgs, searxng, brave or tavily",
    "cached_weight": "give cached tokens a price of their own in a [[price]], and limit money",
    "embedding_shortens": "a request with fewer dimensions gets shorter vectors, with a warning",
    "hide_forbidden": "what a key may not use is answered with 403 and the name of the right",
    "ignore_unsupported": "leave parameters that a backend does not support out of the request",
    "limits_fail": "requests of keys with limits are refused with 503 while Redis is away",
    "moderation_model": "ask a chat model, with a JSON schema",
    "prefix_hygiene": "prompts are sent as they are",
    "response_store": "use --data, which keeps responses in the database with everything else",
    "worker_class": "gunicorn serves with slotproxy's own worker; --server waitress has threads",
}

REMOVED = {
    **{
        name: f"this setting moved: set {key} in the table [{table}] of the settings file, or"
        f" SLOTPROXY_{table.upper()}_{key.upper()} in the environment"
        for name, (table, key) in _NOW_IN.items()
    },
    **dict.fromkeys(_FIXED.split(), f"{_GONE}: its default applies, so remove it"),
    **{name: f"{_GONE}: {why}" for name, why in _OTHERS.items()},
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
    path: str, source: str, environ: Mapping[str, str], given: Mapping[str, Any]
) -> ImportedConfig:
    """What a file says, by its ending: llama-swap's configuration, llama-server's presets, or our
    own settings. `given` are those of the flags and the environment."""
    text = _read_text(path, source)
    kind = Path(path).suffix.lower()
    with naming(path):
        if kind == ".ini":
            files = _of_folder(given) if given.get("models_dir") else ()
            return model_presets.read(text, _program(given), files)
        if kind in FOREIGN:
            from . import llama_swap  # late: few need the YAML library

            return llama_swap.read(text, environ)
        return ImportedConfig(_from_toml(text, environ))


def of_other_program(path: str, environ: Mapping[str, str]) -> ImportedConfig:
    """What a configuration file of another program says, for ``init --from``."""
    if Path(path).suffix.lower() not in FOREIGN:
        raise SettingsError(f"--from: expected a file that ends with {', '.join(FOREIGN)}")
    given, _ = _given({}, environ)
    return _from_file(path, "--from", environ, given)


def _from_toml(text: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The values of a TOML file by name, also those of its tables. Raises ValueError."""
    document = _parsed(text)
    shared = document.pop("macros", {})
    readers: dict[str, Callable[[Any], Any]] = {
        "aliases": partial(msgspec.convert, type=dict[models.Text, models.Text]),
        "backend": partial(tables, name="backend", read=_backend),
        "mcp": _mcp,
        "model": lambda raw: models.read(raw, macros.defined(shared), environ),
        "price": partial(tables, name="price", read=partial(of_table, Price)),
        "route": routes.read,
        **{name: partial(_keys_of, struct) for name, struct in SECTIONS.items()},
    }
    rows = {row.name: row for row in table()}
    values: dict[str, Any] = {}
    for key, raw in document.items():
        name = key.replace("-", "_")
        if name in rows:
            values[name] = read_value(rows[name], raw, key)
        elif name in readers:
            with naming(name):
                values[name] = readers[name](raw)
        else:
            raise SettingsError(_no_such(key, [*rows, *TABLES]))
    return values


def _parsed(text: str) -> dict[str, Any]:
    """The document of a TOML text. Raises ValueError with the line in which the mistake begins."""
    try:
        document: dict[str, Any] = msgspec.toml.decode(text)
        return document
    except msgspec.DecodeError as error:
        lines, valid = text.splitlines(), 0
        for number in range(1, min(len(lines), MOST_LINES)):
            with suppress(msgspec.DecodeError):
                msgspec.toml.decode("\n".join(lines[:number]))
                valid = number
        why = next((why for form, why in MISTAKES if re.search(form, str(error))), str(error))
        raise ValueError(f"line {valid + 1}: {why}") from None


def _keys_of(struct: type[msgspec.Struct], document: Any) -> dict[str, Any]:
    """The values of a table of the file, by name. Raises ValueError."""
    if not isinstance(document, dict):
        raise ValueError("expected a table")
    rows = {row.name: row for row in table(struct)}
    values = {}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name not in rows:
            raise ValueError(no_field(key, rows))
        values[name] = read_value(rows[name], value, key)
    return values


def _backend(document: dict[str, Any]) -> BackendConfig:
    """Raises ValueError."""
    values = _keys_of(BackendConfig, document)
    if ("url" in values) == ("file" in values):
        raise ValueError("set either url, or file for a ChatGLM model, not both")
    kinds = ("chatglm",) if "file" in values else ("llamacpp", "openai")
    if values.get("kind", "auto") not in ("auto", *kinds):
        raise ValueError(f"kind: this backend is {' or '.join(kinds)}")
    return BackendConfig(**values)


def _mcp(raw: Any) -> tuple[McpConfig, ...]:
    """Raises ValueError."""
    servers = tables(raw, "mcp", partial(of_table, McpConfig))
    for server in servers:
        with naming(server.name):
            if bool(server.command) == bool(server.url):
                raise ValueError("set command or url")
            if SEPARATOR in f"{server.name}_":
                raise ValueError(f"name: cannot contain {SEPARATOR} nor end in _")
            if server.url:
                with naming("url"):
                    url(server.url)
            for name, value in server.headers.items():
                if not HEADER.fullmatch(name + value):
                    why = "must be printable ASCII, without line breaks"
                    raise ValueError(f"headers: {name[:40]!r} {why}")
    if len({server.name for server in servers}) != len(servers):
        raise ValueError("two servers have the same name")
    return servers


def _of_folder(values: Mapping[str, Any]) -> tuple[models.ModelConfig, ...]:
    """The models of --models-dir. Raises ValueError."""
    ttl = values.get("models_ttl", 0.0)
    return models.of_folder(values["models_dir"], _program(values), ttl)


def _program(values: Mapping[str, Any]) -> str:
    return str(values.get("llama_server", Settings().llama_server))


def _given(
    flags: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings of the flags and the environment by key, and the source of each."""
    values, sources = {}, {}
    for row in all_rows():
        raw, source = environ.get(row.variable), row.variable
        # An empty variable counts as unset, as in compose files. gunicorn's own, set by hosting
        # platforms, is read so that it can be refused.
        if row.key == "workers" and not raw:
            raw, source = environ.get("WEB_CONCURRENCY"), "WEB_CONCURRENCY"
        if row.key in flags:
            raw, source = flags[row.key], row.flag
        if raw or row.key in flags:
            values[row.key], sources[row.key] = read_value(row, raw, source), source
    return values, sources


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from flags, environment and the file of ``--config``. Raises SettingsError;
    ``--help`` and ``--version`` print and raise ``SystemExit(0)``."""
    parsed, unknown = parser().parse_known_args(list(argv))
    if unknown:
        # Only the name, because the value of a mistyped flag may be a key.
        name = unknown[0].split("=")[0]
        if argv and name == argv[0] and not name.startswith("-"):
            raise SettingsError(no_command(name))
        why = _no_such(name, [row.flag for row in table()])
        raise SettingsError(why if why.startswith(name) else f"flags: {why}")
    flags = vars(parsed)
    variables = {row.variable for row in all_rows()}
    for name, reason in REMOVED.items():
        removed = ENV_PREFIX + name.upper()
        if environ.get(removed) and removed not in variables:
            raise SettingsError(f"{removed}: {reason}")

    variable = ENV_PREFIX + "CONFIG"
    source = "--config" if flags.get("config") else variable
    config = flags.pop("config", "") or environ.get(variable, "")
    given, sources = _given(flags, environ)
    file = _from_file(config, source, environ, given) if config else ImportedConfig({})
    values: dict[str, Any] = {name: {} for name in SECTIONS} | file.values
    sources = {name: f"{config}: {name}" for name in file.values} | sources
    for key, value in given.items():
        section, _, name = key.rpartition(".")
        (values[section] if section else values)[name] = value
    is_foreign = Path(config).suffix.lower() in FOREIGN
    if is_foreign and ("models_max" in values or values.get("memory")):
        values["model"] = file.bounded()
    elif file.models_max:
        values["models_max"] = file.models_max
    if values.get("models_dir"):
        own: tuple[models.ModelConfig, ...] = values.get("model", ())
        own_names = {name for model in own for name in (model.name, *model.aliases)}
        with naming(sources["models_dir"]):
            files = _of_folder(values)
        if models_here := (*own, *(model for model in files if model.name not in own_names)):
            values["model"] = models_here
    named = {"llama_api", "chatglm_model", "backend", "model"} & values.keys()
    if "llama_api" not in named and any(values.get(name) for name in named):
        values["llama_api"] = ()  # the default address only applies if no backend is named
    values |= {section: struct(**values[section]) for section, struct in SECTIONS.items()}
    values["names_backend"] = bool(named)
    values["config_file"] = config
    if path := values.get("api_key_file"):
        source = sources["api_key_file"]
        text = _read_text(path, source)
        with naming(source):
            values["file_keys"] = keys.read(text, path)
    notes = (f"{config}: {note}" for note in file.notes)
    values["warnings"] = (*warnings(values, sources, config), *notes)
    return agree(Settings(**values), sources)


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Settings without flags, for ``gunicorn proxy.wsgi``."""
    return load((), environ)
