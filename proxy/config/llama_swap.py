"""llama-swap's configuration, ``config.yaml``, as its example of August 2026 describes it; older
names of its keys are read too. Groups become what each model unloads (see `_together`), a matrix
what each runs beside.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any, TypeVar

import msgspec
import yaml
from msgspec import Meta, Struct, field, structs

from . import keys, macros, models, validators
from .models import LOOPBACK, PORT, PROTECTED, ImportedConfig
from .settings import BackendConfig

LEAST_START_TIMEOUT = 15.0  # seconds, as there
MOST = 100  # combinations of models of a set of a matrix
LEVELS = {"debug": "debug", "info": "info", "warn": "warning", "error": "error"}
# Without a meaning here: its own log, page and measurements; ports that are chosen anew for each
# start.
_MEANINGLESS = frozenset(
    """captureBuffer logTimeFormat logToStdout metricsMaxInMemory performance startPort store ui
    upstream""".split()
)
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

T = TypeVar("T")
Word = str | int | float  # where Go takes a text, it takes a number too


# The parts of the format that are read.


class _Filters(Struct, frozen=True, rename="camel"):
    strip_params: Word = ""
    older_strip_params: Word = field(default="", name="strip_params")
    set_params: dict[str, Any] = {}
    set_params_by_id: dict[str, dict[str, Any]] = field(default={}, name="setParamsByID")


class _Model(Struct, frozen=True, rename="camel"):
    cmd: Word = ""
    cmd_stop: Word = ""
    proxy: Word = ""
    check_endpoint: Word = ""
    use_model_name: Word = ""
    name: Word = ""
    description: Word = ""
    aliases: tuple[Word | dict[str, Word | bool], ...] = ()
    env: tuple[str, ...] = ()
    ttl: float = -1.0
    unload_timeout: float = 0.0
    concurrency_limit: int = 0
    unlisted: bool = False
    send_loading_state: bool | None = None  # None: as for all models
    filters: _Filters = _Filters()
    capabilities: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    macros: Any = None  # read before


class _Group(Struct, frozen=True):
    members: tuple[Word, ...] = ()
    persistent: bool = False
    swap: bool = True
    exclusive: bool = True


class _Peer(Struct, frozen=True, rename="camel"):
    proxy: Word = ""
    models: tuple[Word, ...] = ()
    api_key: Word = ""


class _Matrix(Struct, frozen=True):
    vars: dict[str, Word] = {}
    sets: dict[str, Annotated[str, Meta(max_length=1000)]] = {}


class _Groups(Struct, frozen=True):
    groups: dict[str, _Group] = {}
    matrix: _Matrix | None = None


class _Router(Struct, frozen=True):
    use: str = "group"
    settings: _Groups = _Groups()


class _Routing(Struct, frozen=True):
    router: _Router | None = None
    scheduler: dict[str, Any] = {}


class _General(_Groups, frozen=True, rename="camel"):
    api_keys: tuple[Word, ...] = ()
    global_ttl: float = field(default=0.0, name="globalTTL")
    health_check_timeout: float = 120.0
    unload_timeout: float = 10.0
    log_level: str = "info"
    include_aliases_in_list: bool = False
    send_loading_state: bool = False
    hooks: dict[str, dict[str, tuple[Word, ...]]] = {}
    peers: dict[str, _Peer] = {}
    routing: _Routing = _Routing()


class _Loader(yaml.SafeLoader):
    """Reads the core types of YAML 1.2, as programs in Go do: `on`, `12:30` and dates are texts."""


_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]{1,18}|0x[0-9a-fA-F]{1,15}|0o[0-7]{1,20}", list("-+0123456789")),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?", list("-+.0123456789")),
    "merge": (r"<<", ["<"]),
}
_Loader.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


def parse(text: str) -> Any:
    """The value of a YAML document, None for an empty one. Raises ValueError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{place}{error.problem or error.context}") from None
    # The errors of values that do not fit their tags have many types.
    except (yaml.YAMLError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"this is no YAML: {str(error).splitlines()[0]}") from None


def _converted(table: object, kind: type[T]) -> T:
    """A table as one of the structs above. What is empty counts as left out. Raises ValueError."""

    def pruned(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): pruned(item) for key, item in value.items() if item is not None}
        return [pruned(item) for item in value] if isinstance(value, list) else value

    return msgspec.convert(pruned(table), kind)


def _others(table: Mapping[str, Any], kind: type[Struct]) -> set[str]:
    """The keys of a table that are not read."""
    read = {field_.encode_name for field_ in structs.fields(kind)}
    return {str(key) for key, value in table.items() if value and key not in read}


