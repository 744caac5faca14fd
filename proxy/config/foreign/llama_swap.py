"""llama-swap's configuration, ``config.yaml``, read as it is.

Source of the format: ``config.example.yaml`` and ``docs/configuration.md`` of llama-swap, August
2026; older names of its keys are read too. What is read becomes `[[model]]` and `[[backend]]`
tables, keys and settings. A note names unsupported settings. Models are swapped by memory
and number here, not by group or matrix (see `_together`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import yaml

from .. import forms, keys, macros, models
from ..models import LOOPBACK, PORT, PROTECTED, ModelConfig
from ..settings import BackendConfig
from .foreign import Foreign

# YAML as plain values: tables, lists, texts, numbers, true, false and nothing.
#
# Only the core types of YAML 1.2 are read, as programs in Go read them: `on`, `12:30` and dates
# are texts. The number of values is bounded after aliases and merge keys are filled in, so a
# small file cannot grow. Nothing is constructed but these values. Raises ValueError.
MAX_SIZE = 524_288  # characters of a file
MAX_VALUES = 100_000  # values in it, with aliases filled in
MAX_DEPTH = 64  # tables and lists inside each other

_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]{1,18}|0x[0-9a-fA-F]{1,15}|0o[0-7]{1,20}", list("-+0123456789")),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?", list("-+.0123456789")),
    "merge": (r"<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    """Tells the types of plain texts; it constructs nothing."""


_Loader.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


def parse(text: str) -> Any:
    """The value of a document, None for an empty one."""
    if len(text) > MAX_SIZE:
        raise ValueError(f"longer than {MAX_SIZE} characters")
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{place}{error.problem or error.context}") from None
    except yaml.YAMLError:
        raise ValueError("contains characters that YAML does not allow") from None
    except RecursionError:
        raise ValueError("too many lists inside each other") from None
    return _Reader().value(node, 0) if node is not None else None


class _Reader:
    def __init__(self) -> None:
        self._left = MAX_VALUES

    def value(self, node: yaml.Node, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"more than {MAX_VALUES} values, with aliases filled in")
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} tables or lists inside each other")
        if isinstance(node, yaml.MappingNode):
            return self._table(node, depth + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, depth + 1) for item in node.value]
        return _scalar(node)

    def _table(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {key.start_mark.line + 1}: expected a name, not a list")
            value = self.value(item, depth)
            if key.tag == _TAG + "merge":
                for table in value if isinstance(value, list) else [value]:
                    if not isinstance(table, dict):
                        raise ValueError(f"line {key.start_mark.line + 1}: << needs a table")
                    merged = {**table, **merged}  # the first one counts
            elif key.value in own:
                raise ValueError(f"line {key.start_mark.line + 1}: {key.value!r} is there twice")
            else:
                own[key.value] = value
        return {**merged, **own}


def _scalar(node: yaml.Node) -> Any:
    kind = node.tag.removeprefix(_TAG)
    text: str = node.value
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "str":
        return text
    try:
        if kind == "int":
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        if kind == "float":
            return float(text)
    except ValueError:
        pass
    raise ValueError(f"line {node.start_mark.line + 1}: {text[:100]!r} is not a value")


START_TIMEOUT, LEAST_START_TIMEOUT = 120.0, 15.0  # seconds, its default and its least
STOP_TIMEOUT = 10.0  # seconds
LEVELS = {"debug": "debug", "info": "info", "warn": "warning", "error": "error"}

# Without a meaning here: its own log, page and measurements; ports that are chosen anew for each
# start; progress of a load, which is always shown as comments of a stream.
_MEANINGLESS = {
    "captureBuffer",
    "logTimeFormat",
    "logToStdout",
    "metricsMaxInMemory",
    "performance",
    "sendLoadingState",
    "startPort",
    "store",
    "ui",
    "upstream",
}
_READ = {
    *("apiKeys", "globalTTL", "groups", "healthCheckTimeout", "hooks", "logLevel", "matrix"),
    *("models", "peers", "routing", "unloadTimeout"),
}
_OF_MODEL = {
    *("aliases", "checkEndpoint", "cmd", "cmdStop", "concurrencyLimit", "description", "env"),
    *("filters", "macros", "name", "proxy", "ttl", "unlisted", "unloadTimeout"),
    "useModelName",
}
# Servers with OpenAI's API and without llama.cpp's, by a word of their commands.
_OPENAI = re.compile(
    r"\b(vllm|sglang|lmdeploy|tabbyapi|mlx_lm|mlx-lm|aphrodite|ollama|koboldcpp|llama_cpp\.server)\b"
)
# Servers of other HTTP APIs, likewise.
_HTTP = re.compile(
    r"\b(whisper-server|whisper_server|sd-server|sd_server|audiocpp_server|stable-diffusion"
    r"|comfyui|text-embeddings-router|infinity_emb|kokoro|piper)\b",
    re.IGNORECASE,
)


def read(text: str, environ: Mapping[str, str]) -> Foreign:
    """Read a configuration. Raises ValueError, whose message says where and what is wrong."""
    document = parse(text)
    if not isinstance(document, dict) or not isinstance(document.get("models"), dict):
        raise ValueError("models: expected a table of models")
    shared = macros.defined(document.pop("macros", None) or {})
    described = document.pop("models")
    general = macros.filled(document, macros.for_model("", shared, environ), environ)
    if name := macros.unknown(general):
        raise ValueError(f"unknown macro ${{{name}}}")
    lacking = {key for key in document if key not in _READ | _MEANINGLESS and document[key]}
    tables = []
    for name, raw in described.items():
        try:
            table, missing = _model(name, raw, general, shared, environ)
        except ValueError as error:
            raise ValueError(f"models: {name[:100]!r}: {error}") from None
        lacking |= missing
        if PORT in table["url"] and PORT not in f"{table['command']} {table['environment']}":
            lacking.add(f"models.{name[:100]} without {PORT} in cmd, and without proxy")
            continue
        tables.append(table)
    lacking |= _preload(tables, _table(_table(general, "hooks"), "on_startup"))
    router, place = _router(general, lacking)
    try:
        hosted = models.checked(tables)
    except ValueError as error:
        raise ValueError(f"models: {error}") from None
    hosted, limit, swapping = _together(hosted, router, place)
    backends, missing = _peers(_table(general, "peers"))
    values: dict[str, Any] = {"model": hosted, "backend": backends, "api_key": _keys(general)}
    if level := _text(general, "logLevel"):
        if level not in LEVELS:
            raise ValueError(f"logLevel: expected one of {', '.join(LEVELS)}")
        values["log_level"] = LEVELS[level]
    notes = [*swapping]
    if lacking | missing:
        notes.append(f"not supported and ignored: {', '.join(sorted(lacking | missing))}")
    if idle := sorted(key for key in document if key in _MEANINGLESS and document[key]):
        notes.append(f"without a meaning here: {', '.join(idle)}")
    values = {name: value for name, value in values.items() if value}
    return Foreign(values, notes, models_max=limit)


def _model(
    name: str,
    raw: object,
    general: Mapping[str, Any],
    shared: Mapping[str, macros.Value],
    environ: Mapping[str, str],
) -> tuple[dict[str, Any], set[str]]:
    """A `[[model]]` table, and the keys of this model that are not supported."""
    if not isinstance(raw, dict):
        raise ValueError("expected a table")
    own = macros.defined(raw.get("macros") or {}, shared)
    values = {key: value for key, value in raw.items() if key != "macros"}
    for key in ("cmd", "cmdStop"):
        values[key] = _without_comments(_text(values, key))
    known = macros.for_model(name, own, environ)
    values = macros.filled(values, known, environ)
    if unknown := macros.unknown(values):
        raise ValueError(f"unknown macro ${{{unknown}}}")
    lacking = {f"models.*.{key}" for key in values if key not in _OF_MODEL and values[key]}
    lacking -= {f"models.*.{key}" for key in _MEANINGLESS}
    command = _text(values, "cmd")
    if not command.strip():
        raise ValueError("cmd: expected a command")
    address = _text(values, "proxy").rstrip("/")
    wanted = _text(values, "useModelName")
    kind = _kind(command, wanted, _list(_table(values, "capabilities"), "out"))
    check = _text(values, "checkEndpoint")
    filters = _filters(_table(values, "filters"), known, environ)
    named = [*_list(values, "aliases"), *filters["set_by_alias"]]
    aliases = [alias for alias in dict.fromkeys(named) if alias != name]
    ttl = _number(values, "ttl", -1.0)
    table = {
        "name": name,
        "command": command,
        "stop": _text(values, "cmdStop"),
        "environment": _environment(values.get("env")),
        "check": "" if check in ("none", "/health") else check,
        "url": address.replace("http://localhost:", "http://127.0.0.1:") or LOOPBACK,
        "kind": kind,
        "server_model": "" if kind == "llamacpp" else wanted,
        "ttl": ttl if ttl != -1.0 else _number(general, "globalTTL", 0.0),
        "start_timeout": max(
            LEAST_START_TIMEOUT, _number(general, "healthCheckTimeout", START_TIMEOUT)
        ),
        "stop_timeout": _number(values, "unloadTimeout", 0.0)
        or _number(general, "unloadTimeout", 0.0)
        or STOP_TIMEOUT,
        "concurrency": values.get("concurrencyLimit") or 0,
        "title": _text(values, "name"),
        "description": _text(values, "description"),
        "unlisted": values.get("unlisted") or False,
    }
    return {**table, **filters, "aliases": aliases}, lacking


def _kind(command: str, server_model: str, out: Sequence[str]) -> str:
    """The kind of a server; `out` are what its model generates: text, audio, image."""
    if _HTTP.search(command) or (out and "text" not in out):
        return "http"
    if _OPENAI.search(command) or (server_model and "llama-server" not in command):
        return "openai"
    return "llamacpp"


def _filters(
    filters: Mapping[str, Any], known: Mapping[str, macros.Value], environ: Mapping[str, str]
) -> dict[str, Any]:
    removed = _text(filters, "stripParams") or _text(filters, "strip_params")
    by_alias = {
        str(macros.filled(alias, known, environ)): _fields(fields)
        for alias, fields in _table(filters, "setParamsByID").items()
    }
    return {
        "strip": [
            name for part in removed.split(",") if (name := part.strip()) not in ("", *PROTECTED)
        ],
        "set": _fields(_table(filters, "setParams")),
        "set_by_alias": by_alias,
    }


def _fields(fields: object) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise ValueError("filters: expected a table of fields")
    return {name: value for name, value in fields.items() if name not in PROTECTED}


def _preload(tables: Sequence[dict[str, Any]], hook: Mapping[str, Any]) -> set[str]:
    """Mark the models to load at the start. Returns the names of unsupported parts."""
    named = {alias: table for table in tables for alias in (table["name"], *table["aliases"])}
    missing = set()
    for name in _list(hook, "preload"):
        if name in named:
            named[name]["preload"] = True
        else:
            missing.add(f"hooks.on_startup.preload of the unknown model {name[:100]!r}")
    return missing


def _router(general: Mapping[str, Any], lacking: set[str]) -> tuple[Mapping[str, Any], str]:
    """The table with `groups` or `matrix`, and where it is."""
    routing = _table(general, "routing")
    router = _table(routing, "router")
    if _table(routing, "scheduler").get("settings"):
        lacking.add("routing.scheduler")
    if not router:
        return general, ""
    settings = _table(router, "settings")
    wanted = "matrix" if router.get("use") == "matrix" else "groups"
    return {wanted: settings.get(wanted)}, "routing.router.settings."


def _together(
    hosted: tuple[ModelConfig, ...], router: Mapping[str, Any], place: str
) -> tuple[tuple[ModelConfig, ...], int, list[str]]:
    """The models, those of persistent groups pinned; how many may be loaded at once, 0 for any; and
    notes. Without bounds of the operator's, never more models are loaded together than llama-swap
    would: one beside the pinned ones, or all if its groups let all run together."""
    advice = "set --memory, and what fits stays loaded"
    if router.get("matrix"):
        return hosted, 1, [f"{place}matrix is not supported: one model is loaded at once; {advice}"]
    groups = _table(router, "groups")
    pinned: set[str] = set()
    free: set[str] = set()
    for name, group in groups.items():
        if not isinstance(group, dict):
            raise ValueError(f"{place}groups: {name[:100]!r}: expected a table")
        members = _list(group, "members")
        if group.get("persistent") is True:
            pinned.update(members)
        if group.get("swap") is False and group.get("exclusive") is False:
            free.update(members)
    every = {model.name for model in hosted}
    hosted = tuple(_pinned(model) if model.name in pinned else model for model in hosted)
    if every <= free:
        return hosted, 0, []
    limit = 1 + len(pinned & every)
    if not groups:
        return hosted, limit, [f"one model is loaded at once, as llama-swap does; {advice}"]
    beside = f" beside {limit - 1} of persistent groups" if limit > 1 else ""
    return (
        hosted,
        limit,
        [f"{place}groups: one model is loaded at once{beside}, whatever the groups; {advice}"],
    )


def _pinned(model: ModelConfig) -> ModelConfig:
    return msgspec.structs.replace(model, pin=True)


def _peers(peers: Mapping[str, Any]) -> tuple[tuple[BackendConfig, ...], set[str]]:
    """Backends for the models of other servers, and the names of unsupported keys."""
    found = []
    lacking: set[str] = set()
    for name, peer in peers.items():
        if not isinstance(peer, dict):
            raise ValueError(f"peers: {name[:100]!r}: expected a table")
        held = ("proxy", "models", "apiKey")
        lacking.update(f"peers.*.{key}" for key in peer if key not in held and peer[key])
        try:
            address = forms.url(_text(peer, "proxy")) + "/v1"
            secret = keys.checked(_text(peer, "apiKey")) if peer.get("apiKey") else None
        except ValueError as error:
            raise ValueError(f"peers: {name[:100]!r}: {error}") from None
        found += [
            BackendConfig(
                name=f"{name}/{model}",
                url=address,
                model=model,
                aliases=(f"{name}/{model}",),
                kind="openai",
                api_key=secret,
            )
            for model in _list(peer, "models")
        ]
    return tuple(found), lacking


def _keys(general: Mapping[str, Any]) -> tuple[keys.Secret, ...]:
    try:
        return tuple(dict.fromkeys(keys.checked(key) for key in _list(general, "apiKeys")))
    except ValueError as error:
        raise ValueError(f"apiKeys: {error}") from None


def _environment(raw: object) -> dict[str, str]:
    if raw is None:
        return {}
    if not isinstance(raw, list) or not all(isinstance(one, str) and "=" in one for one in raw):
        raise ValueError("env: expected a list of texts like NAME=value")
    return dict(one.split("=", 1) for one in raw)


def _without_comments(command: str) -> str:
    lines = (line.strip() for line in command.splitlines())
    return "\n".join(line for line in lines if not line.startswith("#"))


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if isinstance(value, dict | list | bool):
        raise ValueError(f"{key}: expected a text")
    return "" if value is None else str(value)


def _number(table: Mapping[str, Any], key: str, default: float) -> float:
    value = table.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key}: expected a number")
    return float(value)


def _list(table: Mapping[str, Any], key: str) -> list[str]:
    value = table.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or any(isinstance(one, dict | list) for one in value):
        raise ValueError(f"{key}: expected a list of texts")
    return [str(one) for one in value]


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{key}: expected a table")
    return value