def read(text: str, environ: Mapping[str, str]) -> ImportedConfig:
    """Read a configuration. Raises ValueError, whose message says where and what is wrong."""
    document = parse(text)
    if not isinstance(document, dict) or not isinstance(document.get("models"), dict):
        raise ValueError("models: expected a table of models")
    shared = macros.defined(document.pop("macros", None) or {})
    described = document.pop("models")
    filled = _filled(document, "", shared, environ)
    general = _converted(filled, _General)
    lacking = _others(document, _General) - _MEANINGLESS
    lacking |= {f"matrix.{key}" for key in _others(document.get("matrix") or {}, _Matrix)}
    tables = []
    for name, raw in described.items():
        with validators.naming(f"models: {str(name)[:100]!r}"):
            if not isinstance(raw, dict):
                raise ValueError("expected a table")
            table = _model(str(name), raw, general, shared, environ)
        lacking |= {f"models.*.{key}" for key in _others(raw, _Model) - _MEANINGLESS}
        if PORT in table["url"] and PORT not in f"{table['command']} {table['environment']}":
            lacking.add(f"models.{str(name)[:100]} without {PORT} in cmd, and without proxy")
            continue
        tables.append(table)
    for peer in (filled.get("peers") or {}).values():
        lacking |= {f"peers.*.{key}" for key in _others(peer or {}, _Peer)}
    if general.routing.scheduler.get("settings"):
        lacking.add("routing.scheduler")
    preload = {*map(str, general.hooks.get("on_startup", {}).get("preload", ()))}
    for table in tables:
        names = {table["name"], *table["aliases"]}
        table["preload"] = bool(names & preload)
        preload -= names
    lacking |= {f"hooks.on_startup.preload of the unknown model {name[:100]!r}" for name in preload}
    notes: list[str] = []
    limit, persistent = _together(tables, general, notes)
    if notes:
        notes[0] += "; set --memory, and what fits stays loaded"
    with validators.naming("models"):
        hosted = models.checked(tables)
    if general.log_level not in LEVELS:
        raise ValueError(f"logLevel: expected one of {', '.join(LEVELS)}")
    with validators.naming("apiKeys"):
        secrets = dict.fromkeys(keys.checked(str(key)) for key in general.api_keys)
    values: dict[str, Any] = {
        "model": hosted,
        "backend": _peers(general.peers),
        "api_key": tuple(secrets),
        "log_level": LEVELS[general.log_level] if document.get("logLevel") else "",
    }
    if lacking:
        notes.append(f"not supported and ignored: {', '.join(sorted(lacking))}")
    values = {name: value for name, value in values.items() if value}
    return ImportedConfig(values, notes, models_max=limit, persistent=persistent)


def _filled(
    table: dict[str, Any], name: str, own: Mapping[str, macros.Value], environ: Mapping[str, str]
) -> dict[str, Any]:
    """A table with its macros filled in, those of the model of this name. Raises ValueError."""
    filled: dict[str, Any] = macros.filled(table, macros.for_model(name, own, environ), environ)
    if unknown := macros.unknown(filled):
        raise ValueError(f"unknown macro ${{{unknown}}}")
    return filled


def _model(
    name: str,
    raw: dict[str, Any],
    general: _General,
    shared: Mapping[str, macros.Value],
    environ: Mapping[str, str],
) -> dict[str, Any]:
    own = macros.defined(raw.get("macros") or {}, shared)
    values = {key: value for key, value in raw.items() if key != "macros"}
    for key in ("cmd", "cmdStop"):
        lines = (line.strip() for line in str(values.get(key) or "").splitlines())
        values[key] = "\n".join(line for line in lines if not line.startswith("#"))
    macro_values = macros.for_model(name, own, environ)
    model = _converted(_filled(values, name, own, environ), _Model)
    command = str(model.cmd)
    if not command.strip():
        raise ValueError("cmd: expected a command")
    if not all("=" in pair for pair in model.env):
        raise ValueError("env: expected a list of texts like NAME=value")
    kind = _kind(command, model.use_model_name, model.capabilities.get("out") or ())
    filters = model.filters
    removed = str(filters.strip_params or filters.older_strip_params).split(",")
    by_alias = {
        str(macros.filled(alias, macro_values, environ)): _unprotected(fields)
        for alias, fields in filters.set_params_by_id.items()
    }
    ids = (alias.get("id", "") if isinstance(alias, dict) else alias for alias in model.aliases)
    aliases = dict.fromkeys([*map(str, ids), *by_alias])
    shows_load = model.send_loading_state
    return {
        "name": name,
        "command": command,
        "stop": str(model.cmd_stop),
        "environment": dict(pair.split("=", 1) for pair in model.env),
        "check": "" if model.check_endpoint in ("none", "/health") else str(model.check_endpoint),
        "url": str(model.proxy).rstrip("/").replace("http://localhost:", "http://127.0.0.1:")
        or LOOPBACK,
        "kind": kind,
        "server_model": "" if kind == "llamacpp" else str(model.use_model_name),
        "ttl": general.global_ttl if model.ttl == -1.0 else model.ttl,
        "start_timeout": max(LEAST_START_TIMEOUT, general.health_check_timeout),
        "stop_timeout": model.unload_timeout or general.unload_timeout or 10.0,
        "concurrency": model.concurrency_limit,
        "title": str(model.name),
        "description": str(model.description),
        "unlisted": model.unlisted,
        "metadata": model.metadata,
        "list_aliases": general.include_aliases_in_list,
        "loading_state": general.send_loading_state if shows_load is None else shows_load,
        "aliases": [alias for alias in aliases if alias != name],
        "strip": [*_unprotected({part.strip(): None for part in removed if part.strip()})],
        "set": _unprotected(filters.set_params),
        "set_by_alias": by_alias,
    }


def _unprotected(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in PROTECTED}


def _kind(command: str, server_model: Word, out: Sequence[Word]) -> str:
    """The kind of a server; `out` are what its model generates: text, audio, image."""
    if _HTTP.search(command) or (out and "text" not in out):
        return "http"
    if _OPENAI.search(command) or (server_model and "llama-server" not in command):
        return "openai"
    return "llamacpp"


def _together(
    tables: Sequence[dict[str, Any]], general: _General, notes: list[str]
) -> tuple[int, frozenset[str]]:
    """How many models may be loaded at once, 0 for any, and those that stay."""
    router = general.routing.router
    rules: _Groups = general if router is None else router.settings
    groups = rules.groups
    if rules.matrix is not None and (router is None or router.use == "matrix"):
        with validators.naming("matrix"):
            allowed = _combinations(rules.matrix)
        for table in tables:
            others = [names - {table["name"]} for names in allowed if table["name"] in names]
            table["beside"] = [sorted(names) for names in others] or [[]]  # in none: alone
        return 0, frozenset()
    if not groups:
        notes.append("one model is loaded at once, as in llama-swap without groups")
        return 1, frozenset()
    rest = _Group()  # of the models without a group
    of = {str(name): group for group in groups.values() for name in group.members}
    mine = {table["name"]: of.get(table["name"], rest) for table in tables}

    def unloads(first: _Group, other: _Group) -> bool:
        return first.swap if other is first else first.exclusive and not other.persistent

    for table in tables:
        name, group = table["name"], mine[table["name"]]
        table["unloads"] = [n for n in mine if n != name and unloads(group, mine[n])]
    return 0, frozenset(name for name, group in mine.items() if group.persistent)


def _combinations(matrix: _Matrix) -> list[frozenset[str]]:
    """The models that may be loaded together: its sets, which are expressions of names of `vars`
    and, behind a +, of other sets. Raises ValueError."""
    trees: dict[str, ast.AST] = {}

    def of(node: ast.AST) -> list[frozenset[str]]:
        sets: list[frozenset[str]] = []
        match node:
            case ast.Name(id=name) if name[1:] in matrix.vars:
                sets = [frozenset({str(matrix.vars[name[1:]])})]
            case ast.UnaryOp(op=ast.UAdd(), operand=ast.Name(id=name)) if name[1:] in trees:
                sets = of(trees[name[1:]])
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                sets = [*of(left), *of(right)]
            case ast.BinOp(left=left, op=ast.BitAnd(), right=right):
                sets = [first | second for first, second in product(of(left), of(right))]
        if not 0 < len(sets) <= MOST:
            raise ValueError(f"sets: expected names of vars, +SET, &, | and (), for {MOST} at most")
        return sets

    try:  # Python's grammar has the operators. Nothing is evaluated, and 4b becomes a name as _4b.
        for name, text in matrix.sets.items():
            trees[name] = ast.parse(re.sub(r"\w+", r"_\g<0>", text), mode="eval").body
        return [names for tree in trees.values() for names in of(tree)]
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"sets: an expression cannot be read ({error})") from None


def _peers(peers: Mapping[str, _Peer]) -> tuple[BackendConfig, ...]:
    """Backends for the models of other servers."""
    backends: list[BackendConfig] = []
    for name, peer in peers.items():
        with validators.naming(f"peers: {name[:100]!r}"):
            address = validators.url(str(peer.proxy)) + "/v1"
            secret = keys.checked(str(peer.api_key)) if peer.api_key else None
        for model in map(str, peer.models):
            own = f"{name}/{model}"
            more: dict[str, Any] = {
                "name": own,
                "aliases": (own,),
                "kind": "openai",
                "api_key": secret,
            }
            backends.append(BackendConfig(url=address, model=model, **more))
    return tuple(backends)
